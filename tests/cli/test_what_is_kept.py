"""What a run finds is not destroyed: not by its report, and not by its output if that appears while it runs."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from flashvsr_cli.batch.record import RECORD_NAME


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def is_refused(flashvsr, tmp_path: Path):
    """`is_refused(code, message, *arguments)`: the run ends with that, and every file is as it was."""

    def check(code: int, message: str, *arguments: object) -> None:
        before = contents(tmp_path)
        done = flashvsr(*arguments)
        assert done.code == code, (arguments, done.stderr)
        assert message in done.stderr
        assert "Traceback" not in done.stderr
        assert contents(tmp_path) == before

    return check


def test_a_report_in_the_place_of_input_or_output(is_refused, make_clip, make_pictures, tmp_path: Path):
    make_clip("in.mp4", 2)
    os.link(tmp_path / "in.mp4", tmp_path / "hard.mp4")
    (tmp_path / "soft.json").symlink_to("in.mp4")
    make_pictures("shots", 2)
    (tmp_path / "empty").mkdir()
    place = "would take the place of"
    for report in ("in.mp4", "./in.mp4", tmp_path / "in.mp4", "hard.mp4", "soft.json"):
        is_refused(2, place, "upscale", "in.mp4", "-o", "out.mp4", "--report", report)
        is_refused(2, place, "upscale", "in.mp4", "-o", "out.mp4", "--report", report, "--overwrite")
    for report in ("out.mp4", "./out.mp4", tmp_path / "out.mp4"):
        is_refused(2, place, "upscale", "in.mp4", "-o", "out.mp4", "--report", report, "-y")
    for source in ("shots", "shots/shot_%03d.png", "shots/*.png"):
        is_refused(2, place, "upscale", source, "-o", "out.mp4", "--report", "shots/shot_001.png", "-y")
    for target in ("empty", "empty/%05d.png"):
        is_refused(2, place, "upscale", "in.mp4", "-o", target, "--report", "empty/00001.png")


def test_a_report_in_the_place_of_something_else(is_refused, flashvsr, make_clip, tmp_path: Path):
    make_clip("in.mp4", 2)
    (tmp_path / "mine.json").write_text('{"name": "mine"}\n')
    os.mkfifo(tmp_path / "pipe")
    command = ("upscale", "in.mp4", "-s", 1, "--report")
    is_refused(1, "mine.json exists already and is no earlier report", *command, "mine.json", "-o", "out.mp4")
    is_refused(1, "pipe exists and is not a file", *command, "pipe", "-o", "out.mp4")
    is_refused(1, "null exists and is not a file", *command, os.devnull, "-o", "out.mp4", "-y")
    for name, options in (("r.json", ()), ("r.json", ()), ("mine.json", ("--overwrite",))):
        (tmp_path / "out.mp4").unlink(missing_ok=True)
        done = flashvsr(*command, name, "-o", "out.mp4", *options)
        assert done.code == 0, done.stderr
        assert json.loads((tmp_path / name).read_text())["frames_out"] == 2


def test_the_report_of_a_batch(is_refused, flashvsr, make_clip, tmp_path: Path):
    (tmp_path / "in").mkdir()
    make_clip("in/a.mp4", 2)
    command = ("batch", "in", "-o", "out", "-s", 1, "--report")
    is_refused(2, "would take the place of in/a.mp4", *command, "in/a.mp4")
    is_refused(2, "would take the place of in/a.mp4", *command, "in/a.mp4", "--overwrite")
    for _ in range(2):
        done = flashvsr(*command, "r.json")
        assert done.code == 0, done.stderr
    assert [file["state"] for file in json.loads((tmp_path / "r.json").read_text())["files"]] == ["skipped"]
    for name in ("a.mp4", RECORD_NAME):
        is_refused(2, f"would take the place of out/{name}", *command, f"out/{name}", "--overwrite")
    (tmp_path / "mine.json").write_text('{"files": "mine"}')
    is_refused(1, "mine.json exists already", *command, "mine.json")


@pytest.mark.parametrize("target", ["out.mkv", "out.y4m", "out/"])
def test_an_output_that_appears_while_the_input_is_awaited(start, make_y4m, tmp_path: Path, target: str):
    process = start("upscale", "-", "-o", target, "-s", 1, stdin=subprocess.PIPE)
    stream = make_y4m(40)
    process.stdin.write(stream[:5000])
    process.stdin.flush()
    while b"upscaling" not in (line := process.stderr.readline()):
        assert line
    place = tmp_path / target
    precious = place / "frame-000001.png" if target == "out/" else place
    precious.parent.mkdir(exist_ok=True)
    precious.write_bytes(b"precious")
    message = process.communicate(stream[5000:], timeout=120)[1].decode()
    assert process.returncode == 1
    assert f"error: {target} cannot be written: file exists." in message
    assert "next: It has appeared since the run began" in message
    assert contents(tmp_path) == {str(precious.relative_to(tmp_path)): b"precious"}


def test_an_output_that_appears_before_the_input(start, make_y4m, tmp_path: Path):
    process = start("upscale", "-", "-o", "out.mkv", "-s", 1, stdin=subprocess.PIPE)
    process.stdin.write(make_y4m(2)[:5])
    process.stdin.flush()
    (tmp_path / "out.mkv").write_bytes(b"precious")
    message = process.communicate(make_y4m(2)[5:], timeout=120)[1].decode()
    assert process.returncode == 1
    assert "error: out.mkv exists already" in message
    assert contents(tmp_path) == {"out.mkv": b"precious"}
