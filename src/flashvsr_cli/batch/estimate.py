"""How far a batch is: frames, speed, and the time left as far as the lengths of its files are known."""

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from flashvsr_cli.interrupts import held_back
from flashvsr_cli.jobs import Job
from flashvsr_cli.options import InputOptions
from flashvsr_cli.schedule import count_chunks
from flashvsr_cli.video.cut import count_within, is_cut
from flashvsr_cli.video.formats import IMAGE_SUFFIXES
from flashvsr_cli.video.opening import count_frames, open_container, pick_stream, stated_duration


@dataclass
class _File:
    """What is known of a file that has not ended."""

    n_frames: int | None = None
    n_pixels: int | None = None
    n_done: int = 0

    @property
    def work(self) -> float | None:
        """What it costs: pixels times chunks, since a single picture costs a whole chunk."""
        if not self.n_frames or not self.n_pixels:
            return None
        return float(count_chunks(self.n_frames) * self.n_pixels)

    @property
    def work_done(self) -> float:
        return 0.0 if self.work is None else self.work * min(1.0, self.n_done / (self.n_frames or 1))


@dataclass(frozen=True)
class TimeLeft:
    """How long a batch still takes.

    Attributes:
        seconds: of the files whose length is known; None while nothing is known.
        is_least: whether there are files whose length is not known.
    """

    seconds: float | None
    is_least: bool

    def __str__(self) -> str:
        if self.seconds is None:
            return "?"
        minutes, seconds = divmod(round(self.seconds), 60)
        hours, minutes = divmod(minutes, 60)
        return f"{'over ' if self.is_least else ''}{hours}:{minutes:02d}:{seconds:02d}"


class Estimate:
    """The state of a batch's files. May be used from any thread.

    Args:
        names: what the files are called, the targets of their jobs.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._lock = threading.Lock()
        self._files = {name: _File() for name in names}
        self._started: float | None = None
        self._work_ended = 0.0
        self._frames_ended = 0

    def learn(self, name: str, n_frames: int | None, size: tuple[int, int]) -> None:
        """How long and large an input is; nothing is unlearnt."""
        with self._lock:
            file = self._files.get(name)
            if file is not None:
                file.n_frames = n_frames or file.n_frames
                file.n_pixels = size[0] * size[1]

    def begin(self, name: str) -> None:
        """The model begins with a file, perhaps once more."""
        with self._lock:
            self._started = self._started or time.monotonic()
            self._files[name].n_done = 0

    def advance(self, name: str, n_frames: int) -> None:
        """So many more frames of a file were computed."""
        with self._lock:
            self._files[name].n_done += n_frames

    def skip(self, name: str, n_frames: int) -> None:
        """So many frames of a file need not be computed."""
        with self._lock:
            file = self._files[name]
            file.n_frames = file.n_frames and max(1, file.n_frames - n_frames)

    def end(self, name: str) -> None:
        """A file is done or has failed: it was so long as it was."""
        with self._lock:
            file = self._files.pop(name, None)
            if file is not None:
                file.n_frames = file.n_done or file.n_frames
                self._work_ended += file.work_done
                self._frames_ended += file.n_done

    @property
    def n_left(self) -> int:
        """Files that have not ended."""
        with self._lock:
            return len(self._files)

    @property
    def n_frames(self) -> int:
        """Frames computed so far."""
        with self._lock:
            return self._frames_ended + sum(file.n_done for file in self._files.values())

    @property
    def fps(self) -> float | None:
        """Frames per second of the whole batch since the model began; None before the first."""
        elapsed = self._elapsed_s()
        return self.n_frames / elapsed if elapsed and self.n_frames else None

    def time_left(self) -> TimeLeft:
        """By the pixels and chunks computed so far, and those of the files that are left."""
        elapsed = self._elapsed_s()
        with self._lock:
            done = self._work_ended + sum(file.work_done for file in self._files.values())
            known = [file.work - file.work_done for file in self._files.values() if file.work is not None]
            is_least = len(known) < len(self._files)
        if not done or not elapsed or (is_least and not known):
            return TimeLeft(None, is_least)
        return TimeLeft(sum(known) * elapsed / done, is_least)

    def _elapsed_s(self) -> float:
        return 0.0 if self._started is None else max(1e-9, time.monotonic() - self._started)


@contextmanager
def probing(jobs: Sequence[Job], estimate: Estimate) -> Iterator[None]:
    """Look at the headers of all inputs, meanwhile, on a thread of its own."""
    is_over = threading.Event()

    def look() -> None:
        for job in jobs:
            if is_over.is_set():
                return
            facts = probe(job.source, job.input)
            if facts is not None:
                estimate.learn(job.target, *facts)

    thread = threading.Thread(target=look, name="flashvsr-probe", daemon=True)
    try:
        with held_back():
            thread.start()
        yield
    finally:
        is_over.set()
        if thread.ident is not None:
            thread.join()


def probe(location: str, options: InputOptions) -> tuple[int | None, tuple[int, int]] | None:
    """Frames and (height, width) as a file's header states them; None if it states nothing that can be read."""
    path = Path(location)
    try:
        with open_container(location, path.absolute(), options) as container:
            stream = pick_stream(location, container, options, [])
            size = stream.codec_context.height, stream.codec_context.width
            if path.suffix.lower() in IMAGE_SUFFIXES:
                return 1, size
            rate = stream.average_rate or stream.guessed_rate
            n_frames, _ = count_frames(stream, container, stated_duration(stream, container), rate and Fraction(rate))
            if is_cut(options):
                n_frames, _ = count_within(options, n_frames, rate and Fraction(rate))
            return n_frames, size
    except Exception:  # noqa: BLE001 - a file that is bad says so when it is opened; an estimate is not worth more
        return None
