"""Signals that come where nothing may be raised."""

import signal
import sys
import threading
import time

import pytest

from flashvsr_cli.errors import InterruptError
from flashvsr_cli.interrupts import Monitor, held_back, is_pending, raise_on_signals


def test_errors_pass_through_where_signals_are_held_back():
    with held_back():
        pass
    with pytest.raises(ZeroDivisionError), held_back():
        raise ZeroDivisionError


@pytest.mark.usefixtures("handled_signals")
def test_the_outermost_block_raises_what_was_held_back():
    n_passed = 0
    with pytest.raises(InterruptError), held_back():  # noqa: PT012 - what is tested is where it is raised
        with held_back():
            signal.raise_signal(signal.SIGINT)
            assert is_pending()
        n_passed += 1
    assert n_passed == 1
    assert not is_pending()


@pytest.mark.usefixtures("handled_signals")
def test_a_signal_that_met_a_finalizer_is_raised_again():
    """Python prints what a finalizer raises, and goes on."""

    class Finalized:
        def __del__(self):
            signal.raise_signal(signal.SIGINT)

    raise_on_signals()  # pytest has put its own hook in the place of ours
    things = [Finalized()]
    with pytest.raises(InterruptError):  # noqa: PT012
        things.clear()
        assert not things
        time.sleep(10)


@pytest.mark.usefixtures("handled_signals")
def test_other_errors_of_finalizers_are_reported(monkeypatch):
    class Finalized:
        def __del__(self):
            raise ZeroDivisionError

    reported = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: reported.append(unraisable.exc_type))
    raise_on_signals()
    things = [Finalized()]
    things.clear()
    assert reported == [ZeroDivisionError]


@pytest.mark.usefixtures("handled_signals")
def test_a_signal_ends_a_wait_and_leaves_the_lock():
    monitor = Monitor()
    threading.Timer(0.1, signal.pthread_kill, (threading.main_thread().ident, signal.SIGINT)).start()
    with pytest.raises(InterruptError), monitor:
        monitor.wait_for(lambda: False)
    entered = []

    def enter():
        with monitor:
            entered.append(True)

    thread = threading.Thread(target=enter, daemon=True)
    thread.start()
    thread.join(5)
    assert entered
