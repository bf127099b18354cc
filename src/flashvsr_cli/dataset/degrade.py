"""Low-resolution clips made from high-resolution ones.

Source: the degradation of RealBasicVSR (Chan et al. 2022) as FlashVSR uses it: blur, resize, noise and JPEG, for some
clips in random order (as BSRGAN does), then video compression; the first four twice for the strong kind
(Real-ESRGAN's second order). Clean clips are reduced by the bicubic kernel alone. All on the device the clip is on, but
for the video encoder (`compress.py`).
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from flashvsr_cli.dataset.jpeg import compress_jpeg
from flashvsr_cli.train.config import DegradationConfig

Random = np.random.Generator
BLUR_RADIUS = 10
PEAK = 255.0


@dataclass(frozen=True)
class VideoCompression:
    """What the video encoder is still to do to a clip."""

    codec: str
    crf: int


@dataclass(frozen=True)
class Degraded:
    """A low-resolution clip (T, 3, h, w) uint8, and the compression that it has not gone through yet."""

    clip: Tensor
    compression: VideoCompression | None
    kind: str


def resize_clip(clip: Tensor, size: tuple[int, int], mode: str = "bicubic") -> Tensor:
    """Resize (T, 3, H, W) levels 0..255; "bicubic" is Pillow's, width first, each pass rounded to 8 bits."""
    if mode == "bicubic":
        for step in ((clip.shape[2], size[1]), size):
            clip = F.interpolate(clip, step, mode="bicubic", antialias=True).clamp(0, PEAK).add(0.5).floor()
        return clip
    if mode == "area":
        return F.interpolate(clip, size, mode="area")
    return F.interpolate(clip, size, mode="bilinear", antialias=True)


def gaussian_kernel(rng: Random, sigma: float) -> Tensor:
    """A blur kernel (n, n) that sums to 1: round, stretched, or the sinc kernel of an ideal low pass."""
    side = torch.arange(-BLUR_RADIUS, BLUR_RADIUS + 1, dtype=torch.float32)
    y, x = torch.meshgrid(side, side, indexing="ij")
    kind = rng.random()
    if kind < 0.15:
        cutoff = rng.uniform(math.pi / 4, math.pi)
        radius = (x.square() + y.square()).sqrt()
        kernel = cutoff * torch.special.bessel_j1(cutoff * radius) / (2 * math.pi * radius)
        kernel[BLUR_RADIUS, BLUR_RADIUS] = cutoff**2 / (4 * math.pi)
    else:
        widths = (sigma, sigma if kind < 0.6 else sigma * rng.uniform(0.3, 1))
        angle = rng.uniform(0, math.pi)
        along, across = x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - x * math.sin(angle)
        kernel = torch.exp(-0.5 * ((along / widths[0]).square() + (across / widths[1]).square()))
    return kernel / kernel.sum()


def blur(clip: Tensor, kernel: Tensor) -> Tensor:
    """Convolve every channel of (T, 3, H, W), borders repeated."""
    padded = F.pad(clip, (BLUR_RADIUS,) * 4, mode="replicate")
    weight = kernel.to(clip).expand(3, 1, -1, -1)
    return F.conv2d(padded, weight, groups=3)


def add_noise(clip: Tensor, rng: Random, sigma: float, *, like_photons: bool, in_grey: bool) -> Tensor:
    """Gaussian noise of deviation `sigma` levels, or Poisson noise of that deviation at mid grey."""
    generator = torch.Generator(clip.device).manual_seed(int(rng.integers(2**31)))
    shape = (clip.shape[0], 1 if in_grey else 3, *clip.shape[2:])
    noise = torch.randn(shape, generator=generator, device=clip.device)
    scale = sigma * (clip.mean(dim=1, keepdim=True).clamp(min=1) / 128).sqrt() if like_photons else sigma
    return (clip + noise * scale).clamp(0, PEAK)


def degrade_clip(clip: Tensor, rng: Random, config: DegradationConfig, scale: int) -> Degraded:
    """Make the low-resolution clip.

    Args:
        clip: (T, 3, H, W) float, levels 0..255, sides multiples of `scale`.
        rng: decides everything.
        config: how often and how strong.
        scale: high-resolution side over low-resolution side.
    """
    size = (clip.shape[2] // scale, clip.shape[3] // scale)
    shares = np.array([config.clean, config.mild, config.strong])
    kind = ("clean", "mild", "strong")[int(rng.choice(3, p=shares / shares.sum()))]
    if kind == "clean":
        return Degraded(_to_bytes(resize_clip(clip, size)), None, kind)
    strength = 0 if kind == "mild" else 1
    if strength:
        between = tuple(int(side * rng.uniform(1.5, 3)) for side in size)
        clip = _degrade_once(clip, rng, config, strength, (between[0], between[1]))
    clip = _degrade_once(clip, rng, config, strength, size)
    compression = None
    if rng.random() < config.video_share:
        codec = config.codecs[int(rng.integers(len(config.codecs)))] if len(config.codecs) > 1 else config.codecs[0]
        compression = VideoCompression(codec, int(rng.integers(config.best_crf, config.crf[strength] + 1)))
    return Degraded(_to_bytes(clip), compression, kind)


def _degrade_once(clip: Tensor, rng: Random, config: DegradationConfig, strength: int, size: tuple[int, int]) -> Tensor:
    """Blur and resize, then noise and JPEG in either order, each with its chance; or all four in any order."""

    def soften(clip: Tensor) -> Tensor:
        if rng.random() >= config.blur_share[strength]:
            return clip
        return blur(clip, gaussian_kernel(rng, float(rng.uniform(0.3, config.blur_sigma[strength]))))

    def reduce(clip: Tensor) -> Tensor:
        return resize_clip(clip, size, ("bicubic", "bicubic", "area", "bilinear")[int(rng.integers(4))])

    def roughen(clip: Tensor) -> Tensor:
        if rng.random() >= config.noise_share[strength]:
            return clip
        sigma = float(rng.uniform(0.5, config.noise_sigma[strength]))
        like_photons, in_grey = rng.random(2) < (0.3, 0.3)
        return add_noise(clip, rng, sigma, like_photons=bool(like_photons), in_grey=bool(in_grey))

    def compress(clip: Tensor) -> Tensor:
        if rng.random() >= config.jpeg_share[strength]:
            return clip
        quality = int(rng.integers(config.jpeg_quality[strength], 96))
        return compress_jpeg(clip.clamp(0, PEAK), quality, halve_colour=bool(rng.random() < 0.5))

    steps = [soften, reduce, roughen, compress]
    if config.shuffled and rng.random() < config.shuffled:
        order = rng.permutation(4)
    else:
        order = np.concatenate(([0, 1], 2 + rng.permutation(2)))
    for i_step in order:
        clip = steps[i_step](clip)
    return clip


def _to_bytes(clip: Tensor) -> Tensor:
    return clip.clamp(0, PEAK).round().to(torch.uint8)
