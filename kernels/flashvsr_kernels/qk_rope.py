# mypy: disallow-untyped-defs=False
# (Triton traces the arguments of its kernels; annotations there mean constexpr or nothing.)
"""From the linear layers to the KV cache: RMS-norm over the whole dim, RoPE, the page write, the window means.

One pass over q and k. Each program takes a few tokens of one of them, writes the rotated values to their final
place (k straight into its page) and leaves the sum of what it wrote; a second, tiny kernel adds those sums in a
fixed order, so the means, and with them the kept blocks, are the same in every run.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from flashvsr_kernels import interpreter  # noqa: F401
from flashvsr_kernels.fp8_scale import FP8_MAX

WINDOW_TOK = 128
ROWS_PER_PROGRAM = 16  # a divisor of the window: each program's sum belongs to one window
ROWS_AT_ONCE = 4


@triton.jit(do_not_specialize_on_alignment=["new_pages_ptr"])
def _write_qk_kernel(
    q_ptr,
    k_ptr,
    q_weight_ptr,
    k_weight_ptr,
    cos_ptr,
    sin_ptr,
    q_out_ptr,
    k_pages_ptr,
    sums_ptr,
    new_pages_ptr,
    page_tok,
    stride_q,
    stride_k,
    eps,
    DIM: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_D: tl.constexpr,
    ROWS: tl.constexpr,
    ROWS_AT_ONCE: tl.constexpr,
    IS_FP8: tl.constexpr,
):
    HALF: tl.constexpr = HEAD_DIM // 2
    HEADS: tl.constexpr = BLOCK_D // HEAD_DIM
    i_part, i_tensor = tl.program_id(0), tl.program_id(1)
    i_pair = i_part * ROWS // page_tok
    shift = (tl.load(new_pages_ptr + i_pair).to(tl.int64) - i_pair) * page_tok  # from token to place in the pool
    # Vectors of 8 for every dtype: rotated values stay in the registers in which they were loaded. With the 16 that
    # e4m3 gets by itself they change threads byte by byte on their way to memory, which took three times as long.
    o_d = tl.max_contiguous(tl.arange(0, BLOCK_D), 8)
    m_d = o_d < DIM
    if i_tensor == 0:
        p_in, stride_in, p_out, weight_ptr = q_ptr, stride_q, q_out_ptr, q_weight_ptr
    else:
        p_in, stride_in, p_out, weight_ptr = k_ptr, stride_k, k_pages_ptr + shift * DIM, k_weight_ptr
    weight = tl.load(weight_ptr + o_d, mask=m_d, other=0.0).to(tl.float32)
    o_half = tl.arange(0, HALF)
    sums = tl.zeros([BLOCK_D], tl.float32)
    for i_step in range(ROWS // ROWS_AT_ONCE):
        i_tok = (i_part * ROWS + i_step * ROWS_AT_ONCE).to(tl.int64) + tl.arange(0, ROWS_AT_ONCE)
        x = tl.load(p_in + i_tok[:, None] * stride_in + o_d[None, :], mask=m_d[None, :], other=0.0)
        x = x.to(tl.float32)
        cos = tl.load(cos_ptr + i_tok[:, None] * HALF + o_half[None, :])[:, None, :]
        sin = tl.load(sin_ptr + i_tok[:, None] * HALF + o_half[None, :])[:, None, :]
        x *= tl.rsqrt(tl.sum(x * x, 1) / DIM + eps)[:, None] * weight[None, :]
        real, imag = tl.split(tl.reshape(x, [ROWS_AT_ONCE, HEADS, HALF, 2]))
        turned = tl.join(real * cos - imag * sin, real * sin + imag * cos)
        rounded = tl.reshape(turned, [ROWS_AT_ONCE, BLOCK_D]).to(q_ptr.dtype.element_ty)
        sums += tl.sum(rounded.to(tl.float32), 0)
        stored = rounded
        if IS_FP8:
            stored = tl.clamp(rounded.to(tl.float32), -FP8_MAX, FP8_MAX).to(tl.float8e4nv)
        tl.store(p_out + i_tok[:, None] * DIM + o_d[None, :], stored, mask=m_d[None, :])
    i_sum = (i_tensor * tl.num_programs(0) + i_part).to(tl.int64)
    tl.store(sums_ptr + i_sum * DIM + o_d, sums, mask=m_d)


@triton.jit(do_not_specialize_on_alignment=["new_pages_ptr"])
def _finish_means_kernel(
    sums_ptr,
    q_means_ptr,
    k_means_ptr,
    new_pages_ptr,
    page_blk,
    dim,
    PARTS: tl.constexpr,
    WINDOW: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    i_blk, i_tensor = tl.program_id(0), tl.program_id(1)
    o_d = tl.program_id(2) * BLOCK_D + tl.arange(0, BLOCK_D)
    i_part = (i_tensor * tl.num_programs(0) + i_blk) * PARTS + tl.arange(0, PARTS)
    m_d = o_d < dim
    sums = tl.load(sums_ptr + i_part[:, None].to(tl.int64) * dim + o_d[None, :], mask=m_d[None, :], other=0.0)
    mean = tl.sum(sums, 0) / WINDOW
    if i_tensor == 0:
        tl.store(q_means_ptr + i_blk.to(tl.int64) * dim + o_d, mean, mask=m_d)
    else:
        i_pair = i_blk // page_blk
        page = tl.load(new_pages_ptr + i_pair).to(tl.int64)
        tl.store(k_means_ptr + ((page - i_pair) * page_blk + i_blk) * dim + o_d, mean, mask=m_d)


def _check(
    q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, k_pages: Tensor, k_means_pages: Tensor, new_pages: Tensor,
    n_heads: int,
) -> None:  # fmt: skip
    n_tok, dim = q.shape
    n_pages, page_tok, page_dim = k_pages.shape
    if q.shape != k.shape or q.stride(1) != 1 or k.stride(1) != 1:
        raise ValueError(f"q {tuple(q.shape)} and k {tuple(k.shape)} are alike, with contiguous channels")
    if page_dim != dim or page_tok % WINDOW_TOK or not k_pages.is_contiguous():
        raise ValueError(f"pages {tuple(k_pages.shape)} do not hold tokens of {dim} channels")
    if k_pages.dtype not in (k.dtype, torch.float8_e4m3fn) or q.dtype != k.dtype:
        raise ValueError(f"q {q.dtype}, k {k.dtype} and pages {k_pages.dtype} do not fit together")
    if n_tok != page_tok * new_pages.numel() or new_pages.dtype != torch.int32:
        raise ValueError(f"{n_tok} tokens need {n_tok / page_tok} int32 page numbers, not {new_pages}")
    head_dim = dim // n_heads
    if k_means_pages.shape != (n_pages, page_tok // WINDOW_TOK, n_heads, head_dim):
        raise ValueError(f"k means {tuple(k_means_pages.shape)} do not fit pages {tuple(k_pages.shape)}")
    for table in (cos, sin):
        if table.shape != (n_tok, head_dim // 2) or table.dtype != torch.float32 or not table.is_contiguous():
            raise ValueError(f"RoPE tables are float32 ({n_tok}, {head_dim // 2}), not {tuple(table.shape)}")


def write_qk(
    q: Tensor,
    k: Tensor,
    q_weight: Tensor,
    k_weight: Tensor,
    cos: Tensor,
    sin: Tensor,
    *,
    k_pages: Tensor,
    k_means_pages: Tensor,
    new_pages: Tensor,
    n_heads: int,
    eps: float = 1e-6,
) -> tuple[Tensor, Tensor]:
    """RMS-norm and RoPE of q and k; k goes into its pages; window means of both.

    Args:
        q: (n_tok, H * d), rows may be strided (a slice of a joint projection), tokens in window order.
        k: like q.
        q_weight: (H * d,) of the RMS-norm over the whole dim.
        k_weight: like q_weight.
        cos: (n_tok, d / 2) float32, the angle of channels 2i and 2i + 1 of every head.
        sin: like cos.
        k_pages: (n_pages, M * 128, H * d) in the dtype of k, or float8_e4m3fn, and q is returned like it; page
            new_pages[i] takes the tokens of pair i.
        k_means_pages: (n_pages, M, H, d) float32, written for the same pages.
        new_pages: (n_tok / (M * 128),) int32 on the same device.
        n_heads: H.
        eps: added to the mean square.

    Returns:
        q after norm and RoPE (n_tok, H * d) and its window means (Q, H, d) float32. Means are of the values
        as rounded to the dtype of the input q, summed in a fixed order.

    Raises:
        ValueError: if shapes, dtypes or strides do not fit together.

    Source: spec of the Wan attention (norm over all heads at once, adjacent channels rotated as complex
    numbers); the official code rounds between norm and RoPE, this does not.
    """
    _check(q, k, cos, sin, k_pages, k_means_pages, new_pages, n_heads)
    n_tok, dim = q.shape
    page_tok = k_pages.shape[1]
    n_blk, n_parts = n_tok // WINDOW_TOK, n_tok // ROWS_PER_PROGRAM
    is_fp8 = k_pages.dtype == torch.float8_e4m3fn
    q_out = torch.empty(n_tok, dim, dtype=k_pages.dtype, device=q.device)
    q_means = torch.empty(n_blk, n_heads, dim // n_heads, dtype=torch.float32, device=q.device)
    sums = torch.empty(2, n_parts, dim, dtype=torch.float32, device=q.device)
    _write_qk_kernel[(n_parts, 2)](
        q, k, q_weight, k_weight, cos, sin, q_out, k_pages, sums, new_pages, page_tok, q.stride(0), k.stride(0), eps,
        DIM=dim, HEAD_DIM=dim // n_heads, BLOCK_D=triton.next_power_of_2(dim), ROWS=ROWS_PER_PROGRAM,
        ROWS_AT_ONCE=ROWS_AT_ONCE, IS_FP8=is_fp8, num_warps=8,
    )  # fmt: skip
    block_d = 512
    _finish_means_kernel[(n_blk, 2, triton.cdiv(dim, block_d))](
        sums, q_means, k_means_pages, new_pages, page_tok // WINDOW_TOK, dim,
        PARTS=WINDOW_TOK // ROWS_PER_PROGRAM, WINDOW=WINDOW_TOK, BLOCK_D=block_d, num_warps=4,
    )  # fmt: skip
    return q_out, q_means
