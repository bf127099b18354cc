"""`flashvsr batch`: a folder to a folder; a bad file does not stop the rest."""

import json
import os
import shutil
from pathlib import Path

import av
import pytest

from flashvsr_cli.batch.record import RECORD_NAME


def cut_in_half(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def test_three_clips_of_which_one_is_cut_in_half(flashvsr, make_clip, look, files_in, tmp_path: Path):
    (tmp_path / "in").mkdir()
    make_clip("in/a.mp4", 9, has_audio=True)
    cut_in_half(make_clip("in/b.mp4", 40))
    make_clip("in/c[bold].mp4", 5)
    inputs = files_in()
    done = flashvsr("batch", "in", "-o", "out", "--report", "r.json", "-s", 2)
    assert done.code == 1
    assert done.stdout == b""
    assert "2 done, 1 failed" in done.stderr
    assert "in/b.mp4 is not a media file, or it is cut short" in done.stderr
    assert "in/c[bold].mp4" in done.stderr
    assert files_in() - inputs == {"out", "out/a.mp4", "out/c[bold].mp4", f"out/{RECORD_NAME}", "r.json"}
    assert look(tmp_path / "out/a.mp4").n_frames == 9
    assert look(tmp_path / "out/c[bold].mp4").n_frames == 5
    files = {file["input"]: file for file in json.loads((tmp_path / "r.json").read_text())["files"]}
    assert {name: file["state"] for name, file in files.items()} == {
        "in/a.mp4": "done",
        "in/b.mp4": "failed",
        "in/c[bold].mp4": "done",
    }
    assert files["in/a.mp4"]["report"]["frames_out"] == 9
    assert "cut short" in files["in/b.mp4"]["error"]

    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("[!.]*")}
    again = flashvsr("batch", "in", "-o", "out", "-s", 2)
    assert again.code == 1
    assert "2 skipped, 1 failed" in again.stderr
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("[!.]*")} == written

    (tmp_path / "in/b.mp4").unlink()
    nothing_left = flashvsr("batch", "in", "-o", "out", "-s", 2)
    assert nothing_left.code == 0
    assert "2 skipped" in nothing_left.stderr
    assert "loading" not in nothing_left.stderr, "no model is needed"


def test_folders_within_pictures_and_containers_that_cannot_be_written(flashvsr, make_clip, make_pictures, tmp_path):
    (tmp_path / "in/deep").mkdir(parents=True)
    shutil.move(make_clip("x.mkv", 3), tmp_path / "in/deep/x.MPG")
    shutil.move(make_pictures("p", 1) / "shot_001.png", tmp_path / "in/p.png")
    (tmp_path / "in/notes.txt").write_text("no media")
    (tmp_path / "in/.hidden.png").write_bytes(b"")
    done = flashvsr("batch", "in", "-o", "in/out", "--recursive", "-s", 1)
    assert done.code == 0, done.stderr
    out = tmp_path / "in/out"
    assert {str(path.relative_to(out)) for path in out.rglob("[!.]*.*")} == {"p.png", "deep/x.mkv"}
    again = flashvsr("batch", "in", "-o", "in/out", "--recursive", "-s", 1)
    assert "2 skipped" in again.stderr, "earlier results below the input are no inputs"


def test_encoder_options_reach_the_videos_of_a_folder_only(flashvsr, make_clip, make_pictures, make_y4m, tmp_path):
    (tmp_path / "in").mkdir()
    make_clip("in/a.mp4", 3)
    (tmp_path / "in/b.Y4M").write_bytes(make_y4m(3))
    shutil.move(make_pictures("p", 1) / "shot_001.png", tmp_path / "in/c.png")
    done = flashvsr("batch", "in", "-o", "out", "-s", 1, "--codec", "libx265", "--preset", "ultrafast")
    assert done.code == 0, done.stderr
    assert "no meaning for pictures and Y4M: 2 of 3 files go without" in " ".join(done.stderr.split())
    with av.open(tmp_path / "out/a.mp4") as container:
        assert container.streams.video[0].codec_context.name == "hevc"
    assert (tmp_path / "out/b.Y4M").read_bytes().startswith(b"YUV4MPEG2 ")
    # Another encoder changes only what is encoded.
    again = flashvsr("batch", "in", "-o", "out", "-s", 1, "--codec", "libx264", "--preset", "ultrafast")
    assert "1 done, 2 skipped" in again.stderr
    assert "no meaning" not in again.stderr


@pytest.mark.parametrize("extension", ["y4m", ".Y4M"])
def test_encoder_options_where_no_result_is_encoded(flashvsr, make_clip, tmp_path: Path, extension: str):
    (tmp_path / "in").mkdir()
    make_clip("in/a.mp4", 3)
    refused = flashvsr("batch", "in", "-o", "out", "--extension", extension, "--crf", 18)
    assert refused.code == 2
    assert "encoder options have no meaning there" in " ".join(refused.stderr.split())
    assert not (tmp_path / "out").exists()
    done = flashvsr("batch", "in", "-o", "out", "--extension", extension, "-s", 1)
    assert done.code == 0, done.stderr


def test_results_beside_the_input_folder(flashvsr, make_clip, tmp_path: Path):
    (tmp_path / "clips").mkdir()
    make_clip("clips/a.mp4", 2)
    done = flashvsr("batch", "clips", "-o", ".", "--extension", "mkv", "-s", 1, "--quiet")
    assert done.code == 0, done.stderr
    assert done.stderr == ""
    assert (tmp_path / "a.mkv").is_file()


def test_folders_that_make_no_sense(flashvsr, make_clip, tmp_path: Path):
    (tmp_path / "in").mkdir()
    empty = flashvsr("batch", "in", "-o", "out")
    assert empty.code == 1
    assert "in holds no video or picture" in empty.stderr
    make_clip("in/a.mp4", 1)
    assert flashvsr("batch", "in", "-o", "in").code == 2
    assert flashvsr("batch", "nowhere", "-o", "out").code == 2
    assert not (tmp_path / "out").exists()


def test_two_files_for_one_result_do_not_stop_the_others(flashvsr, make_clip, look, tmp_path: Path):
    (tmp_path / "in").mkdir()
    for name, n_frames in (("a.avi", 1), ("a.mkv", 2), ("b.mp4", 3)):
        make_clip(f"in/{name}", n_frames)
    done = flashvsr("batch", "in", "-o", "out", "--extension", "mkv", "-s", 1, "--report", "r.json")
    assert done.code == 1, done.stderr
    assert "2 done, 1 failed" in done.stderr
    assert "a.avi and a.mkv would both become out/a.mkv: only in/a.mkv is taken." in " ".join(done.stderr.split())
    assert [look(tmp_path / "out" / name).n_frames for name in ("a.mkv", "b.mkv")] == [2, 3]
    (failed,) = [file for file in json.loads((tmp_path / "r.json").read_text())["files"] if file["state"] == "failed"]
    assert (failed["input"], failed["output"]) == ("in/a.avi", None)
    assert "--extension" in failed["next_step"]


def test_other_settings_make_it_again_and_what_a_user_changed_is_left_alone(flashvsr, make_clip, look, tmp_path: Path):
    (tmp_path / "in").mkdir()
    for name in ("a.mp4", "b.mp4"):
        make_clip(f"in/{name}", 2)
    (tmp_path / "out").mkdir()
    make_clip("out/c.mp4", 1)
    make_clip("in/c.mp4", 3)
    first = flashvsr("batch", "in", "-o", "out", "-s", 1)
    assert first.code == 0, first.stderr
    assert "2 done, 1 skipped" in first.stderr
    assert "It was there already and no batch made it" in first.stderr
    assert look(tmp_path / "out/c.mp4").n_frames == 1

    theirs = make_clip("out/b.mp4", 7)
    again = flashvsr("batch", "in", "-o", "out", "-s", 2, "--report", "r.json")
    assert again.code == 0, again.stderr
    assert "1 done, 2 skipped" in again.stderr
    assert "It is made again: scale was 1 and is 2." in again.stderr
    assert "It has changed since a batch made it" in again.stderr
    assert look(tmp_path / "out/a.mp4").size == (48, 64)
    assert look(theirs).n_frames == 7
    reasons = {file["input"]: file.get("reason") for file in json.loads((tmp_path / "r.json").read_text())["files"]}
    assert all(reasons.values())

    everything = flashvsr("batch", "in", "-o", "out", "-s", 2, "--overwrite", "--quiet")
    assert everything.code == 0, everything.stderr
    assert everything.stderr == ""
    assert [look(tmp_path / "out" / name).n_frames for name in ("a.mp4", "b.mp4", "c.mp4")] == [2, 2, 3]


def test_names_that_would_steer_a_terminal_or_leave_the_folder(flashvsr, make_clip, look, tmp_path: Path):
    (tmp_path / "in/away").mkdir(parents=True)
    odd = ["\x1b[31mred\n.mp4", os.fsdecode(b"\xff\xfe.mp4"), "-o.mp4", "%03d.mp4"]
    for name in odd:
        make_clip("x.mp4", 1).rename(tmp_path / "in" / name)
    make_clip("in/away/b.mp4", 1)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out/away").symlink_to(tmp_path / "elsewhere")
    done = flashvsr("batch", "in", "-o", "out", "-r", "-s", 1)
    assert done.code == 1
    assert "4 done, 1 failed" in done.stderr
    assert "out/away is a link that leads out of out" in done.stderr
    assert r"in/\x1b[31mred\n.mp4" in done.stderr
    assert r"in/\xff\xfe.mp4" in done.stderr
    assert "\x1b" not in done.stderr
    assert list((tmp_path / "elsewhere").iterdir()) == []
    for name in odd:
        (tmp_path / "out" / name).rename(tmp_path / "y.mp4")
        assert look(tmp_path / "y.mp4").n_frames == 1


def test_patterns_and_the_options_of_upscale(flashvsr, make_clip, make_pictures, look, tmp_path: Path):
    (tmp_path / "clips/deep").mkdir(parents=True)
    make_clip("clips/a.mp4", 9)
    make_clip("clips/deep/b.mp4", 9)
    make_pictures("drawn", 1)
    given = ("clips/**/*.mp4", "drawn", "-o", "out", "-s", 1)
    options = ("--resume", "--frames", 4, "--deinterlace", "off", "--preset-for", "archive", "--encoder-option", "g=1")
    done = flashvsr("batch", *given, *options, "--extension", "mkv", "--strength", 0.5, "--jobs", 3, "--retries", 0)
    assert done.code == 0, done.stderr
    assert "3 done" in done.stderr
    assert [look(tmp_path / "out" / name).n_frames for name in ("a.mkv", "deep/b.mkv")] == [4, 4]
    assert (tmp_path / "out/shot_001.png").is_file(), "a picture is whole, and cannot be resumed"
    nothing = flashvsr("batch", *given, "--only-failed")
    assert nothing.code == 0
    assert "Nothing failed when it was last tried." in nothing.stderr
    limited = flashvsr("batch", "clips/*.mp4", "-o", "small", "--max-pixels", 100)
    assert limited.code == 1
    assert "more than the limit of 100 pixels" in limited.stderr


def test_encoder_options_are_for_the_videos(flashvsr, make_clip, make_pictures, tmp_path: Path):
    make_pictures("in", 1)
    make_clip("in/a.mp4", 2)
    done = flashvsr("batch", "in", "-o", "out", "-s", 1, "--codec", "libx265", "--preset", "ultrafast", "--crf", 30)
    assert done.code == 0, done.stderr
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"a.mp4", "shot_001.png", RECORD_NAME}
