"""Comparing clips."""

import json
import math
import re
from pathlib import Path

import av
import numpy as np
import pytest
from typer.testing import CliRunner

from flashvsr_cli.cli.app import app
from flashvsr_cli.compare.clips import compare_clips
from flashvsr_cli.compare.metrics import psnr, ssim, to_luma
from flashvsr_cli.compare.pictures import write_png
from flashvsr_cli.errors import FlashVSRError, InputError, UsageError

N_FRAMES, HEIGHT, WIDTH = 6, 48, 64


def write_clip(path: Path, frames: np.ndarray) -> str:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "bgr0"
        for image in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))
    return str(path)


@pytest.fixture
def true_frames() -> np.ndarray:
    row, column = np.mgrid[:HEIGHT, : WIDTH + 2 * N_FRAMES]
    picture = 128 + 60 * np.sin(column / 5) * np.cos(row / 7)
    moving = [picture[:, 2 * i : 2 * i + WIDTH] for i in range(N_FRAMES)]
    return np.repeat(np.stack(moving)[..., None], 3, axis=3).astype(np.uint8)


def test_figures_tell_a_good_clip_from_a_noisy_one(tmp_path: Path, true_frames: np.ndarray) -> None:
    rng = np.random.default_rng(0)
    noisy = np.clip(true_frames + rng.normal(0, 12, true_frames.shape), 0, 255).astype(np.uint8)
    good = np.clip(true_frames.astype(int) + 1, 0, 255).astype(np.uint8)
    names = [write_clip(tmp_path / f"{n}.mkv", x) for n, x in (("a", noisy), ("b", good), ("true", true_frames))]
    video, strip = tmp_path / "side.mkv", tmp_path / "strip.png"
    found = compare_clips(names[0], names[1], reference=names[2], video=str(video), strip=strip)
    a, b = found.clips["a"], found.clips["b"]
    assert found.n_frames == N_FRAMES
    assert found.size == (HEIGHT, WIDTH)
    # One level of 255 everywhere is 219/255 levels of studio luma.
    assert b.psnr_y == pytest.approx(10 * math.log10(255**2 / (219 / 255) ** 2), abs=0.1)
    assert a.psnr_y < 35 < b.psnr_y
    assert a.ssim_y < b.ssim_y <= 1
    assert b.flicker == pytest.approx(1, abs=0.05)
    assert a.flicker > 2
    assert np.array(b.mean_color) == pytest.approx(true_frames.mean(axis=(0, 1, 2)) + 1, abs=0.2)
    with av.open(str(video)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert np.stack(frames).shape == (N_FRAMES, HEIGHT, 2 * WIDTH, 3)
    with av.open(str(strip)) as container:
        sheet = next(container.decode(video=0)).to_ndarray(format="rgb24")
    np.testing.assert_array_equal(sheet[:HEIGHT, :HEIGHT], noisy[0][:, 8:56])


def test_a_smaller_clip_is_enlarged_and_said_so(tmp_path: Path, true_frames: np.ndarray) -> None:
    small = write_clip(tmp_path / "small.mkv", np.ascontiguousarray(true_frames[:, ::2, ::2]))
    large = write_clip(tmp_path / "large.mkv", true_frames)
    found = compare_clips(small, large)
    assert found.resized == ("a",)
    assert found.clips["a"].psnr_y is None
    assert found.clips["b"].warped_difference is not None


def test_equal_clips_as_json(tmp_path: Path, true_frames: np.ndarray) -> None:
    """JSON has no infinity."""
    clip = write_clip(tmp_path / "a.mkv", true_frames[:2])
    found = json.loads(json.dumps(compare_clips(clip, clip, reference=clip).to_json(), allow_nan=False))
    assert found["clips"]["a"]["psnr_y"] is None
    assert found["clips"]["a"]["ssim_y"] == pytest.approx(1)


@pytest.mark.parametrize(("layout", "width"), [("side", 2 * WIDTH), ("wipe", WIDTH)])
def test_a_video_and_a_strip_by_the_command(tmp_path: Path, true_frames: np.ndarray, layout: str, width: int) -> None:
    a, b = (write_clip(tmp_path / f"{n}.mkv", x) for n, x in (("a", true_frames), ("b", 255 - true_frames)))
    video, strip = tmp_path / "both.mkv", tmp_path / "strip.png"
    done = CliRunner().invoke(
        app, ["compare", a, b, "--video", str(video), "--layout", layout, "--strip", str(strip), "--json"]
    )
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["n_frames"] == N_FRAMES
    with av.open(str(video)) as container:
        frames = [frame.to_ndarray(format="rgb24").astype(int) for frame in container.decode(video=0)]
    assert frames[0].shape == (HEIGHT, width, 3)
    # The border of the wipe begins at the left: all of the first frame is b.
    assert abs(frames[0][:, -WIDTH // 2 :] - (255 - true_frames[0][:, WIDTH // 2 :].astype(int))).mean() < 12
    assert strip.is_file()


def test_clips_that_do_not_match_are_refused(tmp_path: Path, true_frames: np.ndarray) -> None:
    whole = write_clip(tmp_path / "whole.mkv", true_frames)
    short = write_clip(tmp_path / "short.mkv", true_frames[:3])
    wide = write_clip(tmp_path / "wide.mkv", np.ascontiguousarray(true_frames[:, :24]))
    with pytest.raises(InputError, match="ends after 3 frames"):
        compare_clips(whole, short)
    assert compare_clips(whole, short, n_frames=3).n_frames == 3
    with pytest.raises(UsageError, match="another shape"):
        compare_clips(whole, wide)


@pytest.fixture
def places(tmp_path: Path, true_frames: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two clips, a folder with a picture, and links to them; the test runs there."""
    for name in ("a.mkv", "b.mkv"):
        write_clip(tmp_path / name, true_frames)
    (tmp_path / "shots").mkdir()
    write_png(tmp_path / "shots" / "1.png", true_frames[0])
    (tmp_path / "linked.png").symlink_to("shots/1.png")
    (tmp_path / "hard.mkv").hardlink_to(tmp_path / "b.mkv")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("inputs", "video", "strip", "message"),
    [
        (("a.mkv", "b.mkv", None), "hard.mkv", None, "hard.mkv is the input itself"),
        (("a.mkv", "a.mkv", "b.mkv"), "./b.mkv", None, "b.mkv is the input itself"),
        (("linked.png", "a.mkv", None), None, "shots/1.png", "1.png is the input itself"),
        (("a.mkv", "shots", None), None, "shots/1.png", "shots holds the input's pictures"),
        (("a.mkv", "shots", None), None, "linked.png", "shots holds the input's pictures"),
        (("a.mkv", "shots", None), None, "shots/new.png", "shots holds the input's pictures"),
        (("a.mkv", "shots", None), "shots/%d.png", None, "shots holds the input's pictures"),
        (("a.mkv", "b.mkv", None), "both.png", "./both.png", "both.png would take the place of both.png"),
        (("a.mkv", "b.mkv", None), "shots/", "linked.png", "linked.png would take the place of shots/"),
        (("a.mkv", "b.mkv", None), "no/where.mkv", None, "no does not exist"),
        (("a.mkv", "b.mkv", None), None, "-", "- is no name for one"),
        (("nowhere.mkv", "b.mkv", None), "nowhere.mkv", None, "nowhere.mkv does not exist"),
    ],
)
def test_no_input_is_replaced_even_if_files_may_be(
    places: Path, inputs: tuple[str, str, str | None], video: str | None, strip: str | None, message: str
) -> None:
    def contents() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in places.rglob("*") if path.is_file()}

    before, (a, b, reference) = contents(), inputs
    with pytest.raises(FlashVSRError, match=re.escape(message)):
        compare_clips(a, b, reference=reference, video=video, strip=Path(strip) if strip else None, overwrite=True)
    assert contents() == before


def test_known_values_of_the_metrics() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (32, 40, 3), dtype=np.uint8)
    luma = to_luma(image)
    assert float(to_luma(np.full((2, 2, 3), 255, np.uint8)).max()) == pytest.approx(235, abs=0.01)
    assert psnr(luma, luma) == math.inf
    assert ssim(luma, luma) == pytest.approx(1)
    assert psnr(luma, luma + 5) == pytest.approx(20 * math.log10(255 / 5), abs=1e-4)
