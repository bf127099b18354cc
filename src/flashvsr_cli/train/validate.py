"""Measuring a model on clips it was not trained on, through the code that upscales files."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

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
from flashvsr_cli.dataset.sources import list_photos, read_photo
from flashvsr_cli.model.stream import Network
from flashvsr_cli.options import Settings
from flashvsr_cli.pipeline import Upscaler
from flashvsr_cli.train.config import StageConfig
from flashvsr_cli.train.random import Purpose, generator_of
from flashvsr_cli.weights import Checkpoint

Clip = np.ndarray
STRIP_SIDE = 192


@dataclass(frozen=True)
class ValidationClip:
    """One clip and what is given to the model.

    Attributes:
        name: of the clip and the variant.
        wanted: (T, H, W, 3) uint8.
        low_res: (T, h, w, 3) uint8.
    """

    name: str
    wanted: Clip
    low_res: Clip


def make_clips(config: StageConfig) -> list[ValidationClip]:
    """Clips of held-out photos (or procedural pictures where there are none), clean and degraded."""
    options, scale = config.validation, config.data.scale
    paths = list_photos(options.photos, only=config.data.hold_out) if options.photos and config.data.hold_out else []
    clips = []
    for i_clip in range(options.n_clips):
        rng = generator_of(config.seed, i_clip, Purpose.VALIDATION)
        scene = Scene.of(
            read_photo(paths[i_clip % len(paths)]) if paths else draw_picture(rng, 512, torch.device("cpu"))
        )
        wanted = render_clip(scene, rng, options.n_frames, (options.size, options.size), speed=0.25).round()
        low = resize_clip(wanted, (options.size // scale, options.size // scale))
        noisy = add_noise(low, rng, options.noise_sigma, like_photons=False, in_grey=False).round()
        degraded = compress_video(to_array(noisy), crf=options.crf, preset="medium")
        clips.append(ValidationClip(f"{i_clip}-clean", to_array(wanted), to_array(low)))
        clips.append(ValidationClip(f"{i_clip}-degraded", to_array(wanted), degraded))
    return clips


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
    """

    psnr: float
    ssim: float
    flicker: float
    color: float


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
    for name, clip in clips.items():
        mean_psnr, mean_ssim = np.mean(quality[name], axis=0)
        shift = np.abs(clip.mean(axis=(0, 1, 2)) - enlarged.mean(axis=(0, 1, 2))).max()
        ratio = changes[name] / max(changes[""], 1e-6) if changes else 1.0
        figures[name] = Figures(float(mean_psnr), float(mean_ssim), ratio, float(shift))
    return figures


def validate(
    network: Network, settings: Settings, clips: list[ValidationClip], scale: int, strip: Path | None
) -> dict[str, float]:
    """Upscale every clip and compare with bicubic.

    Args:
        network: the model.
        settings: what it is used with.
        clips: from `make_clips`.
        scale: enlargement.
        strip: where to write a strip of pictures (input, bicubic, model, wanted).

    Returns:
        Means per variant: psnr, ssim, their gains over bicubic, flicker, color.
    """
    upscaler = Upscaler(network, Checkpoint("trained", "v1.1", {}))
    rows: list[list[Picture]] = []
    results: dict[str, list[tuple[Figures, Figures]]] = {}
    for clip in clips:
        made = np.stack(list(upscaler.upscale(iter(clip.low_res), scale=scale, settings=settings)))
        enlarged = enlarge(clip.low_res, scale)
        figures = measure({"model": made, "bicubic": enlarged}, clip.wanted, enlarged)
        results.setdefault(clip.name.split("-")[-1], []).append((figures["model"], figures["bicubic"]))
        middle = len(made) // 2
        rows.append([_centre(version[middle]) for version in (enlarged, made, clip.wanted)])
    if strip is not None:
        write_png(strip, arrange(rows))
    return _summarise(results)


def _summarise(results: Mapping[str, list[tuple[Figures, Figures]]]) -> dict[str, float]:
    summary = {}
    for variant, pairs in results.items():
        for name in ("psnr", "ssim", "flicker", "color"):
            summary[f"{variant}/{name}"] = float(np.mean([getattr(model, name) for model, _ in pairs]))
        for name in ("psnr", "ssim"):
            gains = [getattr(model, name) - getattr(bicubic, name) for model, bicubic in pairs]
            summary[f"{variant}/{name}_gain"] = float(np.mean(gains))
    return summary


def _centre(image: Picture) -> Picture:
    side = min(STRIP_SIDE, *image.shape[:2])
    top, left = (image.shape[0] - side) // 2, (image.shape[1] - side) // 2
    return image[top : top + side, left : left + side]
