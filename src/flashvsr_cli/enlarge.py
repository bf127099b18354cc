"""The plain enlargement that the model starts from: bicubic exactly as Pillow's `resize(BICUBIC)`.

Source: FlashVSR prepares its input with Pillow: a = -0.5, half-pixel centres, width first, then height, each pass with
weights in 22-bit fixed point, clipped and rounded half up to 8 bits. Here each pass is a matrix product in float64,
where sums of such integers are exact, or a GPU kernel's sum of integers. Deeper sources take real weights and no
rounding. Pinned by tests/golden/test_mini.py, against Pillow by tests/model/test_enlarge.py, and the kernels against
the product by tests/kernels/test_resample.py.
"""

from collections.abc import Iterator
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
BAND_ROWS = 32
"""Output rows that a CPU makes of the same input rows: fewer repeat more of those, more multiply more zeros."""
MOST_VALUES = 1 << 20
"""In the bands that are made at once: they should stay in the cache, and not be memory that is new every time."""
FRAMES_TOGETHER = {"cpu": 1, "cuda": 4}
"""One at a time stays in a CPU's cache; several keep a GPU from waiting for the next of many small operations."""
MOST_TAPS = 16
"""Of a kernel: more come with shrinking, and every number of them is compiled, the longer the more there are."""
VALUES_TOGETHER = 1 << 24
"""Of the output: where a frame has as many, it fills a GPU, and more would only be memory."""


def enlarge_levels(frames: Tensor, geometry: Geometry, *, has_kernels: bool = False) -> Tensor:
    """Enlarge and pad, in levels, the form in which frames wait: a quarter of the memory of floats.

    Args:
        frames: (T, H, W, 3) uint8 or uint16 of size `geometry.source`.
        geometry: sizes.
        has_kernels: whether the GPU kernels may be used; the bytes are the same.

    Returns:
        (T, 3, H', W') of size `geometry.padded`: uint8 for uint8 frames, float32 in 0..65535 for uint16; padding
        repeats the last row and column.
    """
    is_byte = frames.dtype == torch.uint8
    if has_kernels and is_byte:
        down_taps, across_taps = (
            integer_taps(n_in, n_out, frames.device)
            for n_in, n_out in zip(geometry.source, geometry.target, strict=True)
        )
        if max(len(down_taps[1]), len(across_taps[1])) <= MOST_TAPS:
            return _resample_in_kernels(frames, down_taps, across_taps, geometry.padded)
    across, down = (
        plan_resampling(n_in, n_out, is_byte, frames.device)
        for n_in, n_out in zip(geometry.source[::-1], geometry.target[::-1], strict=True)
    )

    def to_levels(x: Tensor) -> Tensor:
        if is_byte:
            x = x.add_(0.5).floor_()
        return x.clamp_(0, PEAK[frames.dtype])

    dtype = torch.uint8 if is_byte else torch.float32
    out = torch.empty(len(frames), 3, *geometry.padded, dtype=dtype, device=frames.device)
    height, width = geometry.target
    n_together = min(FRAMES_TOGETHER[frames.device.type], max(1, VALUES_TOGETHER // (3 * height * width)))
    for enlarged, group in zip(out.split(n_together), frames.split(n_together), strict=True):
        planes, x = enlarged.flatten(0, 1), group.permute(0, 3, 2, 1).flatten(0, 1).double()
        wide = x.new_empty(len(planes), width, geometry.source[0])
        for rows, levels in across.apply(x):
            wide[:, rows] = to_levels(levels)
        del x, levels
        for rows, levels in down.apply(wide.transpose(1, 2)):
            planes[:, rows, :width] = to_levels(levels)
    out[:, :, :height, width:] = out[:, :, :height, width - 1 : width]
    out[:, :, height:] = out[:, :, height - 1 : height]
    return out


def _resample_in_kernels(
    frames: Tensor, down: tuple[Tensor, Tensor], across: tuple[Tensor, Tensor], padded: tuple[int, int]
) -> Tensor:
    from flashvsr_kernels.resample import Taps, resample  # needs triton

    with torch.cuda.device_of(frames):  # Triton launches on the current device.
        return resample(frames.contiguous(), Taps(*across), Taps(*down), padded)


@lru_cache(maxsize=16)
def integer_taps(n_in: int, n_out: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """`resampling_weights` without their zeros: first inputs (n_out,), multiples of 2^-22 (n_taps, n_out), int32."""
    weights = resampling_weights(n_in, n_out, is_fixed_point=True) * FIXED_POINT
    used = weights != 0
    first, end = used.argmax(axis=1), n_in - used[:, ::-1].argmax(axis=1)
    n_taps = int((end - first).max())
    first = np.minimum(first, n_in - n_taps)
    taps = weights[np.arange(n_out), first + np.arange(n_taps)[:, None]]
    return tuple(torch.from_numpy(x.astype(np.int32)).to(device) for x in (first, taps))  # type: ignore[return-value]


@dataclass(frozen=True)
class Resampling:
    """One pass along the rows of a picture, in bands of neighbouring output rows.

    Attributes:
        n_out: rows of the output.
        inputs: (n_bands, K), the input rows that each band is made of.
        weights: (n_bands, rows of a band, K) float64; the last band may go beyond the output.
    """

    n_out: int
    inputs: Tensor
    weights: Tensor

    def apply(self, x: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """(C, n_in, w) float64 to (C, n_out, w), some rows after the other: which ones, and what they are."""
        n_rows = self.weights.shape[1]
        n_bands = max(1, MOST_VALUES // (n_rows * len(x) * x.shape[2]))
        for i_band in range(0, len(self.weights), n_bands):
            bands = slice(i_band, i_band + n_bands)
            rows = slice(i_band * n_rows, min((i_band + n_bands) * n_rows, self.n_out))
            levels = (self.weights[bands] @ x[:, self.inputs[bands]]).flatten(1, 2)
            yield rows, levels[:, : rows.stop - rows.start]


@lru_cache(maxsize=16)
def plan_resampling(n_in: int, n_out: int, is_fixed_point: bool, device: torch.device) -> Resampling:
    """`resampling_weights` on a device: on a CPU in bands, which leave out most of its zeros, elsewhere in one."""
    matrix = resampling_weights(n_in, n_out, is_fixed_point)
    n_rows = BAND_ROWS if device.type == "cpu" else n_out
    bands = [matrix[top : top + n_rows] for top in range(0, n_out, n_rows)]
    used = [np.flatnonzero(band.any(axis=0)) for band in bands]
    n_used = max(columns[-1] + 1 - columns[0] for columns in used)
    first = [min(columns[0], n_in - n_used) for columns in used]
    weights = np.zeros((len(bands), n_rows, n_used))
    for target, band, start in zip(weights, bands, first, strict=True):
        target[: len(band)] = band[:, start : start + n_used]
    inputs = np.add.outer(first, np.arange(n_used))
    return Resampling(n_out, torch.from_numpy(inputs).to(device), torch.from_numpy(weights).to(device))


def resampling_weights(n_in: int, n_out: int, is_fixed_point: bool) -> np.ndarray:
    """Pillow's bicubic weights for one axis: (n_out, n_in) float64, in fixed point rounded to multiples of 2^-22."""
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
        # Divided again by a power of two, which changes no digit.
        weight = np.trunc(weight * FIXED_POINT + np.copysign(0.5, weight)) / FIXED_POINT
    return weight


def to_signed(levels: Tensor) -> Tensor:
    """Levels of `enlarge_levels` as float32 in [-1, 1], a new tensor."""
    peak = 255 if levels.dtype == torch.uint8 else 65535
    if levels.is_cuda:
        # One pass instead of four over memory, where that is what it costs; the last digit may differ.
        return torch.add(torch.tensor(-1.0), levels, alpha=2 / peak)
    return levels.to(torch.float32, copy=True).div_(peak).mul_(2).sub_(1)


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
