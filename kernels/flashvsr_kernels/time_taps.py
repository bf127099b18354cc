# mypy: disallow-untyped-defs=False
# (Triton traces the arguments of its kernels; annotations there mean constexpr or nothing.)
"""Time steps side by side as channels: what makes a causal convolution over time a two-dimensional one.

One pass that reads every step from memory once and writes the convolution's input, the border included. Plain torch
needs one for each of: the steps in front, the border's rows, its columns, and the channels.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from flashvsr_kernels import interpreter  # noqa: F401

BLOCK_VALUES = 4096


@triton.jit
def _stack_time_kernel(
    x_ptr,
    front_ptr,
    out_ptr,
    stride_front,
    step_values,
    n_steps,
    n_per_clip,
    n_out,
    height,
    width,
    CHANNELS: tl.constexpr,
    TAPS: tl.constexpr,
    STRIDE: tl.constexpr,
    BORDER: tl.constexpr,
    NEWEST_FIRST: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    # Results that share steps are neighbours in the grid, so that all but one find them in the cache.
    i_out = tl.program_id(0) % n_out
    i_clip, i_in_clip = i_out // n_per_clip, i_out % n_per_clip
    out_width = width + 2 * BORDER
    n_pixels = (height + 2 * BORDER) * out_width
    i_pixel = tl.program_id(0) // n_out * BLOCK_P + tl.arange(0, BLOCK_P)
    o_c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    row = tl.minimum(tl.maximum(i_pixel // out_width - BORDER, 0), height - 1)
    column = tl.minimum(tl.maximum(i_pixel % out_width - BORDER, 0), width - 1)
    o_in = (row * width + column).to(tl.int64)[:, None] * CHANNELS + o_c[None, :]
    place = i_out.to(tl.int64) * n_pixels + i_pixel
    p_out = out_ptr + place[:, None] * (TAPS * CHANNELS) + o_c[None, :]
    mask = (i_pixel < n_pixels)[:, None] & (o_c < CHANNELS)[None, :]
    for tap in tl.static_range(TAPS):
        i_step = i_in_clip * STRIDE + tap - (TAPS - STRIDE)
        if i_step < 0:
            i_front = (i_step + TAPS - STRIDE).to(tl.int64)
            p_step = front_ptr + i_clip.to(tl.int64) * stride_front + i_front * step_values
        else:
            p_step = x_ptr + (i_clip * n_steps + i_step).to(tl.int64) * step_values
        values = tl.load(p_step + o_in, mask=mask, other=0.0)
        tl.store(p_out + (TAPS - 1 - tap if NEWEST_FIRST else tap) * CHANNELS, values, mask=mask)


def stack_time(
    x: Tensor, front: Tensor, n_taps: int, *, stride: int = 1, border: int = 0, newest_first: bool = False
) -> Tensor:
    """For every result of a causal convolution over time, the steps that it sees, as channels.

    Args:
        x: (N, S, h, w, C) contiguous: steps of N clips, S a multiple of `stride`.
        front: (N, n_taps - stride, h, w, C): the steps in front of each clip, contiguous from the second dimension on.
        n_taps: steps that a result sees.
        stride: steps from one result to the next.
        border: how often the outermost rows and columns are repeated on each side.
        newest_first: order of the steps in the channels; by default the oldest comes first.

    Returns:
        (N * S / stride, h + 2 * border, w + 2 * border, n_taps * C).

    Raises:
        ValueError: if shapes, dtypes or strides do not fit together.
    """
    n_clips, n_steps, height, width, channels = x.shape
    if front.shape != (n_clips, n_taps - stride, height, width, channels) or front.dtype != x.dtype:
        raise ValueError(f"in front of {x.dtype} {tuple(x.shape)} cannot be {front.dtype} {tuple(front.shape)}")
    if not x.is_contiguous() or not front[0].is_contiguous():
        raise ValueError("the steps of a clip are contiguous")
    if stride < 1 or n_steps % stride:
        raise ValueError(f"{n_steps} steps are not a multiple of {stride}")
    n_per_clip = n_steps // stride
    out_height, out_width = height + 2 * border, width + 2 * border
    out = torch.empty(n_clips * n_per_clip, out_height, out_width, n_taps * channels, dtype=x.dtype, device=x.device)
    block_c = min(512, triton.next_power_of_2(channels))
    block_p = BLOCK_VALUES // block_c
    grid = (len(out) * triton.cdiv(out_height * out_width, block_p), triton.cdiv(channels, block_c))
    _stack_time_kernel[grid](
        x, front, out, front.stride(0), height * width * channels, n_steps, n_per_clip, len(out), height, width,
        CHANNELS=channels, TAPS=n_taps, STRIDE=stride, BORDER=border, NEWEST_FIRST=newest_first,
        BLOCK_P=block_p, BLOCK_C=block_c, num_warps=4,
    )  # fmt: skip
    return out
