"""Runs the command with something happening at one stage: `python broken_run.py STAGE EVENT N COMMAND...`.

The stage's real function does its work; the event happens when it is called for the N-th time, before that work.
Events: a number is a signal sent to the process; "device", "memory" and "disk" are errors raised; "pipe" closes the
read end of stdout, which is file descriptor READ_END; "folder" removes the folder `out`.
"""

import errno
import os
import shutil
import sys
from collections.abc import Callable
from typing import Any

import torch

from flashvsr_cli import finish, jobs, startup
from flashvsr_cli.cli.app import main
from flashvsr_cli.model.lq_projection import LowResProjection
from flashvsr_cli.model.stream import Stream
from flashvsr_cli.video import container_writer, raw_writer
from flashvsr_cli.video.container_reader import ContainerSource

STAGES: dict[str, list[tuple[Any, str]]] = {
    "open": [(jobs, "open_source")],
    "load": [(startup, "load_and_tell")],
    "read": [(ContainerSource, "_to_frame")],
    "projection": [(LowResProjection, "features")],
    "transformer": [(Stream, "denoise")],
    "decoder": [(Stream, "decode")],
    "colour": [(finish, "fix_color")],
    "encode": [(container_writer.ContainerSink, "write"), (raw_writer.Y4mSink, "write")],
    "finalise": [(container_writer.ContainerSink, "commit"), (raw_writer.Y4mSink, "commit")],
}
DEVICE_TEXT = "CUDA error: unspecified launch failure"


def cause(event: str) -> None:
    if event.isdecimal():
        os.kill(os.getpid(), int(event))
    elif event == "device":
        raise getattr(torch, "AcceleratorError", RuntimeError)(DEVICE_TEXT)
    elif event == "memory":
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
    elif event == "disk":
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    elif event == "pipe":
        os.close(int(os.environ["READ_END"]))
    elif event == "folder":
        shutil.rmtree("out")
    else:
        raise ValueError(event)


def break_stage(stage: str, event: str, n_calls: int) -> None:
    n_made = 0

    def hooked(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            nonlocal n_made
            n_made += 1
            if n_made == n_calls:
                cause(event)
            return original(*args, **options)

        return call

    for owner, name in STAGES[stage]:
        setattr(owner, name, hooked(getattr(owner, name)))


if __name__ == "__main__":
    break_stage(sys.argv[1], sys.argv[2], int(sys.argv[3]))
    sys.argv[1:] = sys.argv[4:]
    main()
