# mypy: disallow-untyped-defs=False
# (Triton traces the arguments of its kernels; annotations there mean constexpr or nothing.)
"""What both Hopper attentions share: the rings of K and V blocks, and the warp that keeps them full."""

import torch
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import fence_async_shared, mbarrier

from flashvsr_kernels.gluon_names import async_load

BLOCK_TOK = 128
CONSUMER_ROWS = gl.constexpr(64)  # query rows of one warpgroup
CONSUMER_REGISTERS = gl.constexpr(240)  # per thread: two consumers and the producer share 3 * 168
PRODUCER_REGISTERS = gl.constexpr(24)
MAX_REGISTERS = 168  # 65536 registers over 3 warpgroups of 128 threads
GLUON_DTYPES = {torch.bfloat16: gl.bfloat16, torch.float16: gl.float16}


@gluon.jit
def make_barriers(N_STAGES: gl.constexpr):
    """Barriers: queries there; per stage, K there, K read by both consumers, V there, V read by both."""
    q_full = gl.allocate_shared_memory(gl.int64, [1], mbarrier.MBarrierLayout())
    k_full = gl.allocate_shared_memory(gl.int64, [N_STAGES, 1], mbarrier.MBarrierLayout())
    k_empty = gl.allocate_shared_memory(gl.int64, [N_STAGES, 1], mbarrier.MBarrierLayout())
    v_full = gl.allocate_shared_memory(gl.int64, [N_STAGES, 1], mbarrier.MBarrierLayout())
    v_empty = gl.allocate_shared_memory(gl.int64, [N_STAGES, 1], mbarrier.MBarrierLayout())
    mbarrier.init(q_full, count=1)
    for i_stage in gl.static_range(N_STAGES):
        mbarrier.init(k_full.index(i_stage), count=1)
        mbarrier.init(v_full.index(i_stage), count=1)
        mbarrier.init(k_empty.index(i_stage), count=2)
        mbarrier.init(v_empty.index(i_stage), count=2)
    fence_async_shared()
    return q_full, k_full, k_empty, v_full, v_empty


@gluon.jit
def sum_per_thread(p):
    """(rows, BLOCK) scores of a warpgroup MMA to (rows, 4): of each row, what each of its four threads holds.

    Added up across threads once, when all blocks are done, and not for every block.
    """
    parts = p.reshape([p.shape[0], p.shape[1] // 8, 4, 2])
    return gl.sum(gl.sum(parts, 1), 2)


@gluon.jit
def produce(
    q_desc,
    k_desc,
    v_desc,
    index_ptr,
    n_blocks,
    o_row,
    o_channel,
    v_block_rows,
    o_v_row,
    o_v_channel,
    q_smem,
    k_smem,
    v_smem,
    q_full,
    k_full,
    k_empty,
    v_full,
    v_empty,
    BLOCK: gl.constexpr,
    N_STAGES: gl.constexpr,
):
    """Loads the queries, then K and V of each block in a list; V of block b from row b * v_block_rows + o_v_row on."""
    if n_blocks > 0:
        mbarrier.expect(q_full, 2 * q_desc.block_type.nbytes)
        for i_half in gl.static_range(2):
            async_load(q_desc, [o_row + i_half * CONSUMER_ROWS, o_channel], q_full, q_smem.index(i_half))
        block = gl.load(index_ptr)
        for i in range(n_blocks):
            stage = i % N_STAGES
            phase = (i // N_STAGES) & 1
            o_k = block * BLOCK
            o_v = block * v_block_rows + o_v_row
            # The next block id is fetched while the ring is waited for; the last one repeats itself.
            block = gl.load(index_ptr + gl.minimum(i + 1, n_blocks - 1))
            mbarrier.wait(k_empty.index(stage), phase ^ 1)
            mbarrier.expect(k_full.index(stage), k_desc.block_type.nbytes)
            async_load(k_desc, [o_k, o_channel], k_full.index(stage), k_smem.index(stage))
            mbarrier.wait(v_empty.index(stage), phase ^ 1)
            mbarrier.expect(v_full.index(stage), v_desc.block_type.nbytes)
            async_load(v_desc, [o_v, o_v_channel], v_full.index(stage), v_smem.index(stage))
