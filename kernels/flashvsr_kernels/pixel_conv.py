# mypy: disallow-untyped-defs=False
# (Triton traces the arguments of its kernels; annotations there mean constexpr or nothing.)
"""The last convolution of a decoder: 3x3, many channels to red, green and blue, bound by memory and by nothing else.

Three channels are too few for a matrix product, so the three horizontal taps are taken as channels too: nine sums per
pixel and row of the kernel. A program walks down the picture and reads each row of pixels once, adds it to the sums of
three rows, and writes a row's nine sums when they are complete; a second kernel adds the neighbours' sums, a twentieth
of what was read.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from flashvsr_kernels import interpreter  # noqa: F401

COLORS = tl.constexpr(3)
SUMS = tl.constexpr(9)  # horizontal tap * 3 + colour
PADDED_SUMS = tl.constexpr(16)  # the least that a matrix product takes
BLOCK_X = 64
ROWS = 16


@triton.jit
def _sum_rows_kernel(
    x_ptr,
    weight_ptr,
    sums_ptr,
    height,
    width,
    CHANNELS: tl.constexpr,
    BLOCK_C: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_X: tl.constexpr,
    N_STAGES: tl.constexpr,
):
    i_x = tl.program_id(0) * BLOCK_X + tl.arange(0, BLOCK_X)
    first_row = tl.program_id(1) * ROWS
    o_c, o_sum = tl.arange(0, BLOCK_C), tl.arange(0, PADDED_SUMS)
    m_x, m_c = i_x < width, o_c < CHANNELS
    p_weight = weight_ptr + o_c[:, None] * PADDED_SUMS + o_sum[None, :]
    top = tl.load(p_weight, mask=m_c[:, None], other=0.0)
    middle = tl.load(p_weight + CHANNELS * PADDED_SUMS, mask=m_c[:, None], other=0.0)
    bottom = tl.load(p_weight + 2 * CHANNELS * PADDED_SUMS, mask=m_c[:, None], other=0.0)
    frame = tl.program_id(2).to(tl.int64) * height
    below = tl.zeros([BLOCK_X, PADDED_SUMS], tl.float32)  # of the output row under the input row
    beside = tl.zeros([BLOCK_X, PADDED_SUMS], tl.float32)
    for i in tl.range(0, ROWS + 2, num_stages=N_STAGES):
        # A vector of one number, because the interpreter spreads a boolean as an integer.
        row = first_row + i - 1 + tl.zeros([BLOCK_X], tl.int32)
        m_row = m_x & (row >= 0) & (row < height)
        p_x = x_ptr + ((frame + row) * width + i_x)[:, None] * CHANNELS + o_c[None, :]
        x = tl.load(p_x, mask=m_row[:, None] & m_c[None, :], other=0.0)
        above = tl.dot(x, bottom, beside, input_precision="ieee")
        beside = tl.dot(x, middle, below, input_precision="ieee")
        below = tl.dot(x, top, input_precision="ieee")
        p_sums = sums_ptr + ((frame + row - 1)[:, None] * SUMS + o_sum[None, :]) * width + i_x[:, None]
        m_sums = m_x & (row > first_row) & (row <= height)
        tl.store(p_sums, above, mask=m_sums[:, None] & (o_sum < SUMS)[None, :])


@triton.jit
def _add_columns_kernel(sums_ptr, bias_ptr, out_ptr, height, width, BLOCK_X: tl.constexpr):
    i_x = tl.program_id(0) * BLOCK_X + tl.arange(0, BLOCK_X)
    frame, row = tl.program_id(2).to(tl.int64), tl.program_id(1)
    p_sums = sums_ptr + (frame * height + row) * SUMS * width + i_x
    for i_color in tl.static_range(COLORS):
        left = tl.load(p_sums + i_color * width - 1, mask=(i_x > 0) & (i_x <= width), other=0.0)
        same = tl.load(p_sums + (COLORS + i_color) * width, mask=i_x < width, other=0.0)
        right = tl.load(p_sums + (2 * COLORS + i_color) * width + 1, mask=i_x < width - 1, other=0.0)
        out = left + same + right + tl.load(bias_ptr + i_color).to(tl.float32)
        p_out = out_ptr + ((frame * COLORS + i_color) * height + row) * width + i_x
        tl.store(p_out, out.to(out_ptr.dtype.element_ty), mask=i_x < width)


def arrange_weight(weight: Tensor) -> Tensor:
    """(3, C, 3, 3) of the convolution -> (3, C, 16) as `conv_to_rgb` takes it: kernel row, channel, column and colour.

    Raises:
        ValueError: if the shape is another one.
    """
    if weight.dim() != 4 or weight.shape[0] != 3 or weight.shape[2:] != (3, 3):
        raise ValueError(f"the weight is (3, C, 3, 3), not {tuple(weight.shape)}")
    by_row = weight.permute(2, 1, 3, 0).flatten(2)
    return torch.nn.functional.pad(by_row, (0, PADDED_SUMS.value - by_row.shape[2])).contiguous()


def conv_to_rgb(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """3x3 convolution to three channels, zero-padded, summed in float32.

    Args:
        x: (T, C, H, W), channels last in memory.
        weight: (3, C, 16) from `arrange_weight`, in the dtype of x.
        bias: (3,).

    Returns:
        (T, 3, H, W) in the dtype of x, one plane per colour.

    Raises:
        ValueError: if shapes, dtypes or strides do not fit together.
    """
    n_frames, channels, height, width = x.shape
    if not x.is_contiguous(memory_format=torch.channels_last):
        raise ValueError("x has its channels last in memory")
    if weight.shape != (3, channels, PADDED_SUMS.value) or weight.dtype != x.dtype or not weight.is_contiguous():
        raise ValueError(f"weight {weight.dtype} {tuple(weight.shape)} does not fit x {x.dtype} {tuple(x.shape)}")
    if bias.shape != (3,):
        raise ValueError(f"bias is (3,), not {tuple(bias.shape)}")
    sums = torch.empty(n_frames, height, SUMS.value, width, dtype=torch.float32, device=x.device)
    out = torch.empty(n_frames, 3, height, width, dtype=x.dtype, device=x.device)
    _sum_rows_kernel[(triton.cdiv(width, BLOCK_X), triton.cdiv(height, ROWS), n_frames)](
        x, weight, sums, height, width,
        CHANNELS=channels, BLOCK_C=max(16, triton.next_power_of_2(channels)), ROWS=ROWS, BLOCK_X=BLOCK_X,
        N_STAGES=3 if x.dtype.itemsize == 2 else 1, num_warps=4,
    )  # fmt: skip
    block_x = 512
    _add_columns_kernel[(triton.cdiv(width, block_x), height, n_frames)](
        sums, bias, out, height, width, BLOCK_X=block_x, num_warps=4
    )
    return out
