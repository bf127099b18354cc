"""The plain enlargement that the model starts from: bicubic exactly as Pillow's `resize(BICUBIC)`.

Source: FlashVSR prepares its input with Pillow: a = -0.5, half-pixel centres, width first, then height, each pass with
weights in 22-bit fixed point, clipped and rounded half up to 8 bits. Here each pass is a matrix product in float64,
where sums of such integers are exact. Deeper sources take real weights and no rounding. Pinned by
tests/golden/test_mini.py and, against Pillow, tests/model/test_enlarge.py.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from flashvsr_cli.geometry import Geometry

PEAK = {torch.uint8: 255, torch.uint16: 65535}
CUBIC_A = -0.5
CUBIC_SUPPORT = 2.0
FIXED_POINT = 1 << 22
BAND_OUTPUTS = 64
"""Rows or columns that a CPU computes at once: most weights of fewer are not zero, and more leave its cache."""


def enlarge_levels(frames: Tensor, geometry: Geometry) -> Tensor:
    """Enlarge and pad, in levels, the form in which frames wait: a quarter of the memory of floats.

    Args:
        frames: (T, H, W, 3) uint8 or uint16 of size `geometry.source`.
        geometry: sizes.

    Returns:
        (T, 3, H', W') of size `geometry.padded`: uint8 for uint8 frames, float32 in 0..65535 for uint16; padding
        repeats the last row and column.
    """
    is_byte = frames.dtype == torch.uint8
    across, down = (
        resampling_bands(n_in, n_out, is_byte, frames.device)
        for n_in, n_out in zip(geometry.source[::-1], geometry.target[::-1], strict=True)
    )

    def to_levels(x: Tensor) -> Tensor:
        if is_byte:
            x = x.add_(FIXED_POINT // 2).mul_(1 / FIXED_POINT).floor_()
        return x.clamp_(0, PEAK[frames.dtype])

    dtype = torch.uint8 if is_byte else torch.float32
    out = torch.empty(len(frames), 3, *geometry.padded, dtype=dtype, device=frames.device)
    height, width = geometry.target
    for enlarged, frame in zip(out, frames, strict=True):
        x = frame.permute(2, 0, 1).double()
        wide = torch.cat([to_levels(x[:, :, band.inputs] @ band.weights.T) for band in across], dim=2)
        for band in down:
            enlarged[:, band.outputs, :width] = to_levels(band.weights @ wide[:, band.inputs])
    out[:, :, :height, width:] = out[:, :, :height, width - 1 : width]
    out[:, :, height:] = out[:, :, height - 1 : height]
    return out


@dataclass(frozen=True)
class Band:
    """Neighbouring rows (or columns) of the output, and those of the input that they are made of.

    Attributes:
        outputs: which of the output.
        inputs: which of the input; the weights of all others are zero.
        weights: (len(outputs), len(inputs)) float64.
    """

    outputs: slice
    inputs: slice
    weights: Tensor


@lru_cache(maxsize=16)
def resampling_bands(n_in: int, n_out: int, is_fixed_point: bool, device: torch.device) -> tuple[Band, ...]:
    """`resampling_matrix` without most of its zeros, on a CPU; all in one band elsewhere, for fewer launches."""
    matrix = resampling_matrix(n_in, n_out, is_fixed_point, device)
    if device.type != "cpu":
        return (Band(slice(n_out), slice(n_in), matrix),)
    bands = []
    for start in range(0, n_out, BAND_OUTPUTS):
        outputs = slice(start, min(start + BAND_OUTPUTS, n_out))
        used = matrix[outputs].any(dim=0).nonzero()
        inputs = slice(int(used.min()), int(used.max()) + 1)
        bands.append(Band(outputs, inputs, matrix[outputs, inputs].contiguous()))
    return tuple(bands)


def resampling_matrix(n_in: int, n_out: int, is_fixed_point: bool, device: torch.device) -> Tensor:
    """Pillow's bicubic weights for one axis: (n_out, n_in) float64, in fixed point multiplied by 2^22 and rounded."""
    step = n_in / n_out
    stretch = max(step, 1.0)
    center = (np.arange(n_out)[:, None] + 0.5) * step
    index = np.arange(n_in)[None, :]
    reach = CUBIC_SUPPORT * stretch
    is_within = (index >= np.floor(center - reach + 0.5)) & (index < np.floor(center + reach + 0.5))
    distance = np.abs((index - center + 0.5) / stretch)
    near = ((CUBIC_A + 2) * distance - (CUBIC_A + 3)) * distance**2 + 1
    far = (((distance - 5) * distance + 8) * distance - 4) * CUBIC_A
    weight = np.where(distance < 1, near, np.where(distance < 2, far, 0.0)) * is_within
    weight /= weight.sum(axis=1, keepdims=True)
    if is_fixed_point:
        weight = np.trunc(weight * FIXED_POINT + np.copysign(0.5, weight))
    return torch.from_numpy(weight).to(device)


def to_signed(levels: Tensor) -> Tensor:
    """Levels of `enlarge_levels` as float32 in [-1, 1], a new tensor."""
    is_byte = levels.dtype == torch.uint8
    return levels.to(torch.float32, copy=True).div_(255 if is_byte else 65535).mul_(2).sub_(1)


class SignedFrames:
    """Waiting frames as the decoder takes them: a slice of them becomes float32 in [-1, 1] when it is asked for.

    Args:
        levels: (T, 3, H, W) from `enlarge_levels`.
    """

    def __init__(self, levels: Tensor) -> None:
        self._levels = levels

    def __len__(self) -> int:
        return len(self._levels)

    def __getitem__(self, frames: slice) -> Tensor:
        return to_signed(self._levels[frames])


def enlarge_frames(frames: Tensor, geometry: Geometry) -> Tensor:
    """`enlarge_levels` as float32 in [-1, 1]."""
    return to_signed(enlarge_levels(frames, geometry))


def to_integers(x: Tensor, dtype: np.dtype) -> Tensor:
    """(T, 3, H, W) float in [-1, 1] -> (T, H, W, 3) uint8, or int32 for uint16, rounded to nearest.

    Not every device converts to uint16; int32 holds it exactly.
    """
    peak = np.iinfo(dtype).max
    integers = (x + 1).mul_(peak / 2).round_().permute(0, 2, 3, 1)
    return integers.to(torch.uint8 if peak == 255 else torch.int32).contiguous()
