# mypy: disallow-untyped-defs=False
# (Triton traces the arguments of its kernels; annotations there mean constexpr or nothing.)
"""Enlarging 8-bit pictures in integers: the width first, then the height, each pass rounded to 8 bits.

The weights are multiples of 2^-22, so that a sum of a few of them times bytes fits 32 bits and is exact. What plain
torch needs float64 and eight passes over memory for are two passes over bytes.

Source: the arithmetic is that of Pillow's `resize`.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from flashvsr_kernels import interpreter  # noqa: F401

FRACTION_BITS = tl.constexpr(22)
HALF = tl.constexpr(1 << 21)  # of the last place that stays
COLORS = tl.constexpr(3)
BLOCK_X = 256
BLOCK_Y = 8


@dataclass(frozen=True)
class Taps:
    """One axis: output i is the sum of weights[k, i] * input[first[i] + k], over 2^22.

    Attributes:
        first: (n_out,) int32; all of first[i] + k are inside the input.
        weights: (n_taps, n_out) int32; the magnitudes of one output's add up to less than 2^23.
    """

    first: Tensor
    weights: Tensor


@triton.jit
def _to_level(total):
    # The shift rounds down, also below zero; HALF was added before.
    return tl.minimum(tl.maximum(total >> FRACTION_BITS, 0), 255).to(tl.uint8)


@triton.jit
def _across_kernel(
    x_ptr, first_ptr, weights_ptr, out_ptr, height, width, n_out, out_width, TAPS: tl.constexpr, BLOCK_X: tl.constexpr
):
    i_row = tl.program_id(0).to(tl.int64)
    frame, row = i_row // height, i_row % height
    i_x = tl.program_id(1) * BLOCK_X + tl.arange(0, BLOCK_X)
    column = tl.minimum(i_x, n_out - 1)  # the padding repeats the last one
    p_x = x_ptr + (i_row * width + tl.load(first_ptr + column)) * COLORS
    red = tl.full([BLOCK_X], HALF, tl.int32)
    green = tl.full([BLOCK_X], HALF, tl.int32)
    blue = tl.full([BLOCK_X], HALF, tl.int32)
    for tap in tl.static_range(TAPS):
        weight = tl.load(weights_ptr + tap * n_out + column)
        red += weight * tl.load(p_x + tap * COLORS).to(tl.int32)
        green += weight * tl.load(p_x + tap * COLORS + 1).to(tl.int32)
        blue += weight * tl.load(p_x + tap * COLORS + 2).to(tl.int32)
    i_out = frame * COLORS * height + row
    m_x = i_x < out_width
    tl.store(out_ptr + i_out * out_width + i_x, _to_level(red), mask=m_x)
    tl.store(out_ptr + (i_out + height) * out_width + i_x, _to_level(green), mask=m_x)
    tl.store(out_ptr + (i_out + 2 * height) * out_width + i_x, _to_level(blue), mask=m_x)


@triton.jit
def _down_kernel(
    x_ptr, first_ptr, weights_ptr, out_ptr, height, n_out, out_height, width,
    TAPS: tl.constexpr, BLOCK_X: tl.constexpr, BLOCK_Y: tl.constexpr,
):  # fmt: skip
    n_bands = tl.cdiv(out_height, BLOCK_Y)
    plane = (tl.program_id(0) // n_bands).to(tl.int64)
    i_y = tl.program_id(0) % n_bands * BLOCK_Y + tl.arange(0, BLOCK_Y)
    i_x = tl.program_id(1) * BLOCK_X + tl.arange(0, BLOCK_X)
    row = tl.minimum(i_y, n_out - 1)
    m_x = (i_x < width)[None, :]
    p_x = x_ptr + (plane * height + tl.load(first_ptr + row))[:, None] * width + i_x[None, :]
    total = tl.full([BLOCK_Y, BLOCK_X], HALF, tl.int32)
    for tap in tl.static_range(TAPS):
        weight = tl.load(weights_ptr + tap * n_out + row)
        total += weight[:, None] * tl.load(p_x + tap * width, mask=m_x, other=0).to(tl.int32)
    p_out = out_ptr + (plane * out_height + i_y)[:, None] * width + i_x[None, :]
    tl.store(p_out, _to_level(total), mask=(i_y < out_height)[:, None] & m_x)


def resample(frames: Tensor, across: Taps, down: Taps, padded: tuple[int, int]) -> Tensor:
    """Enlarge 8-bit frames and pad them to the right and below with the last column and row.

    Args:
        frames: (T, H, W, 3) uint8, contiguous.
        across: from W to the new width.
        down: from H to the new height.
        padded: (H', W') of the output, not smaller than the new size.

    Returns:
        (T, 3, H', W') uint8.

    Raises:
        ValueError: if shapes or dtypes do not fit together.
    """
    n_frames, height, width, n_colors = frames.shape
    if frames.dtype != torch.uint8 or n_colors != COLORS.value or not frames.is_contiguous():
        raise ValueError(f"frames are contiguous (T, H, W, 3) uint8, not {frames.dtype} {tuple(frames.shape)}")
    for taps, side in zip((down, across), padded, strict=True):
        if taps.weights.dtype != torch.int32 or taps.first.dtype != torch.int32:
            raise ValueError("taps are int32")
        if taps.weights.dim() != 2 or taps.first.shape != taps.weights.shape[1:] or len(taps.first) > side:
            raise ValueError(f"taps {tuple(taps.weights.shape)}, {tuple(taps.first.shape)} do not fit {padded}")
    out_height, out_width = padded
    wide = torch.empty(n_frames, COLORS.value, height, out_width, dtype=torch.uint8, device=frames.device)
    out = torch.empty(n_frames, COLORS.value, *padded, dtype=torch.uint8, device=frames.device)
    if not n_frames:
        return out
    n_blocks = triton.cdiv(out_width, BLOCK_X)
    _across_kernel[(n_frames * height, n_blocks)](
        frames, across.first, across.weights, wide, height, width, len(across.first), out_width,
        TAPS=len(across.weights), BLOCK_X=BLOCK_X, num_warps=4,
    )  # fmt: skip
    n_bands = triton.cdiv(out_height, BLOCK_Y)
    _down_kernel[(n_frames * COLORS.value * n_bands, n_blocks)](
        wide, down.first, down.weights, out, height, len(down.first), out_height, out_width,
        TAPS=len(down.weights), BLOCK_X=BLOCK_X, BLOCK_Y=BLOCK_Y, num_warps=4,
    )  # fmt: skip
    return out
