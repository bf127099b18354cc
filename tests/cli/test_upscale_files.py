"""`flashvsr upscale` from file to file, read back with PyAV."""

import hashlib
import json
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from flashvsr_cli import __version__

RATE = Fraction(30000, 1001)


@pytest.mark.parametrize("steps", [(1,), (1, 3, 2)], ids=["cfr", "vfr"])
def test_video_with_sound_keeps_frames_times_and_audio(flashvsr, make_clip, look, files_in, steps, tmp_path: Path):
    source = make_clip("in.mp4", 30, has_audio=True, steps=steps)
    done = flashvsr("upscale", source, "-o", "out.mp4")
    assert done.code == 0, done.stderr
    assert done.stdout == b""
    before, after = look(source), look(tmp_path / "out.mp4")
    assert after.size == (96, 128)
    assert after.n_frames == 30
    assert after.rate == before.rate
    if steps == (1,):
        assert after.rate == RATE
    assert after.times == before.times
    assert len(before.audio) > 10
    assert after.audio == before.audio
    assert files_in() == {"in.mp4", "out.mp4"}


def test_what_is_shown_on_the_way(flashvsr, make_clip):
    make_clip("[bold]in.mkv", 5, has_audio=True)
    done = flashvsr("upscale", "[bold]in.mkv", "-o", "[red]out.png/", "--scale", "1.5")
    assert done.code == 0, done.stderr
    for part in ("loading ", "mini on cpu", "upscaling [bold]in.mkv", "note: ", "5 frames at 48x36", "[red]out.png/"):
        assert part in done.stderr
    quiet = flashvsr("upscale", "[bold]in.mkv", "-o", "quiet.png/", "--quiet")
    assert quiet.code == 0
    assert quiet.stderr == ""


def test_a_picture_to_a_picture(flashvsr, make_pictures, tmp_path: Path):
    make_pictures("in", 1, (19, 25))
    done = flashvsr("upscale", "in/shot_001.png", "-o", "out.png", "-s", "1.5")
    assert done.code == 0, done.stderr
    assert "1 frame at 38x28" in done.stderr
    with Image.open(tmp_path / "out.png") as picture:
        assert picture.size == (38, 28)
        assert np.asarray(picture).std() > 1


def test_numbered_pictures_to_a_video_and_to_a_pattern(flashvsr, make_pictures, look, tmp_path: Path):
    make_pictures("in", 7)
    done = flashvsr("upscale", "in/shot_%03d.png", "-o", "out.mkv", "--fps", "24000/1001", "--codec", "ffv1")
    assert done.code == 0, done.stderr
    video = look(tmp_path / "out.mkv")
    assert (video.n_frames, video.size, video.rate) == (7, (96, 128), Fraction(24000, 1001))
    done = flashvsr("upscale", "in", "-o", "new/big-%04d.png")
    assert done.code == 0, done.stderr
    written = sorted(path.name for path in (tmp_path / "new").iterdir())
    assert written == [f"big-{number:04d}.png" for number in range(1, 8)]
    with av.open(tmp_path / "out.mkv") as container:
        frames = [frame.to_ndarray(format="rgb24").astype(int) for frame in container.decode(video=0)]
    for name, frame in zip(written, frames, strict=True):
        with Image.open(tmp_path / "new" / name) as picture:
            difference = np.abs(np.asarray(picture).astype(int) - frame)
        assert difference.mean() < 12, "the same pictures, but for the video's subsampled chroma"


def test_encoder_options_reach_the_encoder(flashvsr, make_clip, tmp_path: Path):
    make_clip("in.mp4", 6)
    options = ("--codec", "libx265", "--crf", "30", "--preset", "ultrafast", "--pix-fmt", "yuv420p10le")
    done = flashvsr("upscale", "in.mp4", "-o", "out.mkv", "-s", 2, *options)
    assert done.code == 0, done.stderr
    with av.open(tmp_path / "out.mkv") as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.pix_fmt) == ("hevc", "yuv420p10le")
    assert "x265" not in done.stderr, "encoders do not chatter"


def test_the_same_seed_gives_the_same_pixels_and_another_seed_others(flashvsr, make_clip, tmp_path: Path):
    make_clip("in.mp4", 3)
    pixels = []
    for name, seed in (("a.y4m", 1), ("b.y4m", 1), ("c.y4m", 2)):
        done = flashvsr("upscale", "in.mp4", "-o", name, "-s", 2, "--seed", seed)
        assert done.code == 0, done.stderr
        pixels.append((tmp_path / name).read_bytes())
    assert pixels[0] == pixels[1] != pixels[2]


def test_damage_on_the_way_is_counted_in_the_report(flashvsr, make_clip, look, tmp_path: Path):
    """Three frames of FFV1, cut to two bytes: the frame before takes their place, so the sound stays in step."""
    whole = make_clip("whole.mkv", 30, has_audio=True, codec="ffv1")
    with av.open(str(whole)) as opened, av.open(str(tmp_path / "in.mkv"), "w") as out:
        streams = {s.index: out.add_stream_from_template(s, opaque=True) for s in opened.streams}
        n_frames = 0
        for packet in opened.demux():
            if not packet.size:
                continue
            is_lost = packet.stream.type == "video" and n_frames in (9, 10, 20)
            n_frames += packet.stream.type == "video"
            written = av.Packet(bytes(packet)[:2] if is_lost else bytes(packet))
            written.pts, written.dts, written.time_base = packet.pts, packet.dts, packet.time_base
            written.duration, written.is_keyframe = packet.duration, packet.is_keyframe
            written.stream = streams[packet.stream.index]
            out.mux(written)
    done = flashvsr("upscale", "in.mkv", "-o", "out.mkv", "--report", "r.json")
    assert done.code == 0, done.stderr
    assert "3 packets cannot be read, 0 frames come out damaged, 3 repeat the one before" in " ".join(
        done.stderr.split()
    )
    damage = json.loads((tmp_path / "r.json").read_text())["damage"]
    assert damage == {"corrupt_packets": 3, "corrupt_frames": 0, "repeated_frames": 3, "repaired_timestamps": 0}
    before, after = look(whole), look(tmp_path / "out.mkv")
    assert after.times == before.times
    assert after.audio == before.audio


def test_report(flashvsr, make_clip, mini_folder: Path, tmp_path: Path):
    make_clip("in.mp4", 22, has_audio=True)
    done = flashvsr("upscale", "in.mp4", "-o", "out.mp4", "--report", "r.json", "--seed", 7, "--kv-ratio", 2)
    assert done.code == 0, done.stderr
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["flashvsr"] == __version__
    assert report["input"]["name"] == "in.mp4"
    assert report["input"]["size"] == [24, 32]
    assert report["input"]["frame_rate"] == "30000/1001"
    assert [track["codec"] for track in report["input"]["tracks"]] == ["aac"]
    assert report["output"]["name"] == "out.mp4"
    assert report["output"]["size"] == [96, 128]
    assert report["output"]["bytes"] == (tmp_path / "out.mp4").stat().st_size
    assert (report["frames_in"], report["frames_out"]) == (22, 22)
    kinds = ("corrupt_packets", "corrupt_frames", "repeated_frames", "repaired_timestamps")
    assert report["damage"] == dict.fromkeys(kinds, 0)
    seconds = report["seconds"]
    assert set(seconds) == {"open", "read", "model", "write", "total"}
    assert min(seconds.values()) > 0
    assert seconds["total"] >= seconds["model"]
    assert report["fps"] == pytest.approx(22 / seconds["total"])
    assert 50e6 < report["peak_host_bytes"] < 20e9
    assert report["peak_device_bytes"] is None, "the CPU has no memory of its own"
    assert (report["device"], report["backend"], report["dtype"]) == ("cpu", "torch", "float32")
    assert report["model"]["name"] == str(mini_folder)
    assert report["model"]["version"] == "v1.1"
    for name in ("diffusion_pytorch_model_streaming_dmd.safetensors", "LQ_proj_in.ckpt", "TCDecoder.ckpt"):
        expected = hashlib.sha256((mini_folder / name).read_bytes()).hexdigest()
        assert report["model"]["sha256"][name] == expected
    assert report["scale"] == 4
    assert (report["settings"]["seed"], report["settings"]["kv_ratio"]) == (7, 2.0)
    assert set(report["settings"]) >= {"sparse_ratio", "local_range", "color_fix"}
    assert {"codec", "crf", "preset", "pix_fmt", "pipe_format", "audio"} <= set(report["encode"])
    assert report["notices"] == []


def test_without_a_model_named_a_cpu_takes_the_packaged_one(flashvsr, make_clip, look, tmp_path: Path):
    """It needs no network, and brings its own settings along."""
    make_clip("in.mp4", 5)
    done = flashvsr("upscale", "in.mp4", "-o", "out.mkv", "--model", "auto", "--report", "r.json")
    assert done.code == 0, done.stderr
    assert "loading nano on cpu" in done.stderr
    assert "--model v1.1 is the released one" in done.stderr
    assert look(tmp_path / "out.mkv").n_frames == 5
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["model"]["name"] == "nano"
    assert list(report["model"]["sha256"]) == ["nano.safetensors"]
    assert report["settings"]["color_fix"] == "none"


def test_the_packaged_model_has_no_full_decoder(flashvsr, make_clip, files_in):
    make_clip("in.mp4", 1)
    done = flashvsr("upscale", "in.mp4", "-o", "out.mp4", "--model", "auto", "--decoder", "full")
    assert done.code == 1
    assert "holds no vae weights" in done.stderr
    assert files_in() == {"in.mp4"}


def test_report_to_stdout(flashvsr, make_clip):
    make_clip("in.mp4", 1)
    done = flashvsr("upscale", "in.mp4", "-o", "out.mp4", "--report", "-")
    assert done.code == 0, done.stderr
    assert json.loads(done.stdout)["frames_out"] == 1
