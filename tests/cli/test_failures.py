"""What goes wrong ends in one sentence, a next step, the right exit code, and no file under the final name."""

import os
import resource
from pathlib import Path

import av
import numpy as np
import pytest

LIMIT_BYTES = 20_000


def expect_refusal(done, *parts: str, code: int = 1) -> None:
    assert done.code == code, done.stderr
    assert done.stdout == b""
    assert done.stderr.count("error: ") == 1
    assert done.stderr.count("next: ") == 1
    assert "Traceback" not in done.stderr
    for part in parts:
        assert part in done.stderr


def test_inputs_that_cannot_be_read(flashvsr, make_clip, files_in, tmp_path: Path):
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("This is no video. " * 100)
    (tmp_path / "empty").mkdir()
    with av.open(tmp_path / "audio.m4a", "w") as container:
        stream = container.add_stream("aac", rate=48000, layout="mono")
        block = av.AudioFrame.from_ndarray(np.zeros((1, 48000), np.float32), format="fltp", layout="mono")
        block.sample_rate = 48000
        container.mux(stream.encode(block))
        container.mux(stream.encode(None))
    half = make_clip("half.mp4", 40).read_bytes()
    (tmp_path / "half.mp4").write_bytes(half[: len(half) // 2])
    before = files_in()
    for name, message in (
        ("nowhere.mp4", "nowhere.mp4 does not exist"),
        ("empty.mp4", "empty.mp4 is empty"),
        ("text.mp4", "text.mp4 is not a media file"),
        ("audio.m4a", "audio.m4a has no video track (it has: audio)"),
        ("half.mp4", "half.mp4 is not a media file, or it is cut short"),
        ("empty", "empty has no pictures"),
        ("shot_%03d.png", "No file matches shot_%03d.png"),
        ("/proc/self/mem", "/proc/self/mem cannot be read"),
    ):
        expect_refusal(flashvsr("upscale", name, "-o", "out.mp4"), message)
    assert files_in() == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_input_without_permission(flashvsr, make_clip):
    make_clip("in.mp4", 2).chmod(0)
    expect_refusal(flashvsr("upscale", "in.mp4", "-o", "out.mp4"), "in.mp4 cannot be read: permission denied")


def test_a_clip_cut_while_it_is_read(flashvsr, make_clip, files_in, tmp_path: Path):
    """Matroska can be opened without its end, so that the loss shows only when the frames are counted."""
    whole = make_clip("in.mkv", 60).read_bytes()
    (tmp_path / "in.mkv").write_bytes(whole[: len(whole) * 2 // 3])
    expect_refusal(flashvsr("upscale", "in.mkv", "-o", "out.mp4", "-s", 1, "-q"), "in.mkv")
    assert files_in() == {"in.mkv"}


def test_outputs_that_cannot_be_written(flashvsr, make_clip, make_pictures, files_in, tmp_path: Path):
    make_clip("in.mp4", 3)
    make_pictures("shots", 3)
    (tmp_path / "there.mp4").write_text("precious")
    (tmp_path / "link.mp4").symlink_to("in.mp4")
    before = files_in()
    for source, target, message in (
        ("in.mp4", "in.mp4", "in.mp4 is the input itself"),
        ("in.mp4", "link.mp4", "link.mp4 is the input itself"),
        ("in.mp4", "there.mp4", "there.mp4 exists already"),
        ("in.mp4", "no/where/out.mp4", "does not exist"),
        ("in.mp4", "out.xyz", "out.xyz has an extension that is no video container"),
        ("in.mp4", "out.ogv", "out.ogv has an extension that is no video container"),
        ("in.mp4", "out", "out has no extension"),
        ("in.mp4", "out.png", "out.png is one picture, but the input has more frames"),
        ("in.mp4", "shots/", "shots/ has pictures already"),
        ("shots", "shots", "shots is the input itself"),
        ("shots/shot_%03d.png", "shots/shot_%03d.png", "shots holds the input's pictures"),
        ("in.mp4", "shots/shot_%03d.png", "has pictures already, shot_001.png for one"),
    ):
        expect_refusal(flashvsr("upscale", source, "-o", target), message)
    assert files_in() == before
    assert (tmp_path / "there.mp4").read_text() == "precious"
    expect_refusal(flashvsr("upscale", "shots", "-o", "shots/shot_%03d.png", "-y"), "holds the input's pictures")
    expect_refusal(flashvsr("upscale", "in.mp4", "-o", "new.mp4", "--report", "no/r.json"), "of the report")
    expect_refusal(flashvsr("upscale", "in.mp4", "-o", "new.mp4", "--codec", "h265"), "no encoder 'h265'")
    assert files_in() == before
    done = flashvsr("upscale", "in.mp4", "-o", "there.mp4", "--overwrite", "-s", 1)
    assert done.code == 0, done.stderr
    assert (tmp_path / "there.mp4").stat().st_size > 1000


def test_pictures_of_a_comparison_that_cannot_be_written(flashvsr, make_clip, files_in, tmp_path: Path):
    """Refused before anything is computed: neither an input nor another file is lost."""
    make_clip("a.mp4", 3)
    make_clip("b.mp4", 3, (96, 128))
    make_clip("true.mp4", 3, (96, 128))
    (tmp_path / "link.mp4").symlink_to("a.mp4")
    (tmp_path / "there.mp4").write_text("precious")
    (tmp_path / "there.png").write_text("precious")
    (tmp_path / "full.png").symlink_to("/dev/full")
    contents = {name: (tmp_path / name).read_bytes() for name in files_in() if (tmp_path / name).is_file()}
    before = files_in()
    clips = ("a.mp4", "b.mp4", "--reference", "true.mp4")
    for options, code, message in (
        (("--video", "a.mp4"), 1, "a.mp4 is the input itself"),
        (("--video", "link.mp4", "-y"), 1, "link.mp4 is the input itself"),
        (("--video", "there.mp4"), 1, "there.mp4 exists already"),
        (("--video", "-", "--json"), 2, "Video and figures would both go to stdout"),
        (("--strip", "there.png"), 1, "there.png exists already"),
        (("--strip", "no/where.png"), 1, "does not exist"),
        (("--strip", "full.png", "-y"), 1, "full.png exists and is not a file"),
        (("--strip", "strip.jpg"), 1, "strip.jpg is no name for one"),
    ):
        expect_refusal(flashvsr("compare", *clips, *options), message, code=code)
    assert files_in() == before
    assert {name: (tmp_path / name).read_bytes() for name in contents} == contents
    outputs = ("--video", "there.mp4", "--strip", "there.png")
    done = flashvsr("compare", *clips, *outputs, "--overwrite")
    assert done.code == 0, done.stderr
    assert files_in() == before
    assert (tmp_path / "there.mp4").stat().st_size > 1000
    assert (tmp_path / "there.png").read_bytes().startswith(b"\x89PNG")


def test_a_comparison_that_fails_leaves_nothing(flashvsr, make_clip, files_in):
    make_clip("a.mp4", 3, (96, 128))
    make_clip("short.mp4", 2, (96, 128))
    before = files_in()
    outputs = ("--video", "both.mp4", "--strip", "strip.png")
    expect_refusal(flashvsr("compare", "a.mp4", "short.mp4", *outputs), "ends after 2 frames")
    expect_refusal(flashvsr("compare", "a.mp4", "nowhere.mp4", *outputs), "nowhere.mp4 does not exist")
    done = flashvsr("compare", "a.mp4", "a.mp4", "--strip", "strip.png", preexec_fn=limit_file_size)
    expect_refusal(done, "strip.png cannot be written: file too large")
    assert files_in() == before


def test_shards_where_a_file_is(flashvsr, make_clip, files_in):
    make_clip("a.mp4", 2)
    for output, message in (
        ("a.mp4", "a.mp4 exists and is not a folder"),
        ("a.mp4/new", "a.mp4/new cannot be written"),
    ):
        expect_refusal(flashvsr("dataset", "build", ".", "-o", output), message)
    assert files_in() == {"a.mp4"}


def test_sizes_that_are_not_measured(flashvsr):
    for size, other in (("255x100", "256x100"), ("320x182", "320x184")):
        done = flashvsr("bench", "model", "--model", "nano", "--size", size, "-d", "cpu")
        expect_refusal(done, f"{size} cannot be measured", f"Use --size {other}.", code=2)


def limit_file_size() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT_BYTES, LIMIT_BYTES))


@pytest.mark.parametrize("target", ["out.mkv", "out.y4m", "out/", "out.mp4"])
def test_a_disk_that_takes_no_more(flashvsr, make_clip, files_in, target: str):
    """The limit on the size of a file stands for a full disk: a write fails in the middle of the work."""
    make_clip("in.mp4", 30, (48, 64))
    options = ("-s", 2, "--quiet") if target != "out/" else ("-s", 4, "--quiet")
    done = flashvsr("upscale", "in.mp4", "-o", target, *options, preexec_fn=limit_file_size)
    expect_refusal(done, f"{target} cannot be written: file too large")
    assert files_in() == {"in.mp4"}


def test_models_and_devices_that_are_not_there(flashvsr, make_clip, files_in, tmp_path: Path):
    make_clip("in.mp4", 2)
    (tmp_path / "model").mkdir()
    before = files_in()
    for options, message in (
        (("--model", "v7"), "no model named 'v7'"),
        (("--model", "nowhere/at/all"), "nowhere/at/all"),
        (("--model", "model"), "model lacks diffusion_pytorch_model_streaming_dmd.safetensors"),
        (("--model", "in.mp4"), "in.mp4"),
        (("--model", "v1.1"), "HF_HUB_OFFLINE is set"),
        (("--device", "tpu"), "'tpu' is not the name of a device"),
        (("--device", "cuda:99"), "cuda:99"),
    ):
        expect_refusal(flashvsr("upscale", "in.mp4", "-o", "out.mp4", "-q", *options), message)
    assert files_in() == before


def test_wrong_usage(flashvsr, make_clip, files_in):
    make_clip("in.mp4", 1)
    for arguments in (
        ("nonsense",),
        ("upscale",),
        ("upscale", "in.mp4"),
        ("upscale", "in.mp4", "-o", "out.mp4", "--bogus"),
        ("upscale", "in.mp4", "-o", "out.mp4", "--scale", "0.5"),
        ("upscale", "in.mp4", "-o", "out.mp4", "--fps", "fast"),
        ("upscale", "in.mp4", "-o", "out.mp4", "--fps", "0"),
        ("upscale", "-", "-o", "-", "--input-size", "320"),
        ("upscale", "in.mp4", "-o", "out.mp4", "--seed", "-1"),
        ("upscale", "in.mp4", "-o", "out.mp4", "--decoder", "huge"),
        ("upscale", "in.mp4", "-o", "out.mp4", "--sparse-ratio", "-1"),
        ("upscale", "in.mp4", "-o", "out.mp4", "--output-format", "y4m"),
        ("upscale", "in.mp4", "-o", "-", "--report", "-"),
        ("upscale", "in.mp4", "-o", "out.y4m", "--crf", "18"),
        ("train", "export", "run", "-o", "out.safetensors", "--note", "license"),
        ("upscale", "in.mp4", "-o", "out/", "--crf", "18"),
        ("upscale", "in.mp4", "-o", "out.png", "--codec", "libx265", "--crf", "10"),
        ("upscale", "in.mp4", "-o", "%04d.png", "--preset-for", "share"),
    ):
        done = flashvsr(*arguments)
        assert done.code == 2, (arguments, done.stderr)
        assert done.stdout == b""
        assert "Traceback" not in done.stderr
        assert "rror" in done.stderr
    assert files_in() == {"in.mp4"}


def test_debug_shows_where(flashvsr):
    done = flashvsr("--debug", "upscale", "nowhere.mp4", "-o", "out.mp4")
    assert done.code == 1
    assert "Traceback" in done.stderr
    assert "InputError: nowhere.mp4 does not exist." in done.stderr
