"""Ctrl-C at every place of the main thread at which Python looks for signals.

    python tests/faults/signal_sweep.py {video,pipe,resume,pictures,batch} [--every N]

The model is loaded once. A first fork of the process runs the command, and a tracer writes down the places: after a
call, at the begin of a function, at the end of a loop's round. For each of them, or every N-th, another fork runs the
command, gets SIGINT there, and has to end soon, with 130, and without an unfinished file or a traceback. If the output
had its name already, it may also end well.
"""

import argparse
import json
import opcode
import os
import select
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import av
import numpy as np
import torch

from flashvsr_cli import jobs, pipeline, report, resume_sink, startup  # noqa: F401 - loaded before the forks
from flashvsr_cli.__main__ import main
from flashvsr_cli.batch import run  # noqa: F401
from flashvsr_cli.options import ModelOptions
from flashvsr_cli.video import targets

MINI = Path(__file__).resolve().parent.parent / "golden" / "mini"
SIZE = (24, 32)
N_FRAMES = 12
# Where CPython 3.11 to 3.13 calls signal handlers: behind these instructions.
RESUME = opcode.opmap["RESUME"]
CHECKS = {
    opcode.opmap[name]
    for name in ("RESUME", "CALL", "CALL_KW", "CALL_FUNCTION_EX", "JUMP_BACKWARD")
    if name in opcode.opmap
}
TRACED = ("/flashvsr_cli/", "/threading.py", "/contextlib.py", "importlib")
# Nobody writes to the pipe any more: long enough for the process to wait for it.
PIPE_S = 4.0
SOON_S = 20.0
Reached = tuple[str, str, int, int]
COMMANDS = {
    "video": ["upscale", "in.mp4", "-o", "out.mp4"],
    "pipe": ["upscale", "-", "-o", "out.mkv", "--input-size", f"{SIZE[1]}x{SIZE[0]}"],
    "resume": ["upscale", "in.mp4", "-o", "out.mkv", "--resume"],
    "pictures": ["upscale", "in.mp4", "-o", "out/"],
    "batch": ["batch", "in.mp4", "again.mp4", "-o", "out"],
}


@dataclass(frozen=True)
class Place:
    """A place in the code, reached for the `n`-th time."""

    file: str
    function: str
    instruction: int
    line: int
    n: int = 1


@dataclass(frozen=True)
class Ended:
    """How a process ended; `code` is None if it had to be killed."""

    was_reached: bool
    code: int | None
    files: list[str]
    text: str

    def is_right(self) -> bool:
        """Whether that is how an interrupted command ends."""
        unfinished = [name for name in self.files if targets.is_temporary_name(Path(name).name)]
        is_quiet = "Traceback" not in self.text and "unforeseen" not in self.text and "ignored" not in self.text
        # Once the command has given signals back to the system, they end it as they end every process.
        codes = (130, -signal.SIGINT, 0) if self.files else (130,)
        return not self.was_reached or (self.code in codes and not unfinished and is_quiet)


def trace(on_place: Callable[[Reached], None], only: Place | None = None) -> Callable[..., Any]:
    """A trace function that tells the places at which a signal would be handled, all or those of one's function."""
    before: list[Any] = [None, None]
    codes: dict[Any, bytes] = {}
    handled: list[bool] = []

    def is_handled() -> bool:
        """Until the command handles signals, they do what they do to every Python program."""
        if not handled and signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
            handled.append(True)
        return bool(handled)

    def follow(frame: FrameType, event: str, _argument: object) -> Callable[..., Any]:
        if event == "opcode":
            code = frame.f_code
            if code not in codes:
                codes[code] = code.co_code
            was_here, was = before
            before[:] = frame, codes[code][frame.f_lasti]
            if was_here is frame and was in CHECKS and is_handled():
                on_place((code.co_filename, code.co_qualname, frame.f_lasti, frame.f_lineno))
        else:
            before[0] = None
        return follow

    def enter(frame: FrameType, _event: str, _argument: object) -> Callable[..., Any] | None:
        before[:] = frame, RESUME
        code = frame.f_code
        if only is None:
            is_traced = any(part in code.co_filename for part in TRACED)
        else:
            is_traced = code.co_filename == only.file and code.co_qualname == only.function
        if not is_traced:
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        return follow

    return enter


def run_command(scenario: str, stderr: Path, tracer: Callable[..., Any]) -> int:
    """In a fork: the command, traced; gives its exit code."""
    out = os.open(stderr, os.O_CREAT | os.O_WRONLY)
    os.dup2(out, 1)
    os.dup2(out, 2)
    sys.stdout, sys.stderr = (os.fdopen(os.dup(fd), "w", buffering=1) for fd in (1, 2))
    if scenario == "pipe":
        read_end, write_end = os.pipe()
        os.write(write_end, bytes(3 * SIZE[0] * SIZE[1]))
        os.dup2(read_end, 0)
    sys.argv = ["flashvsr", *COMMANDS[scenario]]
    sys.settrace(tracer)
    try:
        main()
    except SystemExit as end:
        sys.settrace(None)
        targets._remove_unfinished()
        return int(end.code or 0)
    raise AssertionError("the command returned")


def fork(scenario: str, folder: Path, body: Callable[[Path, int], None]) -> tuple[int, int, Path]:
    """A process that runs `body` in a new folder with the inputs: its number, what it tells, and that folder."""
    work = Path(tempfile.mkdtemp(dir=folder))
    for name in ("in.mp4", "again.mp4") if scenario == "batch" else ("in.mp4",):
        shutil.copy(folder / "in.mp4", work / name)
    told, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(told)
        os.chdir(work)
        try:
            body(work.with_suffix(".txt"), tell)
        finally:
            os._exit(99)
    os.close(tell)
    return pid, told, work


def find_places(scenario: str, folder: Path) -> list[Place]:
    """Every place, the first and the last time that it is reached."""

    def body(stderr: Path, tell: int) -> None:
        counts: dict[Reached, int] = {}

        def write_down() -> NoReturn:
            os.write(tell, json.dumps([(*place, n) for place, n in list(counts.items())]).encode())
            os._exit(0)

        def on_place(place: Reached) -> None:
            counts[place] = counts.get(place, 0) + 1

        if scenario == "pipe":
            timer = threading.Timer(PIPE_S, write_down)
            timer.daemon = True
            timer.start()
        run_command(scenario, stderr, trace(on_place))
        write_down()

    pid, told, _ = fork(scenario, folder, body)
    with os.fdopen(told, "rb") as stream:
        places = json.load(stream)
    os.waitpid(pid, 0)
    return [Place(*place[:4], n) for place in places for n in sorted({1, place[4]})]


def interrupt_at(place: Place, scenario: str, folder: Path) -> Ended:
    """Runs the command and sends it SIGINT at the place."""

    def body(stderr: Path, tell: int) -> None:
        n_left = place.n

        def on_place(here: Reached) -> None:
            nonlocal n_left
            if here == (place.file, place.function, place.instruction, place.line):
                n_left -= 1
                if n_left == 0:
                    sys.settrace(None)
                    frame: FrameType | None = sys._getframe()
                    while frame is not None:
                        frame.f_trace, frame = None, frame.f_back
                    os.write(tell, b"!")
                    os.kill(os.getpid(), signal.SIGINT)

        os._exit(run_command(scenario, stderr, trace(on_place, place)))

    pid, told, work = fork(scenario, folder, body)
    was_reached = bool(select.select([told], [], [], SOON_S)[0]) and os.read(told, 1) == b"!"
    os.close(told)
    code = None
    deadline = time.monotonic() + SOON_S
    while code is None and time.monotonic() < deadline:
        ended, status = os.waitpid(pid, os.WNOHANG)
        code = os.waitstatus_to_exitcode(status) if ended else None
        time.sleep(0.005)
    if code is None:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    files = sorted(str(path.relative_to(work)) for path in work.rglob("*") if path.name not in ("in.mp4", "again.mp4"))
    text = work.with_suffix(".txt").read_text()
    shutil.rmtree(work)
    return Ended(was_reached, code, files, text)


def write_input(path: Path) -> None:
    """A few frames of noise."""
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=25, options={"preset": "ultrafast"})
        stream.height, stream.width, stream.pix_fmt = *SIZE, "yuv420p"
        for picture in np.random.default_rng(0).integers(0, 256, (N_FRAMES, *SIZE, 3), dtype=np.uint8):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))


def sweep(scenario: str, every: int) -> int:
    """How many places broke a rule."""
    loaded = startup.load_and_tell(ModelOptions(model=str(MINI), device="cpu"), quiet=True)
    startup.load_and_tell = lambda *_arguments, **_options: loaded
    n_right = n_wrong = n_passed = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_input(folder / "in.mp4")
        places = find_places(scenario, folder)[::every]
        for place in places:
            ended = interrupt_at(place, scenario, folder)
            n_passed += not ended.was_reached
            n_right += ended.is_right() and ended.was_reached
            if not ended.is_right():
                n_wrong += 1
                print(f"{place}\n{ended.code} {ended.files}\n{ended.text}", flush=True)
    print(f"{scenario}: {len(places)} places, {n_right} right, {n_wrong} wrong, {n_passed} not reached again")
    return n_wrong


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenario", choices=COMMANDS)
    parser.add_argument("--every", type=int, default=1, metavar="N")
    chosen = parser.parse_args()
    os.environ.update(FLASHVSR_MODEL=str(MINI), FLASHVSR_DEVICE="cpu", HF_HUB_OFFLINE="1")
    torch.set_num_threads(1)  # threads do not survive a fork
    sys.exit(sweep(chosen.scenario, chosen.every) > 0)
