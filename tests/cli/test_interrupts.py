"""Ctrl-C, SIGTERM and kill -9 in the middle of the work."""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from flashvsr_cli.batch.record import RECORD_NAME

SIZE = (96, 96)
N_FRAMES = 500
SOON_S = 5.0


def wait_for_frames(process: subprocess.Popen[bytes], folder: Path) -> None:
    """Until the unfinished output has grown: then the model has computed and the encoder has written."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        assert process.poll() is None, process.stderr.read().decode()
        if any(path.stat().st_size > 5000 for path in folder.glob(".*.part-*")):
            return
        time.sleep(0.02)
    raise AssertionError("nothing was written in a minute")


def heed(number: int) -> Callable[[], None]:
    """Before the program starts: the signal means what it does by default, however the tests were started."""
    return lambda: signal.signal(number, signal.SIG_DFL)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_stopped_in_the_middle(start, make_clip, files_in, tmp_path: Path, number: int, code: int):
    make_clip("in.mp4", N_FRAMES, SIZE)
    options = {"stdout": subprocess.DEVNULL, "preexec_fn": heed(number)}
    process = start("upscale", "in.mp4", "-o", "out.mkv", "--codec", "ffv1", **options)
    wait_for_frames(process, tmp_path)
    stopped = time.monotonic()
    process.send_signal(number)
    message = process.communicate(timeout=60)[1].decode()
    assert time.monotonic() - stopped < SOON_S
    assert process.returncode == code
    assert "error: Interrupted" in message
    assert "Traceback" not in message
    assert files_in() == {"in.mp4"}


def test_a_terminal_that_is_closed_says_so_twice(start, make_clip, files_in, tmp_path: Path):
    """The system and the shell both send SIGHUP: the second must not cut the cleaning up short."""
    make_clip("in.mp4", N_FRAMES, SIZE)
    options = {"stdout": subprocess.DEVNULL, "preexec_fn": heed(signal.SIGHUP)}
    process = start("upscale", "in.mp4", "-o", "out.mkv", "--codec", "ffv1", **options)
    wait_for_frames(process, tmp_path)
    process.send_signal(signal.SIGHUP)
    while process.poll() is None:
        process.send_signal(signal.SIGHUP)
        time.sleep(0.001)
    process.communicate()
    assert process.returncode == 129
    assert files_in() == {"in.mp4"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_what_was_ignored_at_the_start_stays_ignored(start, make_clip, look, tmp_path: Path, number: int):
    """As with nohup, or with a job that a script starts in the background."""
    make_clip("in.mp4", 60, SIZE)
    options = {"stdout": subprocess.DEVNULL, "preexec_fn": lambda: signal.signal(number, signal.SIG_IGN)}
    process = start("upscale", "in.mp4", "-o", "out.mkv", "--codec", "ffv1", "-s", 1, **options)
    wait_for_frames(process, tmp_path)
    process.send_signal(number)
    message = process.communicate(timeout=120)[1].decode()
    assert process.returncode == 0, message
    assert look(tmp_path / "out.mkv").n_frames == 60


def test_stopped_while_waiting_for_a_pipe(start, files_in):
    """Nobody writes to stdin: reader and main thread both wait."""
    read_end, write_end = os.pipe()
    process = start("upscale", "-", "-o", "out.mkv", "--input-size", "32x24", stdin=read_end)
    os.write(write_end, bytes(32 * 24 * 3))
    lines = iter(process.stderr.readline, b"")
    assert any(line.startswith(b"upscaling") for line in lines)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=SOON_S)
    os.close(read_end)
    os.close(write_end)
    assert process.returncode == 130
    assert files_in() == set()


def test_stopped_while_nobody_reads_the_output(start, make_y4m):
    """The writer waits for room in the pipe."""
    process = start("upscale", "-", "-o", "-", stdin=subprocess.PIPE)
    feeder = threading.Thread(target=feed, args=(process, make_y4m(200)))
    feeder.start()
    process.stdout.read(1)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=SOON_S) == 130
    process.stdout.close()
    feeder.join()
    assert b"Traceback" not in process.stderr.read()
    process.stderr.close()


def feed(process: subprocess.Popen[bytes], data: bytes) -> None:
    try:
        process.stdin.write(data)
        process.stdin.close()
    except BrokenPipeError:
        process.stdin = None


def test_killed_in_the_middle(start, make_clip, tmp_path: Path):
    make_clip("in.mp4", N_FRAMES, SIZE)
    process = start("upscale", "in.mp4", "-o", "out.mkv", "--codec", "ffv1", stdout=subprocess.DEVNULL)
    wait_for_frames(process, tmp_path)
    process.kill()
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / "out.mkv").exists()


def test_a_batch_that_is_stopped_says_what_is_done(start, make_clip, tmp_path: Path):
    (tmp_path / "in").mkdir()
    make_clip("in/a.mp4", 2)
    make_clip("in/b.mp4", N_FRAMES, SIZE)
    make_clip("in/c.mp4", 2)
    process = start("batch", "in", "-o", "out", "--codec", "ffv1", "--extension", "mkv", stdout=subprocess.DEVNULL)
    while not (tmp_path / "out").exists():
        assert process.poll() is None
        time.sleep(0.02)
    wait_for_frames(process, tmp_path / "out")
    while not (tmp_path / "out/a.mkv").exists():
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    message = process.communicate(timeout=60)[1].decode()
    assert process.returncode == 130
    assert "1 done, 2 not reached" in message
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"a.mkv", RECORD_NAME}
