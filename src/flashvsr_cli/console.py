"""Everything people read, on stderr: progress, notices, errors, tables. stdout belongs to data."""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Column, Table
from rich.text import Text

from flashvsr_cli.listener import Listener
from flashvsr_cli.weights_check import OnProgress
from flashvsr_cli.weights_check import Progress as FetchProgress

LINE_EVERY_S = 10.0
UNBOUNDED_WIDTH = 10_000

_former: TextIO | None = sys.stderr  # None if the process was started without one; `repair_streams` makes it one
# Words are wrapped for people; logs and pipes get each message on one line.
stderr = Console(stderr=True, soft_wrap=_former is None or not _former.isatty())


def visible(text: str) -> str:
    """The text with everything escaped that is no visible character, so that no file's name can steer a terminal."""
    return "".join(c if c.isprintable() else _escaped(c) for c in text)


def _escaped(character: str) -> str:
    code = ord(character)
    # Python's stand-ins for the bytes of a name that are no UTF-8.
    is_byte = 0xDC80 <= code <= 0xDCFF
    return f"\\x{code - 0xDC00:02x}" if is_byte else character.encode("unicode_escape").decode()


def print_line(text: str) -> None:
    """A line for people."""
    stderr.print(visible(text), markup=False, highlight=False)


def print_error(message: str, next_step: str | None) -> None:
    """The sentence of an error and its next step."""
    stderr.print(Text.assemble(("error:", "bold red"), " ", visible(message)))
    if next_step:
        stderr.print(Text.assemble(("next:", "bold"), " ", visible(next_step)))


def print_table(table: Table, *, to_stderr: bool = False) -> None:
    """A table, on stdout unless it is about something done besides; where nobody looks it is as wide as it needs."""
    stream = sys.stderr if to_stderr else sys.stdout
    width = None if stream.isatty() or "COLUMNS" in os.environ else UNBOUNDED_WIDTH
    Console(stderr=to_stderr, width=width).print(table, highlight=False)


class QuietReporter:
    """Says nothing."""

    def start(self, label: str, n_frames: int | None) -> None:
        """Nothing."""

    def stage(self, text: str) -> None:
        """Nothing."""

    def advance(self, n_frames: int) -> None:
        """Nothing."""

    def skip(self, n_frames: int) -> None:
        """Nothing."""

    def notice(self, text: str) -> None:
        """Nothing."""


class LineReporter:
    """A plain line now and then, for logs and pipes."""

    def __init__(self) -> None:
        self._label = ""
        self._n_total: int | None = None
        self._n_done = self._n_skipped = 0
        self._started = self._printed = time.monotonic()

    def start(self, label: str, n_frames: int | None) -> None:
        """Remember what the following lines are about."""
        self._label, self._n_total, self._n_done, self._n_skipped = label, n_frames, 0, 0
        self._started = self._printed = time.monotonic()

    def stage(self, text: str) -> None:
        """A line per stage."""
        print_line(f"{text} {self._label}".rstrip())

    def advance(self, n_frames: int) -> None:
        """A line every few seconds."""
        self._n_done += n_frames
        now = time.monotonic()
        if now - self._printed < LINE_EVERY_S and self._n_done != self._n_total:
            return
        self._printed = now
        fps = (self._n_done - self._n_skipped) / max(now - self._started, 1e-9)
        total = f"/{self._n_total}" if self._n_total else ""
        remaining = ""
        if self._n_total and fps:
            remaining = f", {(self._n_total - self._n_done) / fps:.0f} s left"
        print_line(f"frame {self._n_done}{total}, {fps:.2f} fps{remaining}")

    def skip(self, n_frames: int) -> None:
        """The rate begins behind them."""
        self._n_done += n_frames
        self._n_skipped += n_frames
        self._started = time.monotonic()

    def notice(self, text: str) -> None:
        """A line."""
        print_line(f"note: {text}")


class _FpsColumn(ProgressColumn):
    """Frames per second since the job began to compute."""

    def render(self, task: Task) -> Text:
        elapsed, n_computed = task.elapsed or 0.0, task.completed - task.fields["n_skipped"]
        return Text(f"{n_computed / elapsed:.2f} fps" if elapsed and n_computed else "- fps")


class BarReporter:
    """A live bar: stage, frames, rate, time left."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._n_skipped = 0
        self._task = progress.add_task("starting", total=None, label="", n_skipped=0)

    def start(self, label: str, n_frames: int | None) -> None:
        """A new bar takes the place of the old one."""
        self._progress.remove_task(self._task)
        self._n_skipped = 0
        self._task = self._progress.add_task("upscaling", total=n_frames, label=escape(visible(label)), n_skipped=0)

    def stage(self, text: str) -> None:
        """Shown in front of the bar."""
        self._progress.update(self._task, description=text)

    def advance(self, n_frames: int) -> None:
        """Move the bar."""
        self._progress.advance(self._task, n_frames)

    def skip(self, n_frames: int) -> None:
        """Move the bar; rate and time left begin behind it."""
        self._n_skipped += n_frames
        self._progress.reset(self._task, completed=self._n_skipped, n_skipped=self._n_skipped)

    def notice(self, text: str) -> None:
        """A line above the bar."""
        self._progress.console.print(f"note: {visible(text)}", markup=False, highlight=False)


@contextmanager
def reporting(*, quiet: bool) -> Iterator[Listener]:
    """The reporter that fits stderr: a live bar on a terminal, lines elsewhere, nothing if `quiet`."""
    if quiet:
        yield QuietReporter()
    elif not stderr.is_terminal:
        yield LineReporter()
    else:
        columns = (
            TextColumn("{task.description:<10}"),
            TextColumn("[bold]{task.fields[label]}", table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1)),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            _FpsColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=stderr, transient=True, expand=True) as progress:
            yield BarReporter(progress)


@contextmanager
def fetching(*, quiet: bool, console: Console = stderr) -> Iterator[OnProgress | None]:
    """Shows downloads and hashing: bars on a terminal, a line now and then elsewhere, nothing if `quiet`."""
    if quiet:
        yield None
    elif not console.is_terminal:
        yield _line_printer(console)
    else:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=console) as bars:
            tasks: dict[tuple[str, str], TaskID] = {}

            def on_progress(progress: FetchProgress) -> None:
                key = (progress.stage, progress.file_name)
                if key not in tasks:
                    description = (
                        f"{progress.stage} {escape(progress.file_name)} ({progress.i_file + 1}/{progress.n_files})"
                    )
                    tasks[key] = bars.add_task(description)
                bars.update(tasks[key], completed=progress.n_done, total=progress.n_total)

            yield on_progress


def _line_printer(console: Console) -> OnProgress:
    printed: dict[tuple[str, str], float] = {}

    def on_progress(progress: FetchProgress) -> None:
        key, now = (progress.stage, progress.file_name), time.monotonic()
        is_last = progress.n_done >= progress.n_total
        if key in printed and now - printed[key] < LINE_EVERY_S and not is_last:
            return
        printed[key] = now
        done, total = progress.n_done / 1e6, progress.n_total / 1e6
        console.print(
            f"{progress.stage} {progress.file_name}: {done:.1f}/{total:.1f} MB", markup=False, highlight=False
        )

    return on_progress
