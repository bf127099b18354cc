"""`flashvsr upscale` as a part of a pipeline: frames in, frames out, and nothing else on stdout."""

import io
import json
import os
import signal
import subprocess
import threading
import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

N_FRAMES = 23
HEADER_END = b"\n"


def test_y4m_to_y4m(flashvsr, make_y4m):
    done = flashvsr("upscale", "-", "-o", "-", "-s", 2, stdin=make_y4m(N_FRAMES))
    assert done.code == 0, done.stderr
    header, _, body = done.stdout.partition(HEADER_END)
    assert header.split()[:3] == [b"YUV4MPEG2", b"W64", b"H48"]
    assert b"F30000:1001" in header.split()
    frame_bytes = len(b"FRAME\n") + 48 * 64 * 3 // 2
    assert len(body) == N_FRAMES * frame_bytes
    assert all(body[i : i + 6] == b"FRAME\n" for i in range(0, len(body), frame_bytes))


@pytest.mark.parametrize("n_frames", [1, 2, 20, 22, 29])
def test_raw_frames_to_raw_frames(flashvsr, n_frames: int):
    frames = np.random.default_rng(3).integers(0, 256, (n_frames, 17, 23, 3), dtype=np.uint8)
    done = flashvsr("upscale", "-", "-o", "-", "--input-size", "23x17", "--fps", "25", "-s", 3, stdin=frames.tobytes())
    assert done.code == 0, done.stderr
    assert len(done.stdout) == n_frames * 51 * 69 * 3
    assert len(np.unique(np.frombuffer(done.stdout, np.uint8))) > 50


def test_a_container_from_a_pipe_to_matroska(flashvsr, make_clip, look, tmp_path: Path):
    source = make_clip("in.mkv", N_FRAMES, has_audio=True)
    done = flashvsr("upscale", "-", "-o", "-", stdin=source.read_bytes())
    assert done.code == 0, done.stderr
    with av.open(io.BytesIO(done.stdout)) as container:
        assert "matroska" in container.format.name
    (tmp_path / "out.mkv").write_bytes(done.stdout)
    before, after = look(source), look(tmp_path / "out.mkv")
    assert (after.n_frames, after.size, after.times) == (N_FRAMES, (96, 128), before.times)
    assert after.audio == before.audio


@pytest.mark.parametrize(("wanted", "n_bytes"), [("rgb24", 5 * 48 * 64 * 3), ("y4m", None), ("matroska", None)])
def test_output_format(flashvsr, make_clip, wanted: str, n_bytes: int | None):
    source = make_clip("in.mp4", 5)
    done = flashvsr("upscale", source, "-o", "-", "--output-format", wanted, "-s", 2)
    assert done.code == 0, done.stderr
    if n_bytes:
        assert len(done.stdout) == n_bytes
    else:
        assert done.stdout.startswith({"y4m": b"YUV4MPEG2 ", "matroska": b"\x1aE\xdf\xa3"}[wanted])


def test_two_of_them_in_a_row(start, make_y4m):
    first = start("upscale", "-", "-o", "-", "-s", 1, "-q", stdin=subprocess.PIPE)
    second = start("upscale", "-", "-o", "out.mkv", "-s", 2, "--report", "-", stdin=first.stdout)
    first.stdout.close()
    first.stdin.write(make_y4m(9))
    first.stdin.close()
    report, _ = second.communicate(timeout=120)
    assert first.wait(timeout=120) == 0
    first.stderr.close()
    report = json.loads(report)
    assert (report["frames_in"], report["frames_out"]) == (9, 9)
    assert Fraction(report["input"]["frame_rate"]) == Fraction(30000, 1001)


def test_a_reader_that_ends_early(start, make_y4m):
    """As with `| head -c 1000`."""
    process = start("upscale", "-", "-o", "-", "-s", 4, stdin=subprocess.PIPE)
    process.stdin.write(make_y4m(40))
    process.stdin.close()
    assert len(process.stdout.read(1000)) == 1000
    process.stdout.close()
    message = process.stderr.read().decode()
    process.stderr.close()
    assert process.wait(timeout=60) == 1
    assert "error: standard output cannot be written: broken pipe" in message
    assert "next: " in message
    assert "Traceback" not in message
    assert "Exception ignored" not in message


def test_a_full_device_behind_stdout(flashvsr, make_y4m):
    with Path("/dev/full").open("wb") as full:
        done = flashvsr("upscale", "-", "-o", "-", "-s", 2, stdin=make_y4m(9), stdout=full)
    assert done.code == 1
    assert "no space left on device" in done.stderr
    assert "next: Free some space" in done.stderr


def test_a_stream_cut_inside_a_frame(flashvsr, make_y4m):
    done = flashvsr("upscale", "-", "-o", "out.mp4", stdin=make_y4m(9)[:-100])
    assert done.code == 1
    assert done.stderr.count("error: ") == 1
    assert "standard input" in done.stderr


def test_a_container_that_ends_too_early(flashvsr, make_clip, tmp_path: Path):
    """As with `ssh host cat in.mkv |` and a connection that breaks."""
    data = make_clip("in.mkv", N_FRAMES).read_bytes()
    done = flashvsr("upscale", "-", "-o", "out.mkv", "-s", 1, stdin=data[: len(data) // 2])
    assert done.code == 1
    assert "error: standard input is cut short: " in done.stderr
    assert f" of about {N_FRAMES} frames can be read" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["in.mkv"]


def test_a_named_pipe(flashvsr, make_clip, look, tmp_path: Path):
    source = make_clip("in.mkv", N_FRAMES, has_audio=True)
    os.mkfifo(tmp_path / "fifo")
    feeder = threading.Thread(target=(tmp_path / "fifo").write_bytes, args=(source.read_bytes(),), daemon=True)
    feeder.start()
    done = flashvsr("upscale", "fifo", "-o", "out.mkv", "-s", 1)
    assert done.code == 0, done.stderr
    before, after = look(source), look(tmp_path / "out.mkv")
    assert (after.n_frames, after.times, after.audio) == (N_FRAMES, before.times, before.audio)


def test_standard_input_by_its_path(flashvsr, make_clip, look, tmp_path: Path):
    """What `<(command)` gives is likewise a path to a pipe that is open already."""
    source = make_clip("in.mkv", 5)
    done = flashvsr("upscale", "/dev/stdin", "-o", "out.mkv", "-s", 1, stdin=source.read_bytes())
    assert done.code == 0, done.stderr
    assert look(tmp_path / "out.mkv").n_frames == 5


def test_ctrl_c_while_a_named_pipe_gives_nothing(start, tmp_path: Path):
    os.mkfifo(tmp_path / "fifo")
    process = start("upscale", "fifo", "-o", "out.mkv", "-s", 1)
    writer = os.open(tmp_path / "fifo", os.O_WRONLY)  # waits for the reader
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    _, messages = process.communicate(timeout=30)
    os.close(writer)
    assert process.returncode == 130, messages
    assert b"Interrupted" in messages
    assert b"Traceback" not in messages
    assert [path.name for path in tmp_path.iterdir()] == ["fifo"]
