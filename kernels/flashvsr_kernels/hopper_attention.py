# mypy: disallow-untyped-defs=False
# (Triton traces the arguments of its kernels; annotations there mean constexpr or nothing.)
"""Block-sparse attention for Hopper in Gluon: TMA, mbarriers, asynchronous warpgroup MMA, warp specialisation.

One program handles one query window of one head. Three partitions:

* the producer (one warp) walks the row's index list and keeps the K and V rings full by TMA;
* two consumers (a warpgroup each) own 64 query rows each. Within a consumer the weighted sum of block j is in
  flight while the softmax of block j + 1 runs on the other units. The consumers share nothing but the rings and
  drift apart by themselves, so that one multiplies while the other one is in its softmax.

Source: the schedule is FlashAttention-3's (arXiv 2407.08608 section 3.2), on a list of blocks instead of a
range and without the ordering barriers of section 3.1, which cost a few percent here (kernels/README.md).
"""

from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    tma,
    warpgroup_mma,
    warpgroup_mma_wait,
)
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

from flashvsr_kernels.block_map import BlockMap
from flashvsr_kernels.gluon_names import async_store
from flashvsr_kernels.hopper_ring import (
    BLOCK_TOK,
    CONSUMER_REGISTERS,
    CONSUMER_ROWS,
    GLUON_DTYPES,
    MAX_REGISTERS,
    PRODUCER_REGISTERS,
    make_barriers,
    produce,
    sum_per_thread,
)

N_STAGES = 2  # K and V blocks in flight: 4 x 32 KiB beside 32 KiB of queries


@gluon.jit
def _consume(
    out_desc,
    n_blocks,
    o_row,
    o_channel,
    scale_log2,
    q_smem,
    k_smem,
    v_smem,
    q_full,
    k_full,
    k_empty,
    v_full,
    v_empty,
    I_CONSUMER: gl.constexpr,
    BLOCK: gl.constexpr,
    HEAD_DIM: gl.constexpr,
    N_STAGES: gl.constexpr,
):
    dtype: gl.constexpr = q_smem.dtype
    score_layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, BLOCK, 16])
    out_layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, HEAD_DIM, 16])
    p_layout: gl.constexpr = gl.DotOperandLayout(0, out_layout, 2)
    row_layout: gl.constexpr = gl.SliceLayout(1, score_layout)
    out_row_layout: gl.constexpr = gl.SliceLayout(1, out_layout)

    q = q_smem.index(I_CONSUMER)
    acc = gl.zeros([CONSUMER_ROWS, HEAD_DIM], gl.float32, out_layout)
    no_scores = gl.zeros([CONSUMER_ROWS, BLOCK], gl.float32, score_layout)
    row_max = gl.full([CONSUMER_ROWS], -float("inf"), gl.float32, row_layout)
    if n_blocks > 0:
        mbarrier.wait(q_full, 0)
        mbarrier.wait(k_full.index(0), 0)
        scores = warpgroup_mma(q, k_smem.index(0).permute((1, 0)), no_scores, use_acc=False)
        mbarrier.arrive(k_empty.index(0), count=1)
        row_max = gl.max(scores, 1)
        p = gl.exp2(scores * scale_log2 - (row_max * scale_log2)[:, None])
        row_sum = sum_per_thread(p)
        sum_row_layout: gl.constexpr = gl.SliceLayout(1, row_sum.type.layout)
        p_low = gl.convert_layout(p.to(dtype), p_layout)

        for i in range(1, n_blocks):
            stage = i % N_STAGES
            phase = (i // N_STAGES) & 1
            last_stage = (i - 1) % N_STAGES
            last_phase = ((i - 1) // N_STAGES) & 1
            mbarrier.wait(k_full.index(stage), phase)
            scores_token = warpgroup_mma(
                q, k_smem.index(stage).permute((1, 0)), no_scores, use_acc=False, is_async=True
            )
            mbarrier.wait(v_full.index(last_stage), last_phase)
            acc_token = warpgroup_mma(p_low, v_smem.index(last_stage), acc, is_async=True)
            scores = warpgroup_mma_wait(1, deps=(scores_token,))
            mbarrier.arrive(k_empty.index(stage), count=1)

            new_max = gl.maximum(row_max, gl.max(scores, 1))
            alpha = gl.exp2((row_max - new_max) * scale_log2)
            p = gl.exp2(scores * scale_log2 - (new_max * scale_log2)[:, None])
            decay = gl.convert_layout(alpha, sum_row_layout, assert_trivial=True)
            row_sum = row_sum * decay[:, None] + sum_per_thread(p)
            row_max = new_max
            # Passes at once: v is still held. Its branch ends a basic block, without which ptxas would move the
            # wait for the products in front of the exponentials that are to run beside them.
            mbarrier.wait(v_full.index(last_stage), last_phase)
            acc, p = warpgroup_mma_wait(0, deps=(acc_token, p))
            mbarrier.arrive(v_empty.index(last_stage), count=1)
            p_low = gl.convert_layout(p.to(dtype), p_layout)
            acc = acc * gl.convert_layout(alpha, out_row_layout)[:, None]

        last_stage = (n_blocks - 1) % N_STAGES
        last_phase = ((n_blocks - 1) // N_STAGES) & 1
        mbarrier.wait(v_full.index(last_stage), last_phase)
        acc = warpgroup_mma(p_low, v_smem.index(last_stage), acc)
        acc = acc * (1.0 / gl.convert_layout(gl.sum(row_sum, 1), out_row_layout))[:, None]
    # The consumer's own query rows have been read for the last time: their memory carries the result out.
    q.store(acc.to(dtype))
    fence_async_shared()
    async_store(out_desc, [o_row + I_CONSUMER * CONSUMER_ROWS, o_channel], q)
    tma.store_wait(0)


@gluon.jit
def _block_sparse_attention_hopper_kernel(
    q_desc,
    k_desc,
    v_desc,
    out_desc,
    index_ptr,
    count_ptr,
    order_ptr,
    capacity,
    n_q_blk,
    scale_log2,
    BLOCK: gl.constexpr,
    HEAD_DIM: gl.constexpr,
    N_STAGES: gl.constexpr,
):
    dtype: gl.constexpr = q_desc.dtype
    q_smem = gl.allocate_shared_memory(dtype, [2, CONSUMER_ROWS, HEAD_DIM], q_desc.layout)
    k_smem = gl.allocate_shared_memory(dtype, [N_STAGES, BLOCK, HEAD_DIM], k_desc.layout)
    v_smem = gl.allocate_shared_memory(dtype, [N_STAGES, BLOCK, HEAD_DIM], v_desc.layout)
    q_full, k_full, k_empty, v_full, v_empty = make_barriers(N_STAGES)

    i_row = gl.load(order_ptr + gl.program_id(0))
    n_blocks = gl.load(count_ptr + i_row)
    o_row = (i_row % n_q_blk) * BLOCK
    o_channel = (i_row // n_q_blk) * HEAD_DIM
    p_list = index_ptr + i_row.to(gl.int64) * capacity
    gl.warp_specialize(
        [
            (
                _consume,
                (
                    out_desc, n_blocks, o_row, o_channel, scale_log2, q_smem, k_smem, v_smem,
                    q_full, k_full, k_empty, v_full, v_empty,
                    0, BLOCK, HEAD_DIM, N_STAGES,
                ),
            ),
            (
                _consume,
                (
                    out_desc, n_blocks, o_row, o_channel, scale_log2, q_smem, k_smem, v_smem,
                    q_full, k_full, k_empty, v_full, v_empty,
                    1, BLOCK, HEAD_DIM, N_STAGES,
                ),
            ),
            (
                produce,
                (
                    q_desc, k_desc, v_desc, p_list, n_blocks, o_row, o_channel, BLOCK, 0, o_channel,
                    q_smem, k_smem, v_smem, q_full, k_full, k_empty, v_full, v_empty, BLOCK, N_STAGES,
                ),
            ),
        ],
        [4, 1],
        [CONSUMER_REGISTERS, PRODUCER_REGISTERS],
    )  # fmt: skip


def launch(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    block_map: BlockMap,
    head_dim: int,
    scale_log2: float,
    *,
    n_stages: int = N_STAGES,
) -> None:
    """Runs the kernel on 2-D token tensors; see `block_sparse_attention` for the shapes.

    `n_stages` is there for kernels/bench.
    """
    n_heads, n_q_blk, capacity = block_map.index.shape
    layout = gl.NVMMASharedLayout.get_default_for([BLOCK_TOK, head_dim], GLUON_DTYPES[q.dtype])
    rows, block = [BLOCK_TOK // 2, head_dim], [BLOCK_TOK, head_dim]
    _block_sparse_attention_hopper_kernel[(n_heads * n_q_blk,)](
        TensorDescriptor.from_tensor(q, rows, layout),
        TensorDescriptor.from_tensor(k, block, layout),
        TensorDescriptor.from_tensor(v, block, layout),
        TensorDescriptor.from_tensor(out, rows, layout),
        block_map.index, block_map.count, block_map.order, capacity, n_q_blk, scale_log2,
        BLOCK=BLOCK_TOK, HEAD_DIM=head_dim, N_STAGES=n_stages,
        num_warps=4, maxnreg=MAX_REGISTERS,
    )  # fmt: skip
