"""Many inputs, one warm model: what to do, and doing it without one bad file stopping the rest."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from flashvsr_cli.errors import FlashVSRError, InputError, UsageError, as_known_error
from flashvsr_cli.jobs import Job, OpenJob
from flashvsr_cli.listener import Listener
from flashvsr_cli.options import Settings
from flashvsr_cli.report import Report
from flashvsr_cli.video.encoding import MUXERS
from flashvsr_cli.video.formats import IMAGE_SUFFIXES, VIDEO_SUFFIXES

if TYPE_CHECKING:
    from flashvsr_cli.pipeline import Upscaler

WRITABLE_SUFFIXES = frozenset(f".{extension}" for extension in (*MUXERS, "y4m"))
FALLBACK_SUFFIX = ".mkv"
State = Literal["done", "skipped", "failed"]


@dataclass(frozen=True)
class BatchItem:
    """One file of a batch and where its result goes."""

    source: Path
    target: Path


@dataclass(frozen=True)
class BatchResult:
    """What became of one file.

    Attributes:
        job: what was asked.
        state: "done", "skipped" (the result was there already) or "failed".
        report: of a job that is done.
        error: why a job failed.
    """

    job: Job
    state: State
    report: Report | None = None
    error: FlashVSRError | None = None

    def to_json(self) -> dict[str, Any]:
        """For the `--report` file."""
        facts: dict[str, Any] = {"input": self.job.source, "output": self.job.target, "state": self.state}
        if self.report:
            facts["report"] = self.report.to_json()
        if self.error:
            facts |= {"error": self.error.message, "next_step": self.error.next_step}
        return facts


def plan_batch(source: Path, target: Path, *, recursive: bool, extension: str | None) -> list[BatchItem]:
    """The media files of a folder, sorted by name, each with its place in the mirrored tree below `target`.

    Results of an earlier run that lie below `source`, and hidden files, are left out. A video keeps its extension
    unless `extension` says otherwise or its container can be read only.

    Raises:
        InputError: there is nothing to do.
        UsageError: two inputs would become the same output, or source and target are the same folder.
    """
    here, there = source.resolve(), target.resolve()
    if here == there:
        raise UsageError("Input and output folder are the same.", "Choose another folder with -o.")
    claimed: dict[Path, Path] = {}
    for path in sorted(_media_files(source, recursive)):
        if there.is_relative_to(here) and path.resolve().is_relative_to(there):
            continue
        goal = target / path.relative_to(source).with_suffix(_result_suffix(path, extension))
        if goal in claimed:
            raise UsageError(
                f"{claimed[goal].name} and {path.name} would both become {goal}.", "Rename one, or omit --extension."
            )
        claimed[goal] = path
    if not claimed:
        more = "" if recursive else ", or add --recursive"
        raise InputError(f"{source} holds no video or picture.", f"Check the folder{more}.")
    return [BatchItem(path, goal) for goal, path in claimed.items()]


def _media_files(folder: Path, recursive: bool) -> Iterable[Path]:
    for path in folder.rglob("*") if recursive else folder.glob("*"):
        is_hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if not is_hidden and path.is_file() and path.suffix.lower() in VIDEO_SUFFIXES | IMAGE_SUFFIXES:
            yield path


def _result_suffix(path: Path, extension: str | None) -> str:
    if path.suffix.lower() not in VIDEO_SUFFIXES:
        return path.suffix
    if extension:
        return f".{extension.lstrip('.')}"
    return path.suffix if path.suffix.lower() in WRITABLE_SUFFIXES else FALLBACK_SUFFIX


def skip_done(jobs: Sequence[Job]) -> tuple[list[BatchResult], list[Job]]:
    """The results of jobs whose output is there already, and the jobs that remain."""
    is_done = {job: Path(job.target).is_file() and not job.overwrite for job in jobs}
    skipped = [BatchResult(job, "skipped") for job in jobs if is_done[job]]
    return skipped, [job for job in jobs if not is_done[job]]


def run_batch(
    upscaler: "Upscaler", jobs: Sequence[Job], settings: Settings, listener: Listener
) -> Iterator[BatchResult]:
    """Run jobs one after the other, whatever becomes of each."""
    for i_job, job in enumerate(jobs, 1):
        try:
            Path(job.target).parent.mkdir(parents=True, exist_ok=True)
            with OpenJob(job) as opened:
                label = f"{i_job}/{len(jobs)} {job.source}"
                report = opened.run(upscaler, settings, listener, label=label)
            yield BatchResult(job, "done", report=report)
        except Exception as error:  # noqa: BLE001 - recorded and shown; one bad file does not stop the rest
            known = as_known_error(error)
            listener.notice(f"{job.source} failed: {known.message}")
            yield BatchResult(job, "failed", error=known)
