"""Many inputs, one warm model, and no bad file that stops the rest.

The model works on one file at a time, on the thread that calls `BatchRun.run`. Beside it, on threads of their own, the
next files are opened and decoded as far as their queues go, and those that the model is done with empty their encoders
and get their names.
"""

import shlex
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from flashvsr_cli.batch.choice import Choice
from flashvsr_cli.batch.plan import check_place
from flashvsr_cli.batch.record import Entry, Record, Stamp, hash_content
from flashvsr_cli.batch.result import BatchListener, BatchResult, Failure, can_pass
from flashvsr_cli.errors import DeviceError, DeviceMemoryError, OutputError, as_known_error
from flashvsr_cli.interrupts import Monitor, held_back
from flashvsr_cli.jobs import Job, OpenJob
from flashvsr_cli.listener import Listener
from flashvsr_cli.options import Settings
from flashvsr_cli.report import Report
from flashvsr_cli.video.faults import output_error

if TYPE_CHECKING:
    from flashvsr_cli.pipeline import Upscaler

RETRY_AFTER_S = 2.0


@dataclass
class _Attempt:
    """One go at one file."""

    choice: Choice
    job: Job
    number: int = 1
    not_before: float = 0.0
    stamp: Stamp | None = None


@dataclass(frozen=True)
class BatchOptions:
    """How a batch runs.

    Attributes:
        folder: the output folder, which nothing leaves.
        n_jobs: files that are open at a time: one the model works on, the others being read ahead or finished.
        n_retries: how often a file is tried again after an error that can pass.
    """

    folder: Path
    n_jobs: int = 2
    n_retries: int = 1


@dataclass
class BatchRun:
    """Runs the files of a batch.

    Attributes:
        load: gives the model and how it computes; called when the first file is open, never if none can be opened.
        options: how the batch runs.
        listener: told how far it is.
        record: where results are remembered.
        settings_of: all that decides a job's result beside its input, for the record.
        results: what became of the files so far, as they ended.
    """

    load: Callable[[], tuple["Upscaler", Settings]]
    options: BatchOptions
    listener: BatchListener
    record: Record
    settings_of: Callable[[Job], dict[str, Any]]
    results: list[BatchResult] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._changed = Monitor()
        self._is_stopped = threading.Event()
        self._waiting: deque[_Attempt] = deque()
        self._ready: deque[tuple[_Attempt, OpenJob]] = deque()
        self._open_jobs: set[OpenJob] = set()
        self._n_busy = 0
        self._fault: BaseException | None = None
        self._record_failed = False

    def run(self, choices: Sequence[Choice]) -> None:
        """Run what is to be run, whatever becomes of each; returns when the last file has ended.

        After an exception, as from Ctrl-C, nothing unfinished is left behind and `results` has what is done.
        """
        self._waiting.extend(_Attempt(choice, choice.job) for choice in choices if choice.job is not None)
        # One thread opens, so that files come in order; as many as there may be finish.
        with ThreadPoolExecutor(1) as self._opener, ThreadPoolExecutor(self.options.n_jobs) as self._finisher:
            try:
                self._fill()
                ready = self._take_ready()
                if ready is not None:
                    self._upscaler, self._settings = self.load()
                    with self.listener.shown():
                        while ready is not None:
                            self._compute(*ready)
                            ready = self._take_ready()
            except BaseException as error:
                self._stop(error)
                raise

    def _fill(self) -> None:
        """Open files as long as there may be more."""
        with self._changed:
            while self._waiting and self._n_busy < self.options.n_jobs and not self._is_stopped.is_set():
                self._n_busy += 1
                self._submit(self._opener, self._open, self._waiting.popleft())
            self._changed.notify_all()

    def _submit(self, pool: ThreadPoolExecutor, step: Callable[..., None], *arguments: object) -> None:
        """A step on a thread of a pool; what goes wrong in it other than by a bad file is raised by `run`."""

        def work() -> None:
            try:
                step(*arguments)
            except BaseException as error:  # noqa: BLE001 - carried to the thread that runs the batch
                with self._changed:
                    self._fault = error
                    self._changed.notify_all()

        with held_back():  # a pool forgets a thread whose start is interrupted, and the process would wait for it
            pool.submit(work)

    def _take_ready(self) -> tuple[_Attempt, OpenJob] | None:
        """The next file that is open; None when all have ended."""
        with self._changed:
            self._changed.wait_for(lambda: self._ready or not self._n_busy or self._fault)
            if self._fault is not None:
                raise self._fault
            return self._ready.popleft() if self._ready else None

    def _open(self, attempt: _Attempt) -> None:
        self._is_stopped.wait(max(0.0, attempt.not_before - time.monotonic()))
        if self._is_stopped.is_set():
            return
        try:
            self._make_place(attempt)
            opened = OpenJob(attempt.job)
        except Exception as error:  # noqa: BLE001 - recorded and shown; one bad file does not stop the rest
            self._fail(attempt, error)
            return
        with self._changed:
            self._open_jobs.add(opened)
        self.listener.opened(attempt.job, opened.info)
        opened.read_ahead()
        with self._changed:
            self._ready.append((attempt, opened))
            self._changed.notify_all()

    def _make_place(self, attempt: _Attempt) -> None:
        item = attempt.choice.item
        check_place(item, self.options.folder)
        try:
            item.target.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise output_error(str(item.target.parent), error) from error
        # Taken before it is read: a file that changes meanwhile is another one next time.
        attempt.stamp = _stamp_of(item.source)

    def _compute(self, attempt: _Attempt, opened: OpenJob) -> None:
        listener = self.listener.file(attempt.job)
        try:
            opened.compute(self._upscaler, self._settings, listener, label=attempt.job.source)
        except Exception as error:  # noqa: BLE001 - as in `_open`
            self._close(opened)
            self._fail(attempt, error)
            return
        self._submit(self._finisher, self._finish, attempt, opened, listener)

    def _finish(self, attempt: _Attempt, opened: OpenJob, listener: Listener) -> None:
        try:
            report = opened.finish(self._upscaler, self._settings, listener)
        except Exception as error:  # noqa: BLE001 - as in `_open`
            if not self._is_stopped.is_set():
                self._close(opened)
                self._fail(attempt, error)
            return
        self._close(opened)
        self._end(attempt, "done", report=report)

    def _fail(self, attempt: _Attempt, error: Exception) -> None:
        known = as_known_error(error)
        is_lost = isinstance(known, DeviceError) and not isinstance(known, DeviceMemoryError)
        failure = Failure.of(known)
        if known is not error:  # a batch goes on, so that its own --debug has nothing to show
            source = shlex.quote(attempt.job.source)
            failure = replace(
                failure, next_step=f"Run `flashvsr --debug upscale {source} ...` to see where; report it."
            )
        if can_pass(error) and attempt.number <= self.options.n_retries:
            self.listener.retried(attempt.job, failure)
            later = _Attempt(
                attempt.choice, attempt.job, number=attempt.number + 1, not_before=time.monotonic() + RETRY_AFTER_S
            )
            with self._changed:
                # The others could not do without the device either.
                (self._waiting.appendleft if is_lost else self._waiting.append)(later)
                self._n_busy -= 1
            self._fill()
            return
        if is_lost:
            self.listener.notice("The device does not come back: the files that are left are not tried.")
            with self._changed:
                self._waiting.clear()
        self._end(attempt, "failed", failure=failure)

    def _end(
        self,
        attempt: _Attempt,
        state: Literal["done", "failed"],
        *,
        report: Report | None = None,
        failure: Failure | None = None,
    ) -> None:
        job = attempt.job
        result = BatchResult(
            job.source, job.target, state, report, failure, reason=attempt.choice.reason, n_attempts=attempt.number
        )
        with self._changed:
            self.results.append(result)
        self._remember(attempt, result)
        self.listener.ended(job, result)
        with self._changed:
            self._n_busy -= 1
        self._fill()

    def _remember(self, attempt: _Attempt, result: BatchResult) -> None:
        item, is_done = attempt.choice.item, result.state == "done"
        sha256 = None
        if is_done and attempt.stamp is not None:
            sha256 = self._hash(item.source, attempt.stamp)
        entry = Entry(
            result=self.record.key(item.target),
            state="done" if is_done else "failed",
            settings=self.settings_of(attempt.job) if is_done else {},
            source=attempt.stamp,
            sha256=sha256,
            output=_stamp_of(item.target) if is_done else None,
            error=result.failure.message if result.failure else None,
            n_attempts=attempt.number,
        )
        try:
            self.record.add(entry)
        except OutputError as error:
            if not self._record_failed:
                self._record_failed = True
                self.listener.notice(f"{error.message} What is not recorded is left alone by the next batch.")

    def _hash(self, path: Path, stamp: Stamp) -> str | None:
        """The input's hash; None if it cannot be had, or is no longer that of what was read."""
        try:
            sha256 = hash_content(path, self._is_stopped.is_set)
        except OSError:
            return None
        return sha256 if _stamp_of(path) == stamp else None

    def _close(self, opened: OpenJob, error: BaseException | None = None) -> None:
        with self._changed:
            self._open_jobs.discard(opened)
        opened.__exit__(type(error) if error else None, error, None)

    def _stop(self, error: BaseException) -> None:
        """End at once: outputs that are complete but for their name may still get it, the others are removed."""
        self._is_stopped.set()
        for opened in list(self._open_jobs):
            opened.interrupt()
        self._opener.shutdown(cancel_futures=True)
        self._finisher.shutdown(cancel_futures=True)
        for opened in list(self._open_jobs):
            self._close(opened, error)


def _stamp_of(path: Path) -> Stamp | None:
    try:
        return Stamp.of(path)
    except OSError:
        return None
