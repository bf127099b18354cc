"""Clips, degradations and shards."""

import json
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from flashvsr_cli.compare.flow import estimate_coarse_flow, estimate_flow, estimate_large_flow
from flashvsr_cli.compare.pictures import write_png
from flashvsr_cli.dataset.build import SHEET, build_shards
from flashvsr_cli.dataset.compress import compress_video
from flashvsr_cli.dataset.degrade import degrade_clip, gaussian_kernel, resize_clip
from flashvsr_cli.dataset.filters import FilterConfig, measure_file
from flashvsr_cli.dataset.jpeg import LUMINANCE, compress_jpeg, quantisation_table
from flashvsr_cli.dataset.motion import Picture, render_clip
from flashvsr_cli.dataset.pool import ClipPool
from flashvsr_cli.dataset.procedural import colored_noise, draw_picture
from flashvsr_cli.dataset.sources import INDEX, read_index
from flashvsr_cli.train.config import DataConfig, DegradationConfig, StageConfig, ValidationConfig
from flashvsr_cli.train.losses import flicker_distance
from flashvsr_cli.train.validate import make_clips

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def clip() -> torch.Tensor:
    """(9, 3, 128, 128) levels."""
    rng = np.random.default_rng(3)
    return render_clip(Picture.of(draw_picture(rng, 512, CPU)), rng, 9, (128, 128))


def psnr(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(10 * torch.log10(255**2 / (a.float() - b.float()).square().mean()))


def test_clean_clips_are_the_bicubic_reduction(clip: torch.Tensor) -> None:
    config = DegradationConfig(clean=1.0, mild=0.0, strong=0.0)
    degraded = degrade_clip(clip, np.random.default_rng(0), config, 4)
    assert degraded.compression is None
    assert torch.equal(degraded.clip.float(), resize_clip(clip, (32, 32)))


def test_stronger_kinds_lose_more_and_repeat_with_their_seed(clip: torch.Tensor) -> None:
    clean = resize_clip(clip, (32, 32))
    losses = {}
    for kind in ("mild", "strong"):
        config = DegradationConfig(**{"clean": 0.0, "mild": 0.0, "strong": 0.0, kind: 1.0})
        made = [degrade_clip(clip, np.random.default_rng(i), config, 4) for i in range(12)]
        again = degrade_clip(clip, np.random.default_rng(5), config, 4)
        assert torch.equal(made[5].clip, again.clip)
        assert {item.compression is None for item in made} == {True, False}
        losses[kind] = np.mean([float((item.clip - clean).square().mean()) for item in made])
    assert losses["strong"] > 2 * losses["mild"] > 2


def test_blur_kernels_keep_brightness() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        kernel = gaussian_kernel(rng, float(rng.uniform(0.3, 3)))
        assert torch.isfinite(kernel).all()
        assert float(kernel.sum()) == pytest.approx(1, abs=1e-5)


def test_jpeg_follows_quality_and_its_tables(clip: torch.Tensor) -> None:
    assert torch.equal(quantisation_table(LUMINANCE, 50).flatten(), torch.tensor(LUMINANCE).float())
    quality = [psnr(compress_jpeg(clip, q, halve_colour=False), clip) for q in (10, 50, 95)]
    assert quality[0] + 3 < quality[1] < quality[2] - 3
    flat = torch.full((1, 3, 24, 40), 100.0)
    assert (compress_jpeg(flat, 90, halve_colour=True) - flat).abs().max() <= 2


def test_degradation_follows_its_configuration(clip: torch.Tensor) -> None:
    """Nothing by chance: with every share at 0 the reduction is all; the order alone changes the result."""
    plain = DegradationConfig(0, 1, 0, blur_share=(0, 0), noise_share=(0, 0), jpeg_share=(0, 0), video_share=0)
    modes = [
        resize_clip(clip, (clip.shape[2] // 4, clip.shape[3] // 4), mode) for mode in ("bicubic", "area", "bilinear")
    ]
    for seed in range(8):
        made = degrade_clip(clip, np.random.default_rng(seed), plain, 4)
        assert made.compression is None
        assert any(torch.equal(made.clip, mode.clamp(0, 255).round().to(torch.uint8)) for mode in modes)
    shuffled = DegradationConfig(0, 0, 1, shuffled=1, video_share=1, codecs=("libx264", "libx265"), best_crf=20)
    found = [degrade_clip(clip, np.random.default_rng(seed), shuffled, 4) for seed in range(12)]
    assert {made.compression.codec for made in found if made.compression} == {"libx264", "libx265"}
    assert all(made.clip.shape[2:] == (clip.shape[2] // 4, clip.shape[3] // 4) for made in found)
    assert all(20 <= made.compression.crf <= 36 for made in found if made.compression)


def test_video_compression_is_real(clip: torch.Tensor) -> None:
    grey = clip.mean(dim=1, keepdim=True).expand(-1, 3, -1, -1)
    frames = grey.round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    fine, coarse = (compress_video(np.ascontiguousarray(frames), crf=crf) for crf in (10, 40))
    assert fine.shape == coarse.shape == frames.shape
    errors = [np.square(x.astype(float) - frames).mean() for x in (fine, coarse)]
    assert errors[1] > 2 * errors[0] > 0


def test_video_compression_by_another_encoder(clip: torch.Tensor) -> None:
    frames = np.ascontiguousarray(clip.round().to(torch.uint8).permute(0, 2, 3, 1).numpy()[:, :32, :32])
    assert compress_video(frames, crf=28, codec="libx265", repeatable=True).shape == frames.shape


def test_video_compression_can_be_repeated() -> None:
    """Small pictures of noise: what x264 makes of them by default changes from time to time where it has AVX-512."""
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (8, 8, 3)).astype(np.uint8).repeat(4, 0).repeat(4, 1)
    frames = np.stack([np.roll(picture, i, 1) for i in range(25)]) + rng.integers(0, 9, (25, 32, 32, 3), np.uint8)
    first = compress_video(frames, crf=25, repeatable=True)
    for _ in range(100):
        np.testing.assert_array_equal(compress_video(frames, crf=25, repeatable=True), first)


@pytest.mark.parametrize("estimate", [estimate_flow, estimate_coarse_flow])
@pytest.mark.parametrize("shift", [(3, 0), (-2, 5)])
def test_flow_finds_a_shift(shift: tuple[int, int], estimate: Callable[..., torch.Tensor]) -> None:
    rng = np.random.default_rng(1)
    picture = colored_noise(rng, 256, CPU).mean(dim=0)[None, None] * 255
    x, y = shift
    first, second = picture[..., 40:168, 40:200], picture[..., 40 - y : 168 - y, 40 - x : 200 - x]
    flow = estimate(first, second)[0, :, 16:-16, 16:-16]
    median = flow.flatten(1).median(dim=1).values
    torch.testing.assert_close(median, torch.tensor([float(x), float(y)]), atol=0.3, rtol=0)


def test_build_filters_in_named_steps_and_resumes(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (96, 128, 3), dtype=np.uint8)
    write_png(photos / "good.png", noise)
    write_png(photos / "small.png", noise[:32])
    write_png(photos / "flat.png", np.full((96, 128, 3), 120, np.uint8))
    (photos / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    config = FilterConfig(min_side=64)
    result = build_shards([photos], tmp_path / "out", config)
    assert result.counts == {
        "found": 4, "readable": 3, "length": 3, "resolution": 2, "sharpness": 1, "exposure": 1, "motion": 1,
    }  # fmt: skip
    assert result.n_measured == 4
    (record,) = [json.loads(line) for line in (tmp_path / "out" / INDEX).read_text().splitlines()]
    assert record["source"] == "good.png"
    assert (tmp_path / "out" / record["file"]).read_bytes() == (photos / "good.png").read_bytes()
    assert (tmp_path / "out" / SHEET).is_file()

    with (tmp_path / "out" / "examined.jsonl").open("a") as log:
        log.write('{"identity": "cut o')
    write_png(photos / "new.png", noise[::-1])
    again = build_shards([photos], tmp_path / "out", config)
    assert again.n_measured == 1
    assert again.counts["motion"] == 2


def test_flow_of_a_large_picture_is_found_on_its_half() -> None:
    picture = colored_noise(np.random.default_rng(1), 800, CPU).mean(dim=0)[None, None] * 255
    first, second = picture[..., 40:168, 20:780], picture[..., 44:172, 14:774]
    flow = estimate_large_flow(first, second)[0, :, 16:-16, 16:-16]
    median = flow.flatten(1).median(dim=1).values
    torch.testing.assert_close(median, torch.tensor([6.0, -4.0]), atol=0.3, rtol=0)


@pytest.mark.parametrize(("container", "n_frames"), [("mp4", 12), ("mkv", 12), ("mp4", 60), ("mkv", 60), ("h264", 60)])
def test_motion_is_found_wherever_it_is_and_whatever_the_container_states(
    tmp_path: Path, container: str, n_frames: int
) -> None:
    """Matroska states no number of frames, a raw stream not even a duration. The second half of the clip moves."""
    smooth = torch.nn.functional.avg_pool2d(torch.rand(3, 260, 260, generator=torch.Generator().manual_seed(0)), 5, 1)
    picture = ((smooth - 0.5) * 4 + 0.5).clamp(0, 1).mul(255).to(torch.uint8).permute(1, 2, 0).numpy()
    path = tmp_path / f"clip.{container}"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=25, options={"preset": "ultrafast", "crf": "12"})
        stream.height, stream.width, stream.pix_fmt = 128, 128, "yuv420p"
        for i_frame in range(n_frames):
            left = 2 * max(0, i_frame - n_frames // 2)
            shown = np.ascontiguousarray(picture[64:192, left : left + 128])
            out.mux(stream.encode(av.VideoFrame.from_ndarray(shown, format="rgb24")))
        out.mux(stream.encode(None))
    found = measure_file(path, "video")
    assert found is not None
    assert found[0].n_frames == n_frames
    # 2 of 128 pixels are 1.6 percent, in about half of the pairs.
    assert 0.3 < found[0].motion < 1.6


def test_what_moves_with_the_picture_is_no_flicker() -> None:
    """An error that follows a pan costs almost nothing; one that stays behind, or comes and goes, does."""
    generator = torch.Generator().manual_seed(0)
    texture, error = torch.nn.functional.avg_pool2d(torch.rand(2, 3, 72, 90, generator=generator), 5, 1)
    texture, error = (texture - 0.5) * 3, (error - 0.5) * 0.5
    wanted = torch.stack([texture[:, :, i : i + 64] for i in range(4)])[None]
    moving = torch.stack([error[:, :, i : i + 64] for i in range(4)])[None]
    blinking = moving * torch.tensor([1.0, -1.0, 1.0, -1.0])[None, :, None, None, None]
    along, here = flicker_distance(wanted + moving, wanted), flicker_distance(wanted + blinking, wanted)
    assert float(along) < 0.05 * float(here)
    assert float(flicker_distance(wanted, wanted)) == 0


def test_held_out_files_of_shards_are_validated_on_and_never_trained_on(tmp_path: Path) -> None:
    sources = tmp_path / "sources"
    sources.mkdir()
    rng = np.random.default_rng(0)
    for name in ("train.mkv", "some-val.mkv"):
        with av.open(str(sources / name), "w") as out:
            stream = out.add_stream("ffv1", rate=25)
            stream.height, stream.width, stream.pix_fmt = 128, 128, "yuv420p"
            noise = rng.integers(0, 256, (128, 140, 3), dtype=np.uint8)
            for i_frame in range(25):
                shown = np.ascontiguousarray(noise[:, i_frame // 2 : i_frame // 2 + 128])
                out.mux(stream.encode(av.VideoFrame.from_ndarray(shown, format="rgb24")))
            out.mux(stream.encode(None))
    limits = FilterConfig(min_frames=20, min_side=64, motion=(0.0, 100.0))
    assert build_shards([sources], tmp_path / "shards", limits).counts["motion"] == 2
    shards = (str(tmp_path / "shards"),)
    assert len(read_index(shards, "video")) == 2
    ((kept, _),) = read_index(shards, "video", only=["-val"])
    data = DataConfig(shards=shards, hold_out=("-val",), procedural=0.0, size=128, pool_clips=2, workers=1)
    pool = ClipPool(data, 0, CPU)
    assert [[path for path, _ in source._videos] for source in pool._sources] == [
        [path for path, _ in read_index(shards, "video", without=["-val"])]
    ]
    config = StageConfig("causal", n_steps=1, data=data, validation=ValidationConfig(n_clips=2, size=128, n_frames=9))
    clips = make_clips(config)
    assert [(clip.source, clip.variant) for clip in clips] == [
        (kept.stem, "clean"), (kept.stem, "degraded"), ("procedural", "clean"), ("procedural", "degraded"),
    ]  # fmt: skip
