# mypy: disallow-untyped-defs=False
# (Triton traces the arguments of its kernels; annotations there mean constexpr or nothing.)
"""From a decoder's frames to bytes, with the colours of a reference: two readings of one, one of the other.

The first kernel leaves mean and sum of squared deviations of every block of every channel; the second puts the blocks
together in float64; the third scales, clamps, rounds and lays the colours side by side. Plain torch goes over memory
some fifteen times, in float32.

Source: adaptive instance normalisation as in FlashVSR's released colour corrector; the blocks' statistics are put
together after Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances".
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from flashvsr_kernels import interpreter  # noqa: F401

COLORS = tl.constexpr(3)
BLOCK = 4096
BLOCK_PIXELS = 1024


@triton.jit
def _mean_and_deviations(x, mask, count):
    mean = tl.sum(tl.where(mask, x, 0.0), 0) / count
    centred = tl.where(mask, x - mean, 0.0)
    return mean, tl.sum(centred * centred, 0)


@triton.jit
def _statistics_kernel(
    x_ptr, reference_ptr, out_ptr, height, width,
    stride_x_frame, stride_x_color, stride_x_row, stride_x_column, stride_r_frame, stride_r_color, stride_r_row,
    BLOCK: tl.constexpr,
):  # fmt: skip
    i_block, plane = tl.program_id(0), tl.program_id(1)
    frame, color = (plane // COLORS).to(tl.int64), (plane % COLORS).to(tl.int64)
    n_pixels = height * width
    i_pixel = i_block * BLOCK + tl.arange(0, BLOCK)
    mask = i_pixel < n_pixels
    count = tl.minimum(BLOCK, n_pixels - i_block * BLOCK).to(tl.float32)
    row, column = (i_pixel // width).to(tl.int64), (i_pixel % width).to(tl.int64)
    p_x = x_ptr + frame * stride_x_frame + color * stride_x_color + row * stride_x_row + column * stride_x_column
    p_r = reference_ptr + frame * stride_r_frame + color * stride_r_color + row * stride_r_row + column
    mean, deviations = _mean_and_deviations(tl.load(p_x, mask=mask, other=0.0).to(tl.float32), mask, count)
    level = tl.load(p_r, mask=mask, other=0).to(tl.float32)
    level_mean, level_deviations = _mean_and_deviations(level, mask, count)
    p_out = out_ptr + (plane * tl.num_programs(0) + i_block) * 4
    tl.store(p_out, mean)
    tl.store(p_out + 1, deviations)
    tl.store(p_out + 2, level_mean)
    tl.store(p_out + 3, level_deviations)


@triton.jit
def _scale_kernel(parts_ptr, scale_ptr, shift_ptr, n_blocks, n_pixels, eps, BLOCK: tl.constexpr, BLOCK_N: tl.constexpr):
    """Of a channel, what to multiply with and what to add, to get from [-1, 1] to levels like the reference's."""
    plane = tl.program_id(0).to(tl.int64)
    i_block = tl.arange(0, BLOCK_N)
    mask = i_block < n_blocks
    count = tl.where(mask, tl.minimum(BLOCK, n_pixels - i_block * BLOCK), 0).to(tl.float64)
    p_parts = parts_ptr + (plane * n_blocks + i_block) * 4
    n = tl.sum(count, 0)
    means = tl.load(p_parts, mask=mask, other=0.0).to(tl.float64)
    mean = tl.sum(count * means, 0) / n
    deviations = tl.load(p_parts + 1, mask=mask, other=0.0).to(tl.float64)
    variance = tl.sum(deviations + count * (means - mean) * (means - mean), 0) / n
    means = tl.load(p_parts + 2, mask=mask, other=0.0).to(tl.float64)
    level = tl.sum(count * means, 0) / n
    deviations = tl.load(p_parts + 3, mask=mask, other=0.0).to(tl.float64)
    level_variance = tl.sum(deviations + count * (means - level) * (means - level), 0) / n
    half: tl.constexpr = 127.5  # levels to a unit of [-1, 1]
    scale = tl.sqrt((level_variance + eps * half * half) / (variance + eps))
    tl.store(scale_ptr + plane, scale.to(tl.float32))
    tl.store(shift_ptr + plane, (level - mean * scale).to(tl.float32))


@triton.jit
def _apply_kernel(
    x_ptr, scale_ptr, shift_ptr, out_ptr, height, width,
    stride_x_frame, stride_x_color, stride_x_row, stride_x_column, BLOCK: tl.constexpr,
):  # fmt: skip
    frame = tl.program_id(1).to(tl.int64)
    n_pixels = height * width
    i_pixel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = i_pixel < n_pixels
    row, column = (i_pixel // width).to(tl.int64), (i_pixel % width).to(tl.int64)
    p_x = x_ptr + frame * stride_x_frame + row * stride_x_row + column * stride_x_column
    p_out = out_ptr + (frame * n_pixels + i_pixel) * COLORS
    for color in tl.static_range(COLORS):
        x = tl.load(p_x, mask=mask, other=0.0).to(tl.float32)
        p_x += stride_x_color
        scale, shift = tl.load(scale_ptr + frame * COLORS + color), tl.load(shift_ptr + frame * COLORS + color)
        level = tl.minimum(tl.maximum(x * scale + shift, 0.0), 255.0)
        # Adding 2^23 leaves no room for a fraction: rounds to nearest, halves to even, as torch.round does.
        tl.store(p_out + color, ((level + 8388608.0) - 8388608.0).to(tl.uint8), mask=mask)


def match_levels(x: Tensor, reference: Tensor, eps: float) -> Tensor:
    """Give every channel of every frame the mean and standard deviation of a reference, as levels.

    Args:
        x: (T, 3, H, W) float in [-1, 1], in any layout.
        reference: (T, 3, H, W) uint8 levels, W contiguous.
        eps: added to the variances of values in [-1, 1].

    Returns:
        (T, H, W, 3) uint8, clamped and rounded to nearest.

    Raises:
        ValueError: if shapes, dtypes or strides do not fit together.
    """
    _check(x)
    if reference.shape != x.shape or reference.dtype != torch.uint8 or reference.stride(3) != 1:
        raise ValueError(f"{reference.dtype} {tuple(reference.shape)} is no reference of {tuple(x.shape)}")
    n_frames, n_colors, height, width = x.shape
    n_pixels, n_planes = height * width, n_frames * n_colors
    n_blocks = triton.cdiv(n_pixels, BLOCK)
    parts = torch.empty(n_planes, n_blocks, 4, dtype=torch.float32, device=x.device)
    scale, shift = (torch.empty(n_planes, dtype=torch.float32, device=x.device) for _ in range(2))
    if parts.numel():
        _statistics_kernel[(n_blocks, n_planes)](
            x, reference, parts, height, width, *x.stride(), *reference.stride()[:3], BLOCK=BLOCK, num_warps=8
        )
        _scale_kernel[(n_planes,)](
            parts, scale, shift, n_blocks, n_pixels, eps,
            BLOCK=BLOCK, BLOCK_N=triton.next_power_of_2(n_blocks), num_warps=4,
        )  # fmt: skip
    return _apply(x, scale, shift)


def round_levels(x: Tensor) -> Tensor:
    """Levels of frames as they are: (T, 3, H, W) float in [-1, 1], in any layout -> (T, H, W, 3) uint8.

    Raises:
        ValueError: if the shape is another one.
    """
    _check(x)
    half = torch.full((len(x) * COLORS.value,), 127.5, dtype=torch.float32, device=x.device)
    return _apply(x, half, half)


def _check(x: Tensor) -> None:
    if x.dim() != 4 or x.shape[1] != COLORS.value:
        raise ValueError(f"frames are (T, 3, H, W), not {tuple(x.shape)}")


def _apply(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """x * scale + shift, clamped and rounded to bytes; scale and shift are (T * 3,) float32."""
    n_frames, n_colors, height, width = x.shape
    out = torch.empty(n_frames, height, width, n_colors, dtype=torch.uint8, device=x.device)
    if out.numel():
        _apply_kernel[(triton.cdiv(height * width, BLOCK_PIXELS), n_frames)](
            x, scale, shift, out, height, width, *x.stride(), BLOCK=BLOCK_PIXELS, num_warps=4
        )
    return out
