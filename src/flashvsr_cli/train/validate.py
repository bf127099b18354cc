"""Measuring a model on clips it was not trained on, through the code that upscales files."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import av
import numpy as np
import torch
from torch import Tensor

from flashvsr_cli.compare.metrics import Flicker, psnr, ssim, to_luma
from flashvsr_cli.compare.pictures import Picture, arrange, write_png
from flashvsr_cli.dataset.compress import compress_video
from flashvsr_cli.dataset.degrade import add_noise, resize_clip
from flashvsr_cli.dataset.motion import Picture as Scene
from flashvsr_cli.dataset.motion import render_clip
from flashvsr_cli.dataset.procedural import draw_picture
from flashvsr_cli.dataset.sources import list_photos, read_index, read_photo
from flashvsr_cli.errors import InputError
from flashvsr_cli.model.stream import Network
from flashvsr_cli.options import Settings
from flashvsr_cli.pipeline import Upscaler
from flashvsr_cli.train.config import StageConfig
from flashvsr_cli.train.random import Purpose, generator_of
from flashvsr_cli.weights import Checkpoint

Clip = np.ndarray
STRIP_SIDE = 192
LOW_RES_SIDE = 4
BORDERS = (8, 16, 128)
"""Sides in pixels of what the model works in: latents, tokens, windows. Each is made of the one before it."""


@dataclass(frozen=True)
class ValidationClip:
    """One clip and what is given to the model.

    Attributes:
        source: what it was made from.
        variant: "clean" or "degraded".
        wanted: (T, H, W, 3) uint8.
        low_res: (T, h, w, 3) uint8.
    """

    source: str
    variant: str
    wanted: Clip
    low_res: Clip


def make_clips(config: StageConfig) -> list[ValidationClip]:
    """Clips of held-out videos and photos (or procedural pictures where there are none), clean and degraded."""
    options, held_out = config.validation, config.data.hold_out
    paths = list_photos(options.photos, only=held_out) if options.photos and held_out else []
    videos = []
    if held_out:
        paths += [path for path, _ in read_index(config.data.shards, "photo", only=held_out)]
        videos = [path for path, _ in read_index(config.data.shards, "video", only=held_out)][: options.n_clips]
    clips = [clip for path in videos for clip in clips_of_video(path, config)]
    for i_clip in range(options.n_clips - len(videos)):
        rng = generator_of(config.seed, i_clip, Purpose.VALIDATION)
        path = paths[i_clip % len(paths)] if paths else None
        scene = Scene.of(read_photo(path) if path else draw_picture(rng, 512, torch.device("cpu")))
        wanted = render_clip(scene, rng, options.n_frames, (options.size, options.size), speed=0.25).round()
        clips += make_variants(path.stem if path else "procedural", wanted, rng, config)
    return clips


def make_variants(source: str, wanted: Tensor, rng: np.random.Generator, config: StageConfig) -> list[ValidationClip]:
    """A clip (T, 3, H, W) in levels, sides multiples of twice the scale, reduced cleanly, and degraded as well."""
    options, scale = config.validation, config.data.scale
    low = resize_clip(wanted, (wanted.shape[2] // scale, wanted.shape[3] // scale))
    noisy = add_noise(low, rng, options.noise_sigma, like_photons=False, in_grey=False).round()
    degraded = compress_video(to_array(noisy), crf=options.crf, preset="medium")
    truth = to_array(wanted)
    return [
        ValidationClip(source, "clean", truth, to_array(low)),
        ValidationClip(source, "degraded", truth, degraded),
    ]


def clips_of_video(path: Path, config: StageConfig) -> list[ValidationClip]:
    """The first frames of a real video, reduced like the others.

    Raises:
        InputError: the file holds no video that can be read.
    """
    side = 2 * config.data.scale
    try:
        with av.open(str(path)) as container:
            frames = [
                frame.to_ndarray(format="rgb24")
                for frame in islice(container.decode(video=0), config.validation.n_frames)
            ]
    except (av.FFmpegError, OSError) as error:
        raise InputError(f"{path} holds no video that can be read.", "Give another --video.") from error
    wanted = torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2).float()
    height, width = (length // side * side for length in wanted.shape[-2:])
    rng = generator_of(config.seed, config.validation.n_clips, Purpose.VALIDATION)
    return make_variants(path.stem, wanted[..., :height, :width], rng, config)


def to_array(clip: Tensor) -> Clip:
    """(T, 3, H, W) levels 0..255 -> (T, H, W, 3) uint8."""
    return np.ascontiguousarray(clip.to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy())


def enlarge(low_res: Clip, scale: int) -> Clip:
    """The plain bicubic enlargement, (T, h, w, 3) uint8."""
    frames = torch.from_numpy(low_res).permute(0, 3, 1, 2).float()
    return to_array(resize_clip(frames, (frames.shape[2] * scale, frames.shape[3] * scale)))


@dataclass(frozen=True)
class Figures:
    """Means over a clip's frames.

    Attributes:
        psnr, ssim: of luma, against what is wanted.
        flicker: mean warped difference over that of what is wanted.
        color: largest difference of a channel's mean to the enlarged input's, in levels.
        borders: per side in `BORDERS`, what `measure_borders` says over what it says of the plain enlargement, whose
            error knows no borders but those of what is filmed: 1 where there is nothing to be seen of them.
    """

    psnr: float
    ssim: float
    flicker: float
    color: float
    borders: tuple[float, ...]


def measure(clips: Mapping[str, Clip], wanted: Clip, enlarged: Clip) -> dict[str, Figures]:
    """Figures of several versions of a clip (T, H, W, 3) uint8."""
    flicker = Flicker()
    quality: dict[str, list[tuple[float, float]]] = {name: [] for name in clips}
    for i_frame, frame in enumerate(wanted):
        lumas = {name: to_luma(clip[i_frame]) for name, clip in clips.items()}
        lumas[""] = to_luma(frame)
        for name in clips:
            quality[name].append((psnr(lumas[name], lumas[""]), ssim(lumas[name], lumas[""])))
        flicker.add(lumas, "")
    changes = flicker.result()
    figures = {}
    truth = _lumas_of(wanted)
    plain = measure_borders(_lumas_of(enlarged) - truth)
    for name, clip in clips.items():
        mean_psnr, mean_ssim = np.mean(quality[name], axis=0)
        shift = np.abs(clip.mean(axis=(0, 1, 2)) - enlarged.mean(axis=(0, 1, 2))).max()
        ratio = changes[name] / max(changes[""], 1e-6) if changes else 1.0
        own = measure_borders(_lumas_of(clip) - truth)
        borders = tuple(one / other for one, other in zip(own, plain, strict=True))
        figures[name] = Figures(float(mean_psnr), float(mean_ssim), ratio, float(shift), borders)
    return figures


def _lumas_of(clip: Clip) -> Tensor:
    """(T, H, W, 3) -> (T, H, W)."""
    return torch.cat([to_luma(frame)[0] for frame in clip])


def measure_borders(error: Tensor) -> tuple[float, ...]:
    """Per side in `BORDERS`: how much errors (T, H, W) change across borders of that size and no larger one, over how
    much across borders of the next smaller size; 1 where a clip has none.
    """
    ratios = []
    for part, side, whole in zip((LOW_RES_SIDE, *BORDERS), BORDERS, (*BORDERS[1:], sys.maxsize), strict=False):
        across, within = [], []
        for axis in (1, 2):
            changes = error.diff(dim=axis).abs().mean(dim=(0, 3 - axis))
            position = torch.arange(1, error.shape[axis])
            across.append(changes[(position % side == 0) & (position % whole != 0)])
            within.append(changes[(position % part == 0) & (position % side != 0)])
        there, elsewhere = torch.cat(across), torch.cat(within)
        is_comparable = len(there) and len(elsewhere) and elsewhere.mean() > 0
        ratios.append((there.mean() / elsewhere.mean()).item() if is_comparable else 1.0)
    return tuple(ratios)


@dataclass(frozen=True)
class Result:
    """What was measured on one clip."""

    clip: ValidationClip
    model: Figures
    bicubic: Figures


def measure_network(
    network: Network, settings: Settings, clips: list[ValidationClip], scale: int, strip: Path | None = None
) -> list[Result]:
    """Upscale every clip and compare with bicubic.

    Args:
        network: the model.
        settings: what it is used with.
        clips: from `make_clips`.
        scale: enlargement.
        strip: where to write a strip of pictures (input, bicubic, model, wanted).
    """
    upscaler = Upscaler(network, Checkpoint("trained", "v1.1", {}))
    side = min(STRIP_SIDE, *(length for clip in clips for length in clip.wanted.shape[1:3]))
    rows: list[list[Picture]] = []
    results = []
    for clip in clips:
        made = np.stack(list(upscaler.upscale(iter(clip.low_res), scale=scale, settings=settings)))
        enlarged = enlarge(clip.low_res, scale)
        figures = measure({"model": made, "bicubic": enlarged}, clip.wanted, enlarged)
        results.append(Result(clip, figures["model"], figures["bicubic"]))
        middle = len(made) // 2
        rows.append([_centre(version[middle], side) for version in (enlarged, made, clip.wanted)])
    if strip is not None:
        write_png(strip, arrange(rows))
    return results


def summarise(results: list[Result]) -> dict[str, float]:
    """Means per variant: psnr, ssim, their gains over bicubic, flicker, color, borders by their side."""
    summary = {}
    for variant in dict.fromkeys(result.clip.variant for result in results):
        chosen = [result for result in results if result.clip.variant == variant]
        for name in ("psnr", "ssim", "flicker", "color"):
            summary[f"{variant}/{name}"] = float(np.mean([getattr(result.model, name) for result in chosen]))
        for i_side, side in enumerate(BORDERS):
            ratios = [result.model.borders[i_side] for result in chosen]
            summary[f"{variant}/borders_{side}"] = float(np.mean(ratios))
        for name in ("psnr", "ssim"):
            gains = [getattr(result.model, name) - getattr(result.bicubic, name) for result in chosen]
            summary[f"{variant}/{name}_gain"] = float(np.mean(gains))
        summary[f"{variant}/bicubic_flicker"] = float(np.mean([result.bicubic.flicker for result in chosen]))
    return summary


def table_of(results: list[Result]) -> str:
    """A Markdown table: a row per source, with the mean of its clips and the gain over bicubic in brackets."""
    lines = [
        "| clips of | PSNR-Y clean | SSIM clean | PSNR-Y degraded | SSIM degraded | flicker clean (bicubic) | colour "
        f"| borders of {', '.join(map(str, BORDERS))} |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for source in dict.fromkeys(result.clip.source for result in results):
        lines.append(_row(source, summarise([result for result in results if result.clip.source == source])))
    lines.append(_row("mean of all clips", summarise(results)))
    return "\n".join(lines)


def _row(name: str, figures: Mapping[str, float]) -> str:
    cells = [name]
    for variant in ("clean", "degraded"):
        cells.append(f"{figures[f'{variant}/psnr']:.2f} ({figures[f'{variant}/psnr_gain']:+.2f})")
        cells.append(f"{figures[f'{variant}/ssim']:.3f} ({figures[f'{variant}/ssim_gain']:+.3f})")
    cells.append(f"{figures['clean/flicker']:.2f} ({figures['clean/bicubic_flicker']:.2f})")
    cells.append(f"{max(figures['clean/color'], figures['degraded/color']):.2f}")
    cells.append(", ".join(f"{figures[f'clean/borders_{side}']:.2f}" for side in BORDERS))
    return f"| {' | '.join(cells)} |"


def _centre(image: Picture, side: int) -> Picture:
    top, left = (image.shape[0] - side) // 2, (image.shape[1] - side) // 2
    return image[top : top + side, left : left + side]
