"""Something goes wrong at each stage: the right exit code, one sentence, and no file that is not whole."""

import signal
from collections.abc import Callable

import pytest

BACKEND = {"projection": 4, "transformer": 2, "decoder": 3, "colour": 9}
"""Stages where the device computes, and the call at which it fails: after the first frames are through."""
ALL = {"open": 1, "load": 1, "read": 30, **BACKEND, "encode": 12, "finalise": 1}


def expect_failure(ended, *parts: str) -> None:
    assert ended.code == 1, ended.stderr
    assert sum(line.startswith("error: ") for line in ended.stderr.splitlines()) == 1
    assert ended.stderr.count("next: ") == 1
    assert "Traceback" not in ended.stderr
    for part in parts:
        assert part in ended.stderr


def stages(quick: tuple[str, ...], of: dict[str, int] = ALL) -> list:
    """Stages, each a process of its own; those that go through the same code as a quick one run with the slow tests."""
    return [pytest.param(s, n, marks=() if s in quick else pytest.mark.slow) for s, n in of.items()]


@pytest.mark.parametrize(("stage", "n_calls"), stages(("transformer", "decoder"), BACKEND))
def test_the_device_is_lost(broken: Callable, stage: str, n_calls: int) -> None:
    ended = broken(stage, "device", n_calls, "-o", "out.mp4")
    expect_failure(ended, "cpu failed: CUDA error: unspecified launch failure", "--resume")
    assert ended.files == {"in.mp4"}


@pytest.mark.parametrize(("stage", "n_calls"), stages(("transformer",), BACKEND))
def test_the_device_has_no_memory_left(broken: Callable, stage: str, n_calls: int) -> None:
    ended = broken(stage, "memory", n_calls, "-o", "out.mp4")
    expect_failure(ended, "cpu ran out of memory at 128x128")
    assert ended.files == {"in.mp4"}


@pytest.mark.parametrize("stage", ["encode", "finalise"])
@pytest.mark.parametrize("target", ["out.mp4", pytest.param("out.y4m", marks=pytest.mark.slow)])
def test_the_disk_is_full(broken: Callable, stage: str, target: str) -> None:
    # The error is raised outside of the sink's own handling here, as from a library.
    ended = broken(stage, "disk", ALL[stage], "-o", target)
    expect_failure(ended, "No space left on device")
    assert ended.files == {"in.mp4"}


@pytest.mark.parametrize(("stage", "n_calls"), stages(("transformer", "finalise")))
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_user_stops_it(broken: Callable, stage: str, n_calls: int, number: int, code: int) -> None:
    ended = broken(stage, str(int(number)), n_calls, "-o", "out.mp4")
    assert ended.code == code, ended.stderr
    assert "error: Interrupted" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert ended.files == {"in.mp4"}


@pytest.mark.parametrize(("stage", "n_calls"), stages(("decoder",)))
def test_the_reader_of_stdout_goes_away(broken: Callable, stage: str, n_calls: int) -> None:
    ended = broken(stage, "pipe", n_calls, "-o", "-", "--output-format", "y4m", "-s", "2", "-q")
    if stage == "finalise":
        # All frames are out by then, and nobody is told that the reader has gone.
        assert ended.code == 0, ended.stderr
        return
    expect_failure(
        ended, "standard output cannot be written: broken pipe", "The program that read the output has ended"
    )
    assert ended.files == {"in.mp4"}


@pytest.mark.parametrize("target", ["out/out.mp4", pytest.param("out/out.y4m", marks=pytest.mark.slow), "out/"])
@pytest.mark.parametrize("is_resumable", [False, True])
def test_the_output_folder_is_removed(broken: Callable, tmp_path, target: str, is_resumable: bool) -> None:
    if is_resumable and target != "out/out.mp4":
        pytest.skip("--resume is for videos")
    (tmp_path / "out").mkdir()
    ended = broken("colour", "folder", 8, "-o", target, *(["--resume"] if is_resumable else []))
    if target == "out/":
        # The pictures wait beside the folder, and it is made again.
        assert ended.code == 0, ended.stderr
        assert len(ended.files) == 2 + 45
        return
    expect_failure(ended, f"{target} cannot be written: no such file or directory")
    assert ended.files == {"in.mp4"}


@pytest.mark.parametrize("event", [pytest.param("device", marks=pytest.mark.slow), "disk", str(int(signal.SIGINT))])
def test_what_is_kept_for_resume_completes_the_file(broken: Callable, event: str) -> None:
    stage = "encode" if event == "disk" else "decoder"
    ended = broken(stage, event, 10 if event == "disk" else 4, "-o", "out.mkv", "--resume", "--codec", "ffv1")
    assert ended.code == (130 if event.isdecimal() else 1), ended.stderr
    assert ended.files == {"in.mp4", ".out.mkv.resume"}
    again = broken("finalise", "0", 2, "-o", "out.mkv", "--resume", "--codec", "ffv1")
    assert again.code == 0, again.stderr
    assert "Resumed behind" in again.stderr
    assert "45 frames (" in again.stderr
    assert " of an earlier run) at 128x128" in again.stderr
    assert again.files == {"in.mp4", "out.mkv"}
