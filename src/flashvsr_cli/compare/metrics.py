"""Figures of two clips, on luma as the super-resolution literature measures them.

All take clips (T, H, W, 3) uint8 or uint16 as arrays and compute in float32 frame by frame.
"""

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from flashvsr_cli.compare.flow import estimate_large_flow, warp
from flashvsr_cli.video.frame import Image

LUMA = (65.481, 128.553, 24.966)
LUMA_OFFSET = 16.0
"""BT.601 studio range, MATLAB's rgb2ycbcr."""
SSIM_WINDOW, SSIM_SIGMA = 11, 1.5
SSIM_C1, SSIM_C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
OCCLUDED_LEVELS = 1.5
"""Pixels whose flow there and back misses by more than this many pixels are left out of the warped difference."""

Frames = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]


def to_luma(image: Image) -> Tensor:
    """(H, W, 3) -> (1, 1, H, W) float32, levels 16..235."""
    peak = float(np.iinfo(image.dtype).max)
    rgb = torch.from_numpy(image.astype(np.float32) / peak)
    return (rgb @ torch.tensor(LUMA) + LUMA_OFFSET)[None, None]


def psnr(a: Tensor, b: Tensor) -> float:
    """Peak signal to noise ratio in dB of two luma planes, peak 255; infinite if they are equal."""
    error = float((a.double() - b.double()).square().mean())
    return float("inf") if error == 0 else float(10 * np.log10(255**2 / error))


def ssim(a: Tensor, b: Tensor) -> float:
    """Structural similarity of two luma planes (1, 1, H, W), H and W at least 11.

    Source: Wang et al. 2004: Gaussian window of 11 pixels, deviation 1.5, no padding.
    """
    side = torch.arange(SSIM_WINDOW, dtype=torch.float64) - SSIM_WINDOW // 2
    line = torch.exp(-side.square() / (2 * SSIM_SIGMA**2))
    line /= line.sum()
    planes = torch.cat((a, b, a * a, b * b, a * b)).double()
    for kernel in (line[None, None, :, None], line[None, None, None, :]):
        planes = F.conv2d(planes, kernel)
    mean_a, mean_b, square_a, square_b, product = planes
    variance_a, variance_b = square_a - mean_a**2, square_b - mean_b**2
    covariance = product - mean_a * mean_b
    similarity = (2 * mean_a * mean_b + SSIM_C1) * (2 * covariance + SSIM_C2)
    similarity /= (mean_a**2 + mean_b**2 + SSIM_C1) * (variance_a + variance_b + SSIM_C2)
    return float(similarity.mean())


class Flicker:
    """Mean warped difference: how much a clip changes beyond its motion, in levels of luma.

    Every frame is brought onto the one before along the optical flow of a guide (the reference if there is one, so
    that all clips are judged along the same motion); the mean absolute difference is taken where the flow there and
    back agrees.
    """

    def __init__(self) -> None:
        self._before: dict[str, Tensor] = {}
        self._sums: dict[str, float] = {}
        self._n_pairs = 0

    def add(self, lumas: dict[str, Tensor], guide: str) -> None:
        """The next frame of every clip, luma (1, 1, H, W) by name; `guide` names the one that gives the motion."""
        if self._before:
            forward = estimate_large_flow(self._before[guide], lumas[guide])
            backward = estimate_large_flow(lumas[guide], self._before[guide])
            miss = forward + warp(backward, forward)
            is_seen = (miss.square().sum(dim=1, keepdim=True) < OCCLUDED_LEVELS**2).float()
            for name, luma in lumas.items():
                difference = (warp(luma, forward) - self._before[name]).abs() * is_seen
                share = float(is_seen.sum().clamp(min=1))
                self._sums[name] = self._sums.get(name, 0.0) + float(difference.sum()) / share
            self._n_pairs += 1
        self._before = lumas

    def result(self) -> dict[str, float]:
        """Mean over all pairs of frames, by name; empty for clips of one frame."""
        return {name: total / self._n_pairs for name, total in self._sums.items()}
