"""For all tests: without a GPU, kernels run under Triton's interpreter; it is chosen before triton is imported."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import hypothesis
import pytest
import torch

from flashvsr_cli.interrupts import SIGNALS, raise_on_signals

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

# A busy machine must not fail a test: how long an example takes is no property of the code.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")

# A runner that was started in the background ignores SIGINT, and its children would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def handled_signals(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Signals are caught as the command line catches them."""
    before = {number: signal.getsignal(number) for number in (*SIGNALS, signal.SIGALRM)}
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    raise_on_signals()
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def serve() -> Iterator[Callable[..., int]]:
    """`serve(handler_type, **options)` answers HTTP on loopback until the test ends, and gives the port."""
    with ExitStack() as stack:

        def begin(handler_type: type[BaseHTTPRequestHandler], **options: Any) -> int:
            quiet_type = type("Quiet", (handler_type,), {"log_message": lambda *_: None})
            server = stack.enter_context(ThreadingHTTPServer(("127.0.0.1", 0), partial(quiet_type, **options)))
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
            thread.start()
            stack.callback(thread.join)
            stack.callback(server.shutdown)
            return server.server_port

        yield begin
