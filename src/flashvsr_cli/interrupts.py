"""SIGINT and SIGTERM become `InterruptError`, but never in the middle of what must be done whole."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from flashvsr_cli.errors import InterruptError


class _Interrupts:
    """Python runs signal handlers on the main thread alone, so nothing here needs a lock."""

    def __init__(self) -> None:
        self.is_held_back = False
        self.pending: int | None = None

    def on_signal(self, number: int, _frame: FrameType | None) -> None:
        # A second signal while things are being cleaned up ends the process at once.
        signal.signal(number, signal.SIG_DFL)
        if self.is_held_back:
            self.pending = number
        else:
            raise InterruptError(number)


_interrupts = _Interrupts()


def raise_on_signals() -> None:
    """From now on the first SIGINT or SIGTERM raises `InterruptError` on the main thread."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupts.on_signal)


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
