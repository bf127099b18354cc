"""Colour fixes: tie the colours of the output to those of the enlarged input.

All work on (T, 3, H, W) float tensors in [-1, 1], frame by frame, and clamp their result to [-1, 1].

Source: FlashVSR's released colour correctors (adaptive instance normalisation; wavelet after StableSR).
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from flashvsr_cli.options import ColorFix

ADAIN_EPS = 1e-5
WAVELET_LEVELS = 5


def match_mean_and_deviation(x: Tensor, reference: Tensor) -> Tensor:
    """Give every channel of every frame the mean and standard deviation it has in `reference` (adain)."""

    def statistics(frames: Tensor) -> tuple[Tensor, Tensor]:
        variance, mean = torch.var_mean(frames, dim=(2, 3), correction=0, keepdim=True)
        return mean, (variance + ADAIN_EPS).sqrt()

    mean, deviation = statistics(x)
    wanted_mean, wanted_deviation = statistics(reference)
    # (x - mean) / deviation * wanted_deviation + wanted_mean, in one pass.
    scale = wanted_deviation / deviation
    return torch.addcmul(wanted_mean - mean * scale, x, scale).clamp_(-1, 1)


def blur_to_low_band(x: Tensor) -> Tensor:
    """The low-frequency band after five à-trous levels of the kernel [1 2 1; 2 4 2; 1 2 1] / 16."""
    row = x.new_tensor([0.25, 0.5, 0.25])
    kernel = torch.outer(row, row).expand(x.shape[1], 1, 3, 3)
    for level in range(WAVELET_LEVELS):
        radius = 2**level
        padded = F.pad(x, (radius,) * 4, mode="replicate")
        x = F.conv2d(padded, kernel, dilation=radius, groups=x.shape[1])
    return x


def replace_low_band(x: Tensor, reference: Tensor) -> Tensor:
    """Exchange the low-frequency band of `x` for that of `reference` (wavelet)."""
    return (x - blur_to_low_band(x) + blur_to_low_band(reference)).clamp(-1, 1)


def fix_color(method: ColorFix, x: Tensor, reference: Tensor) -> Tensor:
    """Apply the named colour fix.

    Args:
        method: "adain", "wavelet", or "none" (clamp only).
        x: (T, 3, H, W) float, the decoder's output without padding.
        reference: (T, 3, H, W) float in [-1, 1], the enlarged input frames.

    Returns:
        (T, 3, H, W) in [-1, 1].
    """
    if method == "adain":
        return match_mean_and_deviation(x, reference)
    if method == "wavelet":
        return replace_low_band(x, reference)
    return x.clamp(-1, 1)
