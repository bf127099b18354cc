# mypy: disallow-untyped-defs=False
# (Triton traces the arguments of its kernels; annotations there mean constexpr or nothing.)
"""Attention over the kept 128 x 128 blocks: the public op, and the kernel that runs on any Ampere or newer GPU.

One program takes one query window (or a part of it) of one head through the row's list of kept blocks with an
online softmax. Blocks that are not in the list are never read. Hopper GPUs take `hopper_attention` instead.
"""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from flashvsr_kernels import interpreter  # noqa: F401
from flashvsr_kernels.block_map import BlockMap
from flashvsr_kernels.configs import attention_config, capability_of

WINDOW_TOK = 128
LOG2_E = 1 / math.log(2)


@triton.jit
def _block_sparse_attention_kernel(
    q_ptr,
    k_ptr,
    v_ptr,
    out_ptr,
    index_ptr,
    count_ptr,
    order_ptr,
    capacity,
    n_q_blk,
    stride_q,
    stride_k,
    stride_v,
    stride_out,
    scale_log2,
    HEAD_DIM: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    N_STAGES: tl.constexpr,
):
    parts: tl.constexpr = BLOCK // BLOCK_M
    steps: tl.constexpr = BLOCK // BLOCK_N
    row = tl.load(order_ptr + tl.program_id(0) // parts)
    n_blocks = tl.load(count_ptr + row)
    p_list = index_ptr + row.to(tl.int64) * capacity
    o_d = (row // n_q_blk).to(tl.int64) * HEAD_DIM + tl.arange(0, HEAD_DIM)
    o_m = (row % n_q_blk).to(tl.int64) * BLOCK + (tl.program_id(0) % parts) * BLOCK_M + tl.arange(0, BLOCK_M)
    o_n = tl.arange(0, BLOCK_N)

    q = tl.load(q_ptr + o_m[:, None] * stride_q + o_d[None, :])
    acc = tl.zeros([BLOCK_M, HEAD_DIM], tl.float32)
    row_max = tl.full([BLOCK_M], -float("inf"), tl.float32)
    row_sum = tl.zeros([BLOCK_M], tl.float32)
    for i in tl.range(0, n_blocks * steps, num_stages=N_STAGES):
        block = tl.load(p_list + i // steps)
        o_tok = block.to(tl.int64) * BLOCK + (i % steps) * BLOCK_N + o_n
        k = tl.load(k_ptr + o_tok[None, :] * stride_k + o_d[:, None])
        v = tl.load(v_ptr + o_tok[:, None] * stride_v + o_d[None, :])
        scores = tl.dot(q, k, input_precision="ieee")
        new_max = tl.maximum(row_max, tl.max(scores, 1))
        alpha = tl.exp2((row_max - new_max) * scale_log2)
        p = tl.exp2(scores * scale_log2 - (new_max * scale_log2)[:, None])
        row_sum = row_sum * alpha + tl.sum(p, 1)
        acc = tl.dot(p.to(v.dtype), v, acc * alpha[:, None], input_precision="ieee")
        row_max = new_max
    # An empty list leaves acc and row_sum at zero; dividing by one keeps the zeros.
    out = acc / tl.where(n_blocks == 0, 1.0, row_sum)[:, None]
    tl.store(out_ptr + o_m[:, None] * stride_out + o_d[None, :], out.to(out_ptr.dtype.element_ty))


def _check(q: Tensor, k_pages: Tensor, v_pages: Tensor, block_map: BlockMap) -> int:
    n_heads, n_q_blk, _ = block_map.index.shape
    if q.dim() != 2 or q.shape[0] != n_q_blk * WINDOW_TOK or q.shape[1] % n_heads:
        raise ValueError(f"q {tuple(q.shape)} does not fit {n_q_blk} windows of {n_heads} heads")
    if k_pages.shape != v_pages.shape or k_pages.dim() != 3 or k_pages.shape[2] != q.shape[1]:
        raise ValueError(f"k {tuple(k_pages.shape)} and v {tuple(v_pages.shape)} do not fit q {tuple(q.shape)}")
    if k_pages.shape[1] % WINDOW_TOK:
        raise ValueError(f"a page of {k_pages.shape[1]} tokens is not made of windows of {WINDOW_TOK}")
    if not q.dtype == k_pages.dtype == v_pages.dtype:
        raise ValueError(f"dtypes differ: {q.dtype}, {k_pages.dtype}, {v_pages.dtype}")
    if q.stride(1) != 1 or not (k_pages.is_contiguous() and v_pages.is_contiguous()):
        raise ValueError("pages are contiguous, and so are the channels of q")
    return q.shape[1] // n_heads


def _launch_portable(
    q: Tensor, k: Tensor, v: Tensor, out: Tensor, block_map: BlockMap, head_dim: int, scale_log2: float
) -> None:
    config = attention_config(capability_of(q.device), head_dim, q.dtype)
    n_rows = block_map.order.numel()
    _block_sparse_attention_kernel[(n_rows * (WINDOW_TOK // config.block_m),)](
        q, k, v, out, block_map.index, block_map.count, block_map.order,
        block_map.index.shape[2], block_map.index.shape[1],
        q.stride(0), k.stride(0), v.stride(0), out.stride(0), scale_log2,
        HEAD_DIM=head_dim, BLOCK=WINDOW_TOK, BLOCK_M=config.block_m, BLOCK_N=config.block_n,
        N_STAGES=config.n_stages, num_warps=config.n_warps,
    )  # fmt: skip


def block_sparse_attention(
    q: Tensor, k_pages: Tensor, v_pages: Tensor, block_map: BlockMap, out: Tensor | None = None
) -> Tensor:
    """Exact softmax attention of each query window over its kept blocks, scale 1 / sqrt(d).

    Args:
        q: (Q * 128, H * d) float16, bfloat16 or float32, d 64 or 128, tokens in window order.
        k_pages: (n_pages, M * 128, H * d), same dtype: the pool that the block ids of the map point into.
        v_pages: like k_pages.
        block_map: lists for H heads and Q windows.
        out: like q, contiguous; made if omitted.

    Returns:
        (Q * 128, H * d) in the dtype of q, zeros for windows with an empty list.

    Raises:
        ValueError: if shapes, dtypes or strides do not fit together.
    """
    head_dim = _check(q, k_pages, v_pages, block_map)
    if out is None:
        out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    k, v = k_pages.flatten(0, 1), v_pages.flatten(0, 1)
    scale_log2 = LOG2_E / math.sqrt(head_dim)
    if capability_of(q.device) == (9, 0) and q.dtype != torch.float32:
        from flashvsr_kernels.hopper_attention import launch  # Gluon has no interpreter: imported where it runs

        launch(q, k, v, out, block_map, head_dim, scale_log2)
    else:
        _launch_portable(q, k, v, out, block_map, head_dim, scale_log2)
    return out
