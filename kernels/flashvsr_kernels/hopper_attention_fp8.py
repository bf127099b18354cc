# mypy: disallow-untyped-defs=False
# (Triton traces the arguments of its kernels; annotations there mean constexpr or nothing.)
"""`hopper_attention` with both products in e4m3. What differs:

* V comes transposed, because fp8 warpgroup MMA wants both operands contiguous along the summed dimension, and with
  its keys reordered so that the scores' registers are the next product's operand without a shuffle
  (`fp8_attention` says how).
* The tensor cores keep about 14 bits of an fp8 sum. A block's product is therefore made from zero and added to the
  running float32 sum outside, where the rescaling of the online softmax was to be paid anyway.
* The scale of a V block enters its logits as an offset, so that no element is multiplied by it.
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

N_STAGES = 3
LOG2_P_SCALE = gl.constexpr(8.0)  # probabilities are stored as p * 256: e4m3 ends at 448 and thins out below 2**-6


@gluon.jit
def _pack(p, BLOCK: gl.constexpr):
    """Probabilities in e4m3, four neighbours in the order of V's keys to a register.

    (rows, BLOCK) float32 to (rows, BLOCK / 16, 4) int32. Single bytes would be carried in a register each.
    """
    parts = p.reshape([CONSUMER_ROWS, BLOCK // 16, 2, 4, 2]).permute([0, 1, 3, 2, 4])
    even, odd = gl.split(parts)
    p0, p2 = gl.split(even)
    p1, p3 = gl.split(odd)
    return gl.inline_asm_elementwise(
        """
        {
            .reg .b16 low, high;
            cvt.rn.satfinite.e4m3x2.f32 low, $2, $1;
            cvt.rn.satfinite.e4m3x2.f32 high, $4, $3;
            mov.b32 $0, {low, high};
        }
        """,
        "=r,f,f,f,f",
        [p0, p1, p2, p3],
        dtype=gl.int32,
        is_pure=True,
        pack=1,
    )


@gluon.jit
def _as_operand(packed, layout: gl.constexpr, BLOCK: gl.constexpr):
    """What `_pack` made, as the left operand: registers stay where they are, and the compiler finds that out."""
    low = gl.join(packed.to(gl.int8), (packed >> 8).to(gl.int8))
    high = gl.join((packed >> 16).to(gl.int8), (packed >> 24).to(gl.int8))
    p = gl.join(low, high).permute([0, 1, 2, 4, 3]).reshape([CONSUMER_ROWS, BLOCK])
    return gl.convert_layout(p.to(gl.float8e4nv, bitcast=True), layout, assert_trivial=True)


@gluon.jit
def _consume(
    out_desc,
    index_ptr,
    v_log2_scale_ptr,
    n_blocks,
    o_row,
    i_head,
    n_heads,
    scale_log2,
    q_smem,
    k_smem,
    v_smem,
    out_smem,
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
    score_layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, BLOCK, 32])
    out_layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, HEAD_DIM, 32])
    p_layout: gl.constexpr = gl.DotOperandLayout(0, out_layout, 4)
    row_layout: gl.constexpr = gl.SliceLayout(1, score_layout)
    out_row_layout: gl.constexpr = gl.SliceLayout(1, out_layout)

    q = q_smem.index(I_CONSUMER)
    acc = gl.zeros([CONSUMER_ROWS, HEAD_DIM], gl.float32, out_layout)
    nothing = gl.zeros([CONSUMER_ROWS, HEAD_DIM], gl.float32, out_layout)
    no_scores = gl.zeros([CONSUMER_ROWS, BLOCK], gl.float32, score_layout)
    row_max = gl.full([CONSUMER_ROWS], -float("inf"), gl.float32, row_layout)
    alpha = gl.full([CONSUMER_ROWS], 0.0, gl.float32, row_layout)
    if n_blocks > 0:
        block = gl.load(index_ptr)
        offset = gl.load(v_log2_scale_ptr + block.to(gl.int64) * n_heads + i_head)
        block = gl.load(index_ptr + gl.minimum(1, n_blocks - 1))
        mbarrier.wait(q_full, 0)
        mbarrier.wait(k_full.index(0), 0)
        scores = warpgroup_mma(q, k_smem.index(0).permute((1, 0)), no_scores, use_acc=False)
        mbarrier.arrive(k_empty.index(0), count=1)
        row_max = gl.max(scores, 1) * scale_log2 + offset
        p = gl.exp2(scores * scale_log2 - (row_max - offset - LOG2_P_SCALE)[:, None])
        row_sum = sum_per_thread(p) * gl.exp2(-offset)
        sum_row_layout: gl.constexpr = gl.SliceLayout(1, row_sum.type.layout)
        packed = _pack(p, BLOCK)

        for i in range(1, n_blocks):
            stage = i % N_STAGES
            phase = (i // N_STAGES) & 1
            last_stage = (i - 1) % N_STAGES
            last_phase = ((i - 1) // N_STAGES) & 1
            p_low = _as_operand(packed, p_layout, BLOCK)
            # The scale of this block and the number of the next one arrive while the products run.
            offset = gl.load(v_log2_scale_ptr + block.to(gl.int64) * n_heads + i_head)
            block = gl.load(index_ptr + gl.minimum(i + 1, n_blocks - 1))
            mbarrier.wait(k_full.index(stage), phase)
            scores_token = warpgroup_mma(
                q, k_smem.index(stage).permute((1, 0)), no_scores, use_acc=False, is_async=True
            )
            mbarrier.wait(v_full.index(last_stage), last_phase)
            part_token = warpgroup_mma(
                p_low, v_smem.index(last_stage).permute((1, 0)), nothing, use_acc=False, is_async=True
            )
            scores = warpgroup_mma_wait(1, deps=(scores_token,))
            mbarrier.arrive(k_empty.index(stage), count=1)

            new_max = gl.maximum(row_max, gl.max(scores, 1) * scale_log2 + offset)
            p = gl.exp2(scores * scale_log2 - (new_max - offset - LOG2_P_SCALE)[:, None])
            new_alpha = gl.exp2(row_max - new_max)
            decay = gl.convert_layout(new_alpha, sum_row_layout, assert_trivial=True)
            row_sum = row_sum * decay[:, None] + sum_per_thread(p) * gl.exp2(-offset)
            row_max = new_max
            # See hopper_attention: ends a basic block.
            mbarrier.wait(v_full.index(last_stage), last_phase)
            part, p = warpgroup_mma_wait(0, deps=(part_token, p))
            mbarrier.arrive(v_empty.index(last_stage), count=1)
            packed = _pack(p, BLOCK)
            # The sum so far is one maximum behind the block just finished.
            acc = acc * gl.convert_layout(alpha, out_row_layout)[:, None] + part
            alpha = new_alpha

        last_stage = (n_blocks - 1) % N_STAGES
        last_phase = ((n_blocks - 1) // N_STAGES) & 1
        mbarrier.wait(v_full.index(last_stage), last_phase)
        p_low = _as_operand(packed, p_layout, BLOCK)
        part = warpgroup_mma(p_low, v_smem.index(last_stage).permute((1, 0)), nothing, use_acc=False)
        acc = acc * gl.convert_layout(alpha, out_row_layout)[:, None] + part
        acc = acc * (1.0 / gl.convert_layout(gl.sum(row_sum, 1), out_row_layout))[:, None]
    out = out_smem.index(I_CONSUMER)
    out.store(acc.to(out_smem.dtype))
    fence_async_shared()
    async_store(out_desc, [o_row + I_CONSUMER * CONSUMER_ROWS, i_head * HEAD_DIM], out)
    tma.store_wait(0)


@gluon.jit
def _block_sparse_attention_hopper_fp8_kernel(
    q_desc,
    k_desc,
    v_desc,
    out_desc,
    v_log2_scale_ptr,
    index_ptr,
    count_ptr,
    order_ptr,
    capacity,
    n_q_blk,
    n_heads,
    scale_log2,
    BLOCK: gl.constexpr,
    HEAD_DIM: gl.constexpr,
    N_STAGES: gl.constexpr,
):
    q_smem = gl.allocate_shared_memory(q_desc.dtype, [2, CONSUMER_ROWS, HEAD_DIM], q_desc.layout)
    k_smem = gl.allocate_shared_memory(q_desc.dtype, [N_STAGES, BLOCK, HEAD_DIM], k_desc.layout)
    v_smem = gl.allocate_shared_memory(q_desc.dtype, [N_STAGES, HEAD_DIM, BLOCK], v_desc.layout)
    out_smem = gl.allocate_shared_memory(out_desc.dtype, [2, CONSUMER_ROWS, HEAD_DIM], out_desc.layout)
    q_full, k_full, k_empty, v_full, v_empty = make_barriers(N_STAGES)

    i_row = gl.load(order_ptr + gl.program_id(0))
    n_blocks = gl.load(count_ptr + i_row)
    o_row = (i_row % n_q_blk) * BLOCK
    i_head = i_row // n_q_blk
    p_list = index_ptr + i_row.to(gl.int64) * capacity
    gl.warp_specialize(
        [
            (
                _consume,
                (
                    out_desc, p_list, v_log2_scale_ptr, n_blocks, o_row, i_head, n_heads, scale_log2,
                    q_smem, k_smem, v_smem, out_smem, q_full, k_full, k_empty, v_full, v_empty,
                    0, BLOCK, HEAD_DIM, N_STAGES,
                ),
            ),
            (
                _consume,
                (
                    out_desc, p_list, v_log2_scale_ptr, n_blocks, o_row, i_head, n_heads, scale_log2,
                    q_smem, k_smem, v_smem, out_smem, q_full, k_full, k_empty, v_full, v_empty,
                    1, BLOCK, HEAD_DIM, N_STAGES,
                ),
            ),
            (
                produce,
                (
                    q_desc, k_desc, v_desc, p_list, n_blocks, o_row, i_head * HEAD_DIM,
                    n_heads * HEAD_DIM, i_head * HEAD_DIM, 0, q_smem, k_smem, v_smem,
                    q_full, k_full, k_empty, v_full, v_empty, BLOCK, N_STAGES,
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
    v_log2_scales: Tensor,
    out: Tensor,
    block_map: BlockMap,
    head_dim: int,
    scale_log2: float,
    *,
    n_stages: int = N_STAGES,
) -> None:
    """Runs the kernel: q, k, out are (n_tok, H * d), v is (n_blk * H * d, 128); see `fp8_attention`.

    `n_stages` is there for kernels/bench.
    """
    n_heads, n_q_blk, capacity = block_map.index.shape
    rows, block, block_v = [BLOCK_TOK // 2, head_dim], [BLOCK_TOK, head_dim], [head_dim, BLOCK_TOK]
    layout = gl.NVMMASharedLayout.get_default_for
    _block_sparse_attention_hopper_fp8_kernel[(n_heads * n_q_blk,)](
        TensorDescriptor.from_tensor(q, rows, layout(rows, gl.float8e4nv)),
        TensorDescriptor.from_tensor(k, block, layout(block, gl.float8e4nv)),
        TensorDescriptor.from_tensor(v, block_v, layout(block_v, gl.float8e4nv)),
        TensorDescriptor.from_tensor(out, rows, layout(rows, GLUON_DTYPES[out.dtype])),
        v_log2_scales, block_map.index, block_map.count, block_map.order, capacity, n_q_blk, n_heads, scale_log2,
        BLOCK=BLOCK_TOK, HEAD_DIM=head_dim, N_STAGES=n_stages, num_warps=4, maxnreg=MAX_REGISTERS,
    )  # fmt: skip
