"""How a batch is shown while it runs: a live table on a terminal, lines elsewhere, nothing if quiet."""

import threading
import time
from contextlib import AbstractContextManager, nullcontext

from rich.console import Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from flashvsr_cli.batch.estimate import Estimate
from flashvsr_cli.batch.result import BatchListener, BatchResult, Failure
from flashvsr_cli.console import LINE_EVERY_S, QuietReporter, print_line, stderr, visible
from flashvsr_cli.jobs import Job
from flashvsr_cli.listener import Listener
from flashvsr_cli.video.info import SourceInfo

REFRESH_PER_S = 4
# A terminal echoes ^C behind the last line; in a full line it would wrap and shift the table.
ECHO_WIDTH = 3


class _FileReporter:
    """One file of a batch, for the table and for lines alike."""

    def __init__(self, batch: "BatchReporter", job: Job) -> None:
        self._batch = batch
        self.job = job
        self.text = "waiting"
        self.n_total: int | None = None
        self.n_done = self.n_skipped = 0
        self.started = self.printed = time.monotonic()

    def start(self, label: str, n_frames: int | None) -> None:  # noqa: ARG002 - the job has the name
        """The model begins with the file."""
        self.n_total, self.n_done, self.n_skipped = n_frames, 0, 0
        self.started = self.printed = time.monotonic()
        self._batch.estimate.begin(self.job.target)

    def stage(self, text: str) -> None:
        """What is done with the file now."""
        self.text = text
        self._batch.show_stage(self)

    def advance(self, n_frames: int) -> None:
        """So many more frames."""
        self.n_done += n_frames
        self._batch.estimate.advance(self.job.target, n_frames)
        self._batch.show_frames(self)

    def skip(self, n_frames: int) -> None:
        """So many more that an earlier run has; the rate begins behind them."""
        self.n_done += n_frames
        self.n_skipped += n_frames
        self.started = time.monotonic()
        self._batch.estimate.skip(self.job.target, n_frames)

    def notice(self, text: str) -> None:
        """Something about this file."""
        self._batch.notice(_of_file(self.job.source, text))

    @property
    def fps(self) -> float:
        """Frames per second since the model began with it."""
        return (self.n_done - self.n_skipped) / max(1e-9, time.monotonic() - self.started)


class BatchReporter:
    """Lines: when a file begins and ends, and now and then between.

    Args:
        estimate: how far the batch is; kept up to date here.
        n_total: files to be done.
    """

    def __init__(self, estimate: Estimate, n_total: int) -> None:
        self.estimate = estimate
        self.n_total = n_total
        self.counts = {"done": 0, "failed": 0}
        self.running: dict[str, _FileReporter] = {}
        self.lock = threading.RLock()

    def opened(self, job: Job, info: SourceInfo) -> None:
        """A file's length and size are known."""
        self.estimate.learn(job.target, info.n_frames, info.size)

    def file(self, job: Job) -> Listener:
        """Who is told about one file."""
        with self.lock:
            reporter = self.running[job.target] = _FileReporter(self, job)
        return reporter

    def ended(self, job: Job, result: BatchResult) -> None:
        """Counts, and says it."""
        self.estimate.end(job.target)
        with self.lock:
            self.running.pop(job.target, None)
            self.counts[result.state] += 1
        self.show_end(result)  # outside the lock: printing waits for the table, which waits for the lock

    def retried(self, job: Job, failure: Failure) -> None:
        """A line; the file waits again."""
        with self.lock:
            self.running.pop(job.target, None)
        self.notice(f"{_of_file(job.source, failure.message)} It will be tried again.")

    def notice(self, text: str) -> None:
        """A line."""
        print_line(f"note: {text}")

    def shown(self) -> AbstractContextManager[object]:
        """Nothing but lines."""
        return nullcontext()

    def show_stage(self, file: _FileReporter) -> None:
        """A line per stage."""
        print_line(f"{file.text} {file.job.source}")

    def show_frames(self, file: _FileReporter) -> None:
        """A line every few seconds."""
        now = time.monotonic()
        if now - file.printed >= LINE_EVERY_S:
            file.printed = now
            total = f"/{file.n_total}" if file.n_total else ""
            print_line(f"frame {file.n_done}{total} of {file.job.source}, {file.fps:.2f} fps ({self._left()})")

    def show_end(self, result: BatchResult) -> None:
        """A line per file."""
        n_ended = sum(self.counts.values())
        if result.report:
            what = f"{result.source}, {result.report.counted_frames} at {result.report.fps:.2f} fps"
        else:
            what = _of_file(result.source, result.failure.message if result.failure else "").rstrip(".")
        print_line(f"{n_ended}/{self.n_total} {result.state}: {what} ({self._left()})")

    def _left(self) -> str:
        n_left = self.estimate.n_left
        return f"{n_left} left, {self.estimate.time_left()} to go" if n_left else "none left"


class LiveReporter(BatchReporter):
    """A table that follows: counts, frames, speed and time left of the whole batch, and the files in work with bars."""

    def shown(self) -> AbstractContextManager[object]:
        """The table is there, and gone afterwards."""
        return Live(get_renderable=self.render, console=stderr, refresh_per_second=REFRESH_PER_S, transient=True)

    def show_stage(self, file: _FileReporter) -> None:
        """The table shows it."""

    def show_frames(self, file: _FileReporter) -> None:
        """The table shows it."""

    def show_end(self, result: BatchResult) -> None:
        """A failure is said at once, above the table."""
        if result.failure:
            text = Text.assemble(("failed:", "red"), " ", visible(_of_file(result.source, result.failure.message)))
            stderr.print(text, highlight=False)

    def render(self) -> Group:
        """The table as it is now."""
        with self.lock:
            files = list(self.running.values())
            return Group(self._render_totals(len(files)), _render_files(files))

    def _render_totals(self, n_running: int) -> Table:
        estimate, fps = self.estimate, self.estimate.fps
        cells = {
            "done": Text(str(self.counts["done"]), "green"),
            "running": Text(str(n_running)),
            "failed": Text(str(self.counts["failed"]), "red" if self.counts["failed"] else ""),
            "left": Text(str(max(0, estimate.n_left - n_running))),
            "frames": Text(f"{estimate.n_frames:,}"),
            "fps": Text(f"{fps:.2f}" if fps else "-"),
            "time left": Text(str(estimate.time_left())),
        }
        table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="dim")
        for name in cells:
            table.add_column(name, justify="right", no_wrap=True)
        table.add_row(*cells.values())
        return table


def _of_file(name: str, text: str) -> str:
    """A sentence about a file that says which."""
    return text if name in text else f"{name}: {text}"


def _render_files(files: list[_FileReporter]) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False, width=max(1, stderr.width - ECHO_WIDTH))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True, overflow="ellipsis", ratio=2)
    table.add_column(no_wrap=True, ratio=1)
    table.add_column(no_wrap=True, justify="right")
    table.add_column(no_wrap=True, justify="right")
    for file in files:
        total = file.n_total
        bar = ProgressBar(total=total, completed=file.n_done, pulse=not total)
        table.add_row(
            file.text,
            Text(visible(file.job.source), "bold"),
            bar,
            f"{file.n_done}/{total or '?'}",
            f"{file.fps:.2f} fps" if file.n_done and file.text == "upscaling" else "",
        )
    return table


class QuietBatch:
    """Says nothing."""

    def opened(self, job: Job, info: SourceInfo) -> None:
        """Nothing."""

    def file(self, job: Job) -> Listener:  # noqa: ARG002
        """Nobody who says anything."""
        return QuietReporter()

    def ended(self, job: Job, result: BatchResult) -> None:
        """Nothing."""

    def retried(self, job: Job, failure: Failure) -> None:
        """Nothing."""

    def notice(self, text: str) -> None:
        """Nothing."""

    def shown(self) -> AbstractContextManager[object]:
        """Nothing."""
        return nullcontext()


def batch_reporter(estimate: Estimate, *, quiet: bool) -> BatchListener:
    """The reporter that fits stderr: a live table on a terminal, lines elsewhere, nothing if `quiet`."""
    if quiet:
        return QuietBatch()
    return (LiveReporter if stderr.is_terminal else BatchReporter)(estimate, estimate.n_left)
