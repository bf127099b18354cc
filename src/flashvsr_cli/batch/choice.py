"""Which files of a batch are made, which are left as they are, and why."""

import json
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from flashvsr_cli.batch.plan import BatchItem
from flashvsr_cli.batch.record import Entry, Record, Stamp, hash_content
from flashvsr_cli.errors import OutputError
from flashvsr_cli.jobs import Job
from flashvsr_cli.options import ModelOptions, Settings
from flashvsr_cli.resume import find_difference
from flashvsr_cli.video.formats import IMAGE_SUFFIXES
from flashvsr_cli.weights import Checkpoint

NOT_OURS = "It was there already and no batch made it: left alone; --overwrite replaces it."
TOUCHED = "It has changed since a batch made it: left alone; --overwrite replaces it."
# What only refuses a file changes no result.
LIMITS = ("max_pixels",)


@dataclass(frozen=True)
class Choice:
    """What is done about one file.

    Attributes:
        item: the file.
        job: what to run; None if the result is left as it is.
        reason: why, if that is not plain: the result is left alone though it may be another, or is made again.
    """

    item: BatchItem
    job: Job | None
    reason: str | None = None


def model_facts(checkpoint: Checkpoint, options: ModelOptions, settings: Settings) -> dict[str, Any]:
    """What a model does to the pictures, as a JSON object; where it is computed is no part of it.

    Args:
        checkpoint: its files.
        options: how they are used.
        settings: the model's own with those the user gave.
    """
    return {
        "settings": asdict(settings),
        "model": {
            "sha256": sorted(set(checkpoint.sha256().values())),
            "version": checkpoint.version,
            "decoder": options.decoder,
            "precision": "fp8" if options.fp8 else options.dtype or "auto",
        },
    }


def settings_of(job: Job, model: dict[str, Any]) -> dict[str, Any]:
    """All that decides a job's result beside the content of its input, as a JSON object; `model` is `model_facts`."""
    facts: dict[str, Any] = {"scale": job.scale, **model}
    if Path(job.target).suffix.lower() not in IMAGE_SUFFIXES:
        for name, options in (("input", asdict(job.input)), ("encode", asdict(job.encode))):
            facts[name] = {key: value for key, value in options.items() if key not in LIMITS}
    plain: dict[str, Any] = json.loads(json.dumps(facts, default=str))
    return plain


@dataclass(frozen=True)
class Chooser:
    """Decides file by file.

    Attributes:
        record: of the output folder.
        model: gives `model_facts` when a result has to be compared; a checkpoint may have to be fetched for it.
        overwrite: everything is made, whatever is there.
        redo: what a batch made is made again, even by the same settings.
        tell: told what takes its time.
    """

    record: Record
    model: Callable[[], dict[str, Any]]
    overwrite: bool = False
    redo: bool = False
    tell: Callable[[str], None] = lambda _: None

    def choose(self, item: BatchItem, job: Job) -> Choice:
        """What to do about one file; `job` is what would be run.

        A result that is there is left alone unless this tool made it, it is as it was made, and its input or its
        settings have changed since.

        Raises:
            WeightsError: results are to be compared, but there is no such model.
        """
        if self.overwrite:
            return Choice(item, replace(job, overwrite=True))
        try:
            there = Stamp.of(item.target)
        except OSError:
            return Choice(item, job)
        made = self.record.made.get(self.record.key(item.target))
        if made is None:
            return Choice(item, None, NOT_OURS)
        if made.output != there:
            return Choice(item, None, TOUCHED)
        reason = "It is made again, as asked." if self.redo else self._find_change(item, job, made)
        return Choice(item, replace(job, overwrite=True), reason) if reason else Choice(item, None)

    def _find_change(self, item: BatchItem, job: Job, made: Entry) -> str | None:
        """Why a result is no longer what would be made now."""
        now_asked = settings_of(job, self.model())
        if made.settings.get("model", {}).get("sha256") != now_asked["model"]["sha256"]:
            return "It is made again: the model is another."
        difference = find_difference(made.settings, now_asked)
        if difference:
            return f"It is made again: {difference}."
        try:
            now = Stamp.of(item.source)
            if made.source == now:
                return None
            if made.sha256 and made.source and made.source.n_bytes == now.n_bytes:
                self.tell(f"Reading {item.source}, whose time has changed, to see whether its content has.")
                if hash_content(item.source) == made.sha256:
                    with suppress(OutputError):  # it only saves reading the input next time
                        self.record.add(replace(made, source=now))
                    return None
        except OSError:
            pass  # an input that cannot be read fails when it is opened, with a sentence
        return "It is made again: its input has changed."


def failed_last_time(items: Iterable[BatchItem], record: Record) -> list[BatchItem]:
    """The files that the record says failed when they were last tried."""

    def has_failed(item: BatchItem) -> bool:
        last = record.last.get(record.key(item.target))
        return last is not None and last.state == "failed"

    return [item for item in items if has_failed(item)]
