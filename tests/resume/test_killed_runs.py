"""kill -9 at random moments, and `--resume`: the whole clip comes out, in sync, without a seam."""

import random
import signal
import subprocess
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

SIZE = (32, 32)
A_SECOND = 25
INVISIBLE_DB = 45.0
COMMAND = ("upscale", "in.mp4", "-o", "out.mkv", "--codec", "ffv1", "-q")
JOURNAL = ".out.mkv.resume"
Start = Callable[..., "subprocess.Popen[bytes]"]


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    error = ((a.astype(float) - b) ** 2).mean()
    return 10 * np.log10(255**2 / error) if error else float("inf")


def kill_after(process: "subprocess.Popen[bytes]", journal: Path, n_bytes: int, pause_s: float) -> bool:
    """Kill when the journal has grown by so much, and a moment later; False if the process ended by itself."""
    before = journal.stat().st_size if journal.exists() else 0
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if journal.exists() and journal.stat().st_size >= before + n_bytes:
            break
        time.sleep(0.01)
    time.sleep(pause_s)
    process.kill()
    process.communicate()
    return process.returncode == -signal.SIGKILL


def check(look: Callable[[Path], Any], tmp_path: Path, n_frames: int) -> None:
    """Against the run that nobody interrupted; every stretch of a second is compared, so those behind a join, too."""
    whole, resumed = look(tmp_path / "whole.mkv"), look(tmp_path / "out.mkv")
    assert len(resumed.times) == n_frames
    assert resumed.times == whole.times
    # Matroska counts in milliseconds.
    assert all(
        abs(a - b) <= Fraction(1, 2000) for a, b in zip(resumed.times, look(tmp_path / "in.mp4").times, strict=True)
    )
    assert resumed.audio == whole.audio
    assert resumed.audio
    for begin in range(0, n_frames, 5):
        second = slice(begin, begin + A_SECOND)
        assert psnr(resumed.pictures[second], whole.pictures[second]) >= INVISIBLE_DB, begin
    assert not [path.name for path in tmp_path.glob(".*")]


def torture(start: Start, run: Callable[..., tuple[int, str]], tmp_path: Path, n_frames: int, n_kills: int) -> None:
    """Kill and resume until it is done."""
    code, stderr = run(*COMMAND[:3], "whole.mkv", *COMMAND[4:])
    assert code == 0, stderr
    frame_bytes = (tmp_path / "whole.mkv").stat().st_size / n_frames
    rng = random.Random(n_frames)
    for _ in range(n_kills):
        n_wanted = rng.uniform(0, 0.8) * n_frames / (1.5 * n_kills)
        process = start(*COMMAND, "--resume")
        assert kill_after(process, tmp_path / JOURNAL, int(n_wanted * frame_bytes), rng.uniform(0, 0.05))
        assert not (tmp_path / "out.mkv").exists()
    code, stderr = run("upscale", "in.mp4", "-o", "out.mkv", "--codec", "ffv1", "--resume")
    assert code == 0, stderr
    n_done = int(stderr.partition("Resumed behind ")[2].split()[0])
    assert f"{n_frames} frames ({n_done} of an earlier run) at " in stderr


def test_killed_three_times(
    start: Start, run: Callable[..., tuple[int, str]], make_clip: Callable[..., Path], look: Any, tmp_path: Path
) -> None:
    make_clip("in.mp4", 120, SIZE, is_vfr=True)
    torture(start, run, tmp_path, 120, 3)
    check(look, tmp_path, 120)


@pytest.mark.slow
def test_killed_twenty_times(
    start: Start, run: Callable[..., tuple[int, str]], make_clip: Callable[..., Path], look: Any, tmp_path: Path
) -> None:
    make_clip("in.mp4", 500, SIZE, is_vfr=True)
    torture(start, run, tmp_path, 500, 20)
    check(look, tmp_path, 500)


def test_a_mismatch_is_refused_and_harms_nothing(
    start: Start, run: Callable[..., tuple[int, str]], make_clip: Callable[..., Path], tmp_path: Path
) -> None:
    make_clip("in.mp4", 60, SIZE)
    assert kill_after(start(*COMMAND, "--resume"), tmp_path / JOURNAL, 200_000, 0)
    kept = (tmp_path / JOURNAL).read_bytes()
    for change, reason in (
        (("--seed", 1), "settings seed was 0 and is 1"),
        (("--scale", 2), "scale was 4 and is 2"),
        (("--decoder", "full"), "model decoder was TinyDecoder and is VAEDecoder"),
        (("--scene-cut", "off"), "settings scene cut was auto and is off"),
    ):
        code, stderr = run(*COMMAND, "--resume", *change)
        assert code == 1
        assert reason in stderr
        assert "delete" in stderr
        assert "Traceback" not in stderr
        assert (tmp_path / JOURNAL).read_bytes() == kept
    make_clip("in.mp4", 61, SIZE)
    code, stderr = run(*COMMAND, "--resume")
    assert code == 1
    assert "input file bytes was" in stderr


def test_resume_needs_files_that_can_be_read_again(run: Callable[..., tuple[int, str]], make_clip: Any) -> None:
    make_clip("in.mp4", 2, SIZE)
    for target in ("-", "out.y4m", "out/"):
        code, stderr = run("upscale", "in.mp4", "-o", target, "--resume", stdout=subprocess.PIPE)
        assert code == 2, stderr
        assert "--resume works from video file to video file" in stderr


def test_interrupted_in_order_nothing_is_lost(
    start: Start, run: Callable[..., tuple[int, str]], make_clip: Callable[..., Path], look: Any, tmp_path: Path
) -> None:
    make_clip("in.mp4", 100, SIZE)
    process = start("upscale", "in.mp4", "-o", "out.mp4", "--resume", stdout=subprocess.DEVNULL)
    journal = tmp_path / ".out.mp4.resume"
    while process.poll() is None and not (journal.exists() and journal.stat().st_size > 3000):
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    message = process.communicate()[1].decode()
    assert process.returncode == 143, message
    assert "what is finished is kept" in message
    assert {path.name for path in tmp_path.iterdir()} - {"cache"} == {"in.mp4", ".out.mp4.resume"}
    code, stderr = run("upscale", "in.mp4", "-o", "out.mp4", "--resume")
    assert code == 0, stderr
    n_done = int(stderr.partition("Resumed behind ")[2].split()[0])
    assert f"100 frames ({n_done} of an earlier run) at " in stderr
    assert look(tmp_path / "out.mp4").times == look(tmp_path / "in.mp4").times
