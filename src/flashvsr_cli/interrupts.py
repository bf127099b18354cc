"""SIGINT, SIGTERM and SIGHUP become `InterruptError`, but never in the middle of what must be done whole."""

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, Self

from flashvsr_cli.errors import InterruptError

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
POLL_S = 0.05
RETRY_S = 0.02


class _Interrupts:
    """Python runs signal handlers on the main thread alone, so nothing here needs a lock."""

    def __init__(self) -> None:
        self.n_holds = 0
        self.pending: int | None = None
        self.lost: int | None = None
        self.is_leaving = False
        self.report_unraisable: Callable[[Any], object] | None = None

    def on_signal(self, number: int, _frame: FrameType | None) -> None:
        for known in SIGNALS:
            if signal.getsignal(known) == self.on_signal:
                # A second signal while things are being cleaned up ends the process at once. Not so SIGHUP: of a
                # terminal that is closed it may come twice, from the system and from the shell.
                signal.signal(known, signal.SIG_IGN if known == signal.SIGHUP else signal.SIG_DFL)
        self.deliver(number)

    def deliver(self, number: int) -> None:
        if self.n_holds or self.is_leaving:
            self.pending = number
        else:
            raise InterruptError(number)

    def on_unraisable(self, unraisable: Any) -> None:
        """Python calls this with an exception that it cannot raise, as in a finalizer or a callback from C."""
        if isinstance(unraisable.exc_value, InterruptError):
            self.lost = unraisable.exc_value.number
            signal.setitimer(signal.ITIMER_REAL, RETRY_S)
        elif self.report_unraisable is not None:
            self.report_unraisable(unraisable)

    def on_retry(self, _number: int, _frame: FrameType | None) -> None:
        number, self.lost = self.lost, None
        if number is not None:
            self.deliver(number)

    def release(self) -> None:
        self.n_holds -= 1
        if self.n_holds == 0 and self.pending is not None:
            number, self.pending = self.pending, None
            raise InterruptError(number)


_interrupts = _Interrupts()


def raise_on_signals() -> None:
    """From now on the first SIGINT, SIGTERM or SIGHUP raises `InterruptError` on the main thread.

    A signal that the process was told to ignore, as by nohup or a shell that starts a job in the background, stays
    ignored. Where Python cannot raise, in a finalizer for instance, or when the lock of an import is forgotten, it
    prints exceptions and goes on: an `InterruptError` that met such a place is raised again a little later. SIGALRM
    is used for that.
    """
    _interrupts.is_leaving = False
    if sys.unraisablehook != _interrupts.on_unraisable:
        _interrupts.report_unraisable = sys.unraisablehook
        sys.unraisablehook = _interrupts.on_unraisable
        signal.signal(signal.SIGALRM, _interrupts.on_retry)
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _interrupts.on_signal)


def let_signals_end() -> None:
    """From now on SIGINT, SIGTERM and SIGHUP end the process, as they do by default: there is nothing to clean up."""
    _interrupts.is_leaving = True  # nobody would catch an InterruptError any more
    for number in SIGNALS:
        if signal.getsignal(number) == _interrupts.on_signal:
            signal.signal(number, signal.SIG_DFL)
    if _interrupts.pending is not None:
        signal.raise_signal(_interrupts.pending)


@contextmanager
def held_back() -> Iterator[None]:
    """What a signal raises is raised at the end of the block instead, or of the outermost of such blocks.

    For a few statements that leave something behind unless all of them run, such as the start of a thread: one that
    is interrupted in `Thread.start` runs, but cannot be joined.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _interrupts.n_holds += 1
    try:
        yield
    finally:
        _interrupts.release()


def is_pending() -> bool:
    """Whether a signal is being held back: whoever waits for something there should give up."""
    return _interrupts.pending is not None


class Monitor:
    """A lock with a condition, as `threading.Condition`, that signals cannot leave in disorder.

    An exception from a signal handler may come between the taking of a `Condition`'s lock and the block that gives it
    back, or while `wait` has given it up. Here signals are held back within the block; a wait on the main thread ends
    when one comes.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            _interrupts.n_holds += 1
        self._changed.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._changed.release()
        if threading.current_thread() is threading.main_thread():
            _interrupts.release()

    def notify_all(self) -> None:
        """Wakes all who wait."""
        self._changed.notify_all()

    def wait_for(self, predicate: Callable[[], object]) -> None:
        """Waits until the predicate holds.

        Raises:
            InterruptError: a signal came, on the main thread.
        """
        if threading.current_thread() is not threading.main_thread():
            self._changed.wait_for(predicate)
            return
        while not predicate():
            if _interrupts.pending is not None:
                number, _interrupts.pending = _interrupts.pending, None
                raise InterruptError(number)
            self._changed.wait(POLL_S)
