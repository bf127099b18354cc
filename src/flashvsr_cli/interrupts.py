"""SIGINT, SIGTERM and SIGHUP become `InterruptError`, but never in the middle of what must be done whole."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from flashvsr_cli.errors import InterruptError

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class _Interrupts:
    """Python runs signal handlers on the main thread alone, so nothing here needs a lock."""

    def __init__(self) -> None:
        self.is_held_back = False
        self.pending: int | None = None

    def on_signal(self, number: int, _frame: FrameType | None) -> None:
        for known in SIGNALS:
            if signal.getsignal(known) == self.on_signal:
                # A second signal while things are being cleaned up ends the process at once. Not so SIGHUP: of a
                # terminal that is closed it may come twice, from the system and from the shell.
                signal.signal(known, signal.SIG_IGN if known == signal.SIGHUP else signal.SIG_DFL)
        if self.is_held_back:
            self.pending = number
        else:
            raise InterruptError(number)


_interrupts = _Interrupts()


def raise_on_signals() -> None:
    """From now on the first SIGINT, SIGTERM or SIGHUP raises `InterruptError` on the main thread.

    A signal that the process was told to ignore, as by nohup or a shell that starts a job in the background, stays
    ignored.
    """
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _interrupts.on_signal)


def let_signals_end() -> None:
    """From now on SIGINT, SIGTERM and SIGHUP end the process, as they do by default: there is nothing to clean up."""
    for number in SIGNALS:
        if signal.getsignal(number) == _interrupts.on_signal:
            signal.signal(number, signal.SIG_DFL)


@contextmanager
def held_back() -> Iterator[None]:
    """What a signal raises is raised at the end of the block instead; not to be nested.

    For a few statements that leave something behind unless all of them run, such as the start of a thread: one that
    is interrupted in `Thread.start` runs, but cannot be joined.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _interrupts.is_held_back = True
    try:
        yield
    finally:
        _interrupts.is_held_back = False
    number, _interrupts.pending = _interrupts.pending, None
    if number is not None:
        raise InterruptError(number)
