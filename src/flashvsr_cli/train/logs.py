"""What a run leaves to read: lines on stderr, log.jsonl, and TensorBoard's event files where it is installed."""

import json
import logging
import time
from pathlib import Path
from typing import Any

log = logging.getLogger("flashvsr_cli.train")


class RunLog:
    """The log of one run; silent on every process but the first."""

    def __init__(self, folder: Path, *, is_first: bool) -> None:
        self._is_first = is_first
        self._start = time.monotonic()
        self._board: Any = None
        if not is_first:
            return
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / "log.jsonl"
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            self.say("No TensorBoard logs, because the tensorboard package is missing; log.jsonl has everything.")
        else:
            self._board = SummaryWriter(str(folder / "tensorboard"))

    def say(self, sentence: str) -> None:
        """A sentence for people and for the log."""
        if self._is_first:
            log.info(sentence)
            self._write({"note": sentence})

    def numbers(self, step: int, values: dict[str, float]) -> None:
        """Figures of a step."""
        if not self._is_first:
            return
        text = " ".join(f"{name} {value:.4g}" for name, value in values.items())
        log.info("step %d: %s", step, text)
        self._write({"step": step, **{name: round(value, 6) for name, value in values.items()}})
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(name, value, step)

    def close(self) -> None:
        """Finish the event files."""
        if self._board is not None:
            self._board.close()

    def _write(self, record: dict[str, Any]) -> None:
        elapsed = round(time.monotonic() - self._start, 2)
        with self._path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({"seconds": elapsed, **record}) + "\n")
