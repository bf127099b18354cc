"""Standard streams that are closed, full, or that nobody reads any more."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest


def closing(fd: int) -> Callable[[], None]:
    """As `<&-`, `>&-` and `2>&-` of a shell."""
    return lambda: os.close(fd)


def test_frames_for_a_closed_stdout(flashvsr, make_clip):
    make_clip("in.mp4", 2)
    for options in (("-o", "-"), ("-o", "out.mp4", "--report", "-")):
        done = flashvsr("upscale", "in.mp4", *options, preexec_fn=closing(1))
        assert done.code == 1
        assert done.stderr.startswith("error: Standard output is closed.\nnext: ")


def test_a_closed_stdout_that_nobody_needs(flashvsr, make_clip, look, tmp_path: Path):
    make_clip("in.mp4", 2)
    done = flashvsr("upscale", "in.mp4", "-o", "out.mp4", preexec_fn=closing(1))
    assert done.code == 0, done.stderr
    assert look(tmp_path / "out.mp4").n_frames == 2


def test_frames_from_a_closed_stdin(flashvsr, files_in):
    for options in ((), ("--input-size", "4x4")):
        done = flashvsr("upscale", "-", "-o", "out.mkv", *options, preexec_fn=closing(0))
        assert done.code == 1
        assert "error: standard input" in done.stderr
        assert "unforeseen" not in done.stderr
    assert files_in() == set()


@pytest.mark.parametrize("options", [(), ("--quiet",)])
def test_a_closed_stderr(flashvsr, make_clip, look, tmp_path: Path, options):
    make_clip("in.mp4", 2)
    done = flashvsr("upscale", "in.mp4", "-o", "out.mp4", *options, preexec_fn=closing(2))
    assert (done.code, done.stderr) == (0, "")
    assert look(tmp_path / "out.mp4").n_frames == 2
    assert flashvsr("upscale", "nowhere.mp4", "-o", "other.mp4", preexec_fn=closing(2)).code == 1


def test_all_three_closed(start, make_clip, look, tmp_path: Path):
    """No file of the program may take the number of a standard stream."""
    make_clip("in.mp4", 2)
    process = start("upscale", "in.mp4", "-o", "out.mp4", preexec_fn=lambda: os.closerange(0, 3))
    assert process.wait(timeout=120) == 0
    process.stdout.close()
    process.stderr.close()
    assert look(tmp_path / "out.mp4").n_frames == 2


def test_messages_that_nobody_takes(start, make_clip, look, tmp_path: Path):
    make_clip("in.mp4", 30)
    with Path("/dev/full").open("wb") as full:
        process = start("upscale", "in.mp4", "-o", "out.mkv", stderr=full, stdout=subprocess.DEVNULL)
        assert process.wait(timeout=120) == 0
    process = start("upscale", "in.mp4", "-o", "other.mkv", stdout=subprocess.DEVNULL)
    process.stderr.close()
    assert process.wait(timeout=120) == 0
    assert look(tmp_path / "out.mkv").n_frames == look(tmp_path / "other.mkv").n_frames == 30


def test_results_for_a_full_device(flashvsr, make_clip, look, tmp_path: Path):
    make_clip("in.mp4", 2)
    commands = (
        ("--version",),
        ("info", "in.mp4"),
        ("info", "in.mp4", "--json"),
        ("upscale", "in.mp4", "-o", "out.mp4", "--quiet", "--report", "-"),
    )
    for arguments in commands:
        with Path("/dev/full").open("wb") as full:
            done = flashvsr(*arguments, stdout=full)
        assert done.code == 1, arguments
        message = "error: standard output cannot be written: no space left on device.\nnext: Free some space"
        assert done.stderr.startswith(message), arguments
        assert len(done.stderr.splitlines()) == 2
    assert look(tmp_path / "out.mp4").n_frames == 2, "the report is all that is missing"


def test_a_table_for_a_reader_that_has_gone(start, make_clip):
    make_clip("in.mp4", 2)
    process = start("info", "in.mp4")
    process.stdout.close()
    message = process.stderr.read().decode()
    process.stderr.close()
    assert process.wait(timeout=60) == 1
    assert "Traceback" not in message
    assert "Exception ignored" not in message
