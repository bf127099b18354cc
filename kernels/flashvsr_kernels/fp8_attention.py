# mypy: disallow-untyped-defs=False
# (Triton traces the arguments of its kernels; annotations there mean constexpr or nothing.)
"""Block-sparse attention on an e4m3 KV cache: half the memory of bf16, and on Hopper twice the matrix rate.

q and k are stored as they are: both leave an RMS-norm, and e4m3 keeps three bits of mantissa from 2**-6 to 448, so
they need no scale. v is scaled per window and head by its largest magnitude. The probabilities are e4m3 times 256.

A window of v lies as (d, 128): channels by keys, because fp8 warpgroup MMA reads both operands along the summed
dimension. Within every 16 keys, stored place 4t + 2c + b holds key 8c + 2t + b (b, c < 2; t < 4): the registers in
which a thread holds its scores are then, in order, those of the left operand of the next product.
"""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from flashvsr_kernels import interpreter  # noqa: F401
from flashvsr_kernels.block_map import BlockMap
from flashvsr_kernels.configs import capability_of
from flashvsr_kernels.fp8_scale import fp8_scale

WINDOW_TOK = 128
LOG2_E = 1 / math.log(2)
FP8 = torch.float8_e4m3fn
LOG2_P_SCALE = tl.constexpr(8.0)
MIN_CAPABILITY = (8, 9)  # Ada: the first with e4m3 products


@triton.jit
def _key_at(place):
    """The key that a stored place of v holds."""
    return (place & ~15) | (((place >> 1) & 1) << 3) | (((place >> 2) & 3) << 1) | (place & 1)


@triton.jit(do_not_specialize_on_alignment=["new_pages_ptr"])
def _write_v_kernel(
    v_ptr,
    v_pages_ptr,
    v_log2_scales_ptr,
    new_pages_ptr,
    page_blk,
    stride_v,
    N_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    WINDOW: tl.constexpr,
):
    i_blk, i_head = tl.program_id(0), tl.program_id(1)
    i_pair = i_blk // page_blk
    page = tl.load(new_pages_ptr + i_pair).to(tl.int64)
    i_stored = ((page - i_pair) * page_blk + i_blk) * N_HEADS + i_head
    place, o_d = tl.arange(0, WINDOW), tl.arange(0, HEAD_DIM)
    i_tok = i_blk.to(tl.int64) * WINDOW + _key_at(place)
    v = tl.load(v_ptr + i_tok[:, None] * stride_v + i_head * HEAD_DIM + o_d[None, :]).to(tl.float32)
    scale = fp8_scale(tl.max(tl.max(tl.abs(v), 1), 0))
    low = tl.trans((v * (1 / scale)).to(tl.float8e4nv))
    tl.store(v_pages_ptr + (i_stored * HEAD_DIM + o_d[:, None]) * WINDOW + place[None, :], low)
    tl.store(v_log2_scales_ptr + i_stored, tl.log2(scale))


def write_v(v: Tensor, *, v_pages: Tensor, v_log2_scales: Tensor, new_pages: Tensor, n_heads: int) -> None:
    """Quantises v into its pages.

    Args:
        v: (n_tok, H * d), rows may be strided, tokens in window order.
        v_pages: (n_pages, M, H, d, 128) float8_e4m3fn.
        v_log2_scales: (n_pages, M, H) float32, log2 of what a stored value has to be multiplied by.
        new_pages: (n_tok / (M * 128),) int32 on the same device: page new_pages[i] takes time pair i.
        n_heads: H.

    Raises:
        ValueError: if shapes or dtypes do not fit together.
    """
    n_pages, n_windows, _, head_dim, _ = v_pages.shape
    if v_pages.dtype != FP8 or v_pages.shape != (n_pages, n_windows, n_heads, head_dim, WINDOW_TOK):
        raise ValueError(f"pages are e4m3 (n_pages, M, {n_heads}, d, 128), not {tuple(v_pages.shape)}")
    if v_log2_scales.shape != v_pages.shape[:3] or v_log2_scales.dtype != torch.float32:
        raise ValueError(f"scales are float32 {tuple(v_pages.shape[:3])}, not {tuple(v_log2_scales.shape)}")
    n_blk = n_windows * new_pages.numel()
    if v.shape != (n_blk * WINDOW_TOK, n_heads * head_dim) or v.stride(1) != 1:
        raise ValueError(f"v {tuple(v.shape)} does not fill {new_pages.numel()} pages of {n_windows} windows")
    if new_pages.dtype != torch.int32 or not (v_pages.is_contiguous() and v_log2_scales.is_contiguous()):
        raise ValueError("page numbers are int32; pages and scales are contiguous")
    _write_v_kernel[(n_blk, n_heads)](
        v, v_pages, v_log2_scales, new_pages, n_windows, v.stride(0),
        N_HEADS=n_heads, HEAD_DIM=head_dim, WINDOW=WINDOW_TOK, num_warps=4,
    )  # fmt: skip


@triton.jit
def _block_sparse_attention_fp8_kernel(
    q_ptr,
    k_ptr,
    v_ptr,
    v_log2_scale_ptr,
    out_ptr,
    index_ptr,
    count_ptr,
    order_ptr,
    capacity,
    n_q_blk,
    scale_log2,
    N_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_N: tl.constexpr,
    N_STAGES: tl.constexpr,
):
    """Like `block_sparse_attention`'s kernel, for GPUs without warpgroup MMA."""
    DIM: tl.constexpr = N_HEADS * HEAD_DIM
    steps: tl.constexpr = BLOCK // BLOCK_N
    row = tl.load(order_ptr + tl.program_id(0))
    n_blocks = tl.load(count_ptr + row)
    p_list = index_ptr + row.to(tl.int64) * capacity
    i_head = row // n_q_blk
    o_d = tl.arange(0, HEAD_DIM)
    o_c = i_head * HEAD_DIM + o_d
    o_m = (row % n_q_blk).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    q = tl.load(q_ptr + o_m[:, None] * DIM + o_c[None, :])
    acc = tl.zeros([BLOCK, HEAD_DIM], tl.float32)
    row_max = tl.full([BLOCK], -float("inf"), tl.float32)
    row_sum = tl.zeros([BLOCK], tl.float32)
    for i in tl.range(0, n_blocks * steps, num_stages=N_STAGES):
        block = tl.load(p_list + i // steps).to(tl.int64)
        place = (i % steps) * BLOCK_N + tl.arange(0, BLOCK_N)
        i_v = block * N_HEADS + i_head
        offset = tl.load(v_log2_scale_ptr + i_v)
        # Keys are taken in the order in which v holds them; softmax does not care.
        k = tl.load(k_ptr + (block * BLOCK + _key_at(place))[None, :] * DIM + o_c[:, None])
        v = tl.load(v_ptr + (i_v * HEAD_DIM + o_d[None, :]) * BLOCK + place[:, None])
        logits = tl.dot(q, k) * scale_log2 + offset
        new_max = tl.maximum(row_max, tl.max(logits, 1))
        alpha = tl.exp2(row_max - new_max)
        p = tl.exp2(logits - (new_max - LOG2_P_SCALE)[:, None])
        row_sum = row_sum * alpha + tl.sum(p, 1) * tl.exp2(-offset)
        acc = acc * alpha[:, None] + tl.dot(p.to(tl.float8e4nv), v)
        row_max = new_max
    out = acc / tl.where(n_blocks == 0, 1.0, row_sum)[:, None]
    tl.store(out_ptr + o_m[:, None] * DIM + o_c[None, :], out.to(out_ptr.dtype.element_ty))


def _check(q: Tensor, k_pages: Tensor, v_pages: Tensor, v_log2_scales: Tensor, block_map: BlockMap) -> int:
    n_heads, n_q_blk, _ = block_map.index.shape
    head_dim = v_pages.shape[3]
    if not q.dtype == k_pages.dtype == v_pages.dtype == FP8:
        raise ValueError(f"q, k and v are float8_e4m3fn, not {q.dtype}, {k_pages.dtype}, {v_pages.dtype}")
    if head_dim not in (64, 128):
        raise ValueError(f"head dim {head_dim} is not supported, only 64 and 128")
    if q.shape != (n_q_blk * WINDOW_TOK, n_heads * head_dim) or k_pages.shape[2:] != q.shape[1:]:
        raise ValueError(f"q {tuple(q.shape)}, k {tuple(k_pages.shape)} do not fit v {tuple(v_pages.shape)}")
    if v_pages.shape[:3] != v_log2_scales.shape or k_pages.shape[1] != v_pages.shape[1] * WINDOW_TOK:
        raise ValueError(f"v {tuple(v_pages.shape)} does not fit its scales or k {tuple(k_pages.shape)}")
    if not all(x.is_contiguous() for x in (q, k_pages, v_pages, v_log2_scales)):
        raise ValueError("q, pages and scales are contiguous")
    capability = capability_of(q.device)
    if capability is not None and capability < MIN_CAPABILITY:
        raise ValueError(f"compute capability {capability} has no e4m3 products; {MIN_CAPABILITY} is the first")
    return head_dim


def block_sparse_attention_fp8(
    q: Tensor,
    k_pages: Tensor,
    v_pages: Tensor,
    v_log2_scales: Tensor,
    block_map: BlockMap,
    out_dtype: torch.dtype = torch.bfloat16,
) -> Tensor:
    """Softmax attention of each query window over its kept blocks, scale 1 / sqrt(d), in e4m3.

    Args:
        q: (Q * 128, H * d) float8_e4m3fn, d 64 or 128, tokens in window order; `qk_rope.write_qk` makes it.
        k_pages: (n_pages, M * 128, H * d) float8_e4m3fn.
        v_pages: (n_pages, M, H, d, 128) float8_e4m3fn, as `write_v` fills them.
        v_log2_scales: (n_pages, M, H) float32.
        block_map: lists for H heads and Q windows.
        out_dtype: floating; bfloat16 and float16 are fast on Hopper.

    Returns:
        (Q * 128, H * d), zeros for windows with an empty list.

    Raises:
        ValueError: if shapes or dtypes do not fit together, or the GPU is older than Ada.
    """
    head_dim = _check(q, k_pages, v_pages, v_log2_scales, block_map)
    n_heads, n_q_blk, capacity = block_map.index.shape
    out = torch.empty(q.shape, dtype=out_dtype, device=q.device)
    scale_log2 = LOG2_E / math.sqrt(head_dim)
    k, v = k_pages.flatten(0, 1), v_pages.flatten(0, 3)
    if capability_of(q.device) == (9, 0) and out_dtype != torch.float32:
        from flashvsr_kernels.hopper_attention_fp8 import launch  # Gluon has no interpreter

        launch(q, k, v, v_log2_scales, out, block_map, head_dim, scale_log2)
        return out
    _block_sparse_attention_fp8_kernel[(block_map.order.numel(),)](
        q, k, v, v_log2_scales, out, block_map.index, block_map.count, block_map.order,
        capacity, n_q_blk, scale_log2,
        N_HEADS=n_heads, HEAD_DIM=head_dim, BLOCK=WINDOW_TOK, BLOCK_N=64, N_STAGES=2, num_warps=8,
    )  # fmt: skip
    return out
