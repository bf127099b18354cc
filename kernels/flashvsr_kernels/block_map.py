# mypy: disallow-untyped-defs=False
# (Triton traces the arguments of its kernels; annotations there mean constexpr or nothing.)
"""Which blocks each query window attends to, as compact lists, without leaving the device.

Scores; their softmax; the exact joint threshold by radix selection on the float32 bit patterns, one digit per
kernel so that all rows take part; the lists of kept blocks; the order in which attention should take the rows.
Nothing is read back by the host, so the work can be queued ahead and captured in a CUDA graph.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from flashvsr_kernels import interpreter  # noqa: F401

# Probabilities are not negative, so their bit patterns as integers are ordered like them.
PATTERN_BITS = tl.constexpr(32)
DIGIT_BITS = tl.constexpr(8)
N_BINS = tl.constexpr(256)
GROUPS = tl.constexpr(16)  # counts are added so many at a time


@dataclass(frozen=True)
class BlockMap:
    """The kept blocks of every query window of every head.

    Attributes:
        index: (H, Q, capacity) int32; the first `count` entries of a row are block ids `page * M + window`,
            the rest is undefined.
        count: (H, Q) int32.
        order: (H * Q,) int32, the rows `i_head * Q + i_q` with the longest lists first: taken in this order by
            the multiprocessors, the short rows fill the gaps at the end.
    """

    index: Tensor
    count: Tensor
    order: Tensor

    @staticmethod
    def from_keep(keep: Tensor, page_table: Tensor | None = None, n_windows: int | None = None) -> "BlockMap":
        """The map of a (H, Q, K) bool mask. Plain torch, for tests and for maps made elsewhere.

        Args:
            keep: True where query window q of head h attends to key window k.
            page_table: (K / n_windows,) int32, the page of each key time pair; omitted, block ids are 0..K-1.
            n_windows: windows per page, needed with a page table.

        Raises:
            ValueError: if a page table comes without n_windows or does not cover K.
        """
        n_k = keep.shape[-1]
        ids = torch.arange(n_k, device=keep.device, dtype=torch.int32)
        if page_table is not None:
            if n_windows is None or page_table.numel() * n_windows != n_k:
                raise ValueError(f"{page_table.numel()} pages of {n_windows} windows do not hold {n_k} windows")
            ids = page_table.to(torch.int32)[(ids // n_windows).long()] * n_windows + ids % n_windows
        kept_first = (~keep).to(torch.uint8).argsort(dim=-1, stable=True)
        count = keep.sum(dim=-1, dtype=torch.int32)
        order = count.flatten().argsort(descending=True, stable=True).to(torch.int32)
        return BlockMap(index=ids[kept_first].contiguous(), count=count, order=order)


# A page table is a row of all layers' tables, 12 bytes apart in a clip's first chunk: whether its address is a multiple
# of 16 must not compile a kernel twice.
@triton.jit(do_not_specialize_on_alignment=["page_table_ptr"])
def _scores_kernel(
    q_means_ptr,
    k_means_ptr,
    page_table_ptr,
    scores_ptr,
    n_q,
    n_k,
    n_heads,
    rows,
    cols,
    local_range,
    scale,
    HEAD_DIM: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """One tile of scaled scores of one head; -inf where the local mask hides the key window."""
    i_head = tl.program_id(2)
    n_windows = rows * cols
    i_q = tl.program_id(0) * BLOCK_Q + tl.arange(0, BLOCK_Q)
    i_k = tl.program_id(1) * BLOCK_K + tl.arange(0, BLOCK_K)
    m_q, m_k = i_q < n_q, i_k < n_k
    page = tl.load(page_table_ptr + i_k // n_windows, mask=m_k, other=0)
    block = page.to(tl.int64) * n_windows + i_k % n_windows
    p_q = q_means_ptr + (i_q[:, None].to(tl.int64) * n_heads + i_head) * HEAD_DIM
    p_k = k_means_ptr + (block[None, :] * n_heads + i_head) * HEAD_DIM
    scores = tl.zeros([BLOCK_Q, BLOCK_K], tl.float32)
    for o in range(0, HEAD_DIM, BLOCK_D):
        o_d = o + tl.arange(0, BLOCK_D)
        q = tl.load(p_q + o_d[None, :], mask=m_q[:, None], other=0.0)
        k = tl.load(p_k + o_d[:, None], mask=m_k[None, :], other=0.0)
        scores = tl.dot(q, k, scores, input_precision="ieee")
    scores *= scale
    # n_windows is a multiple of cols, so the column of a window is also that of its index over all pairs.
    d_row = ((i_k % n_windows) // cols)[None, :] - ((i_q % n_windows) // cols)[:, None] + local_range // 2
    d_col = (i_k % cols)[None, :] - (i_q % cols)[:, None] + local_range // 2
    visible = (d_row >= 0) & (d_row < local_range) & (d_col >= 0) & (d_col < local_range)
    tl.store(
        scores_ptr + (i_head.to(tl.int64) * n_q + i_q[:, None]) * n_k + i_k[None, :],
        tl.where(visible, scores, -float("inf")),
        mask=m_q[:, None] & m_k[None, :],
    )


@triton.jit
def _count_digits(probs, candidate, shift, p_counts, BLOCK: tl.constexpr):
    """Stores how often each digit occurs among the candidates of a tile of BLOCK probabilities."""
    digits = (probs.to(tl.int32, bitcast=True) >> shift) & (N_BINS - 1)
    # Not the mask of tl.histogram: Triton 3.6 takes the order of a reshaped histogram input for free, and that of
    # a reshaped mask likewise but independently, so the two need not match. The others are taken off bin 0.
    digits = tl.where(candidate, digits, 0)
    i_bin = tl.arange(0, N_BINS)
    n_others = BLOCK - tl.sum(tl.sum(candidate.to(tl.int32), 1), 0)
    counts = tl.histogram(tl.reshape(digits, [BLOCK]), N_BINS)
    tl.store(p_counts + i_bin, tl.where(i_bin == 0, counts - n_others, counts))


@triton.jit
def _choose_digit(prefix, wanted, p_counts, n_groups):
    """The next digit of the wanted-th largest (from 0) among the candidates: new prefix and rank below it."""
    i_bin = tl.arange(0, N_BINS)
    counts = tl.zeros([N_BINS], tl.int32)
    for o in range(0, n_groups, GROUPS):
        i_group = o + tl.arange(0, GROUPS)
        p_group = p_counts + i_group[:, None] * N_BINS + i_bin[None, :]
        counts += tl.sum(tl.load(p_group, mask=(i_group < n_groups)[:, None], other=0), 0)
    at_least = tl.cumsum(counts, 0, reverse=True)
    digit = tl.sum((at_least > wanted).to(tl.int32), 0) - 1
    wanted -= tl.sum(tl.where(i_bin > digit, counts, 0), 0)
    return (prefix << DIGIT_BITS) | digit, wanted


# Not specialised: a rank that changes with the number of pages must not compile the kernel again mid-clip.
@triton.jit(do_not_specialize=["rank"])
def _softmax_kernel(
    scores_ptr, counts_ptr, state_ptr, rank, n_windows, n_k, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr
):
    """Softmax of BLOCK_Q rows in place, and the counts of the first digit of the results.

    The grid is (groups of rows in a time pair, heads and query pairs).
    """
    i_row = tl.program_id(0) * BLOCK_Q + tl.arange(0, BLOCK_Q)
    i_k = tl.arange(0, BLOCK_K)
    mask = (i_row < n_windows)[:, None] & (i_k < n_k)[None, :]
    o_row = tl.program_id(1).to(tl.int64) * n_windows + i_row
    p_scores = scores_ptr + o_row[:, None] * n_k + i_k[None, :]
    scores = tl.load(p_scores, mask=mask, other=-float("inf"))
    row_max = tl.max(scores, 1)
    row_max = tl.where(row_max == -float("inf"), 0.0, row_max)  # rows beyond the last
    exps = tl.exp(scores - row_max[:, None])
    probs = exps / tl.where(i_row < n_windows, tl.sum(exps, 1), 1.0)[:, None]
    tl.store(p_scores, probs, mask=mask)
    if tl.program_id(0) == 0:
        tl.store(state_ptr + tl.program_id(1) * 2, 0)
        tl.store(state_ptr + tl.program_id(1) * 2 + 1, rank)
    i_counts = tl.program_id(1) * tl.num_programs(0) + tl.program_id(0)
    p_counts = counts_ptr + i_counts.to(tl.int64) * N_BINS
    _count_digits(probs, mask, PATTERN_BITS - DIGIT_BITS, p_counts, BLOCK_Q * BLOCK_K)


@triton.jit(do_not_specialize=["shift"])
def _next_digit_kernel(
    probs_ptr,
    counts_ptr,
    next_counts_ptr,
    state_ptr,
    next_state_ptr,
    n_windows,
    n_k,
    shift,
    BLOCK_Q: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Every program settles the last digit from all counts, then counts the next one in its own rows."""
    i_joint = tl.program_id(1)
    n_groups = tl.num_programs(0)
    p_joint = counts_ptr + i_joint.to(tl.int64) * n_groups * N_BINS
    prefix, wanted = tl.load(state_ptr + i_joint * 2), tl.load(state_ptr + i_joint * 2 + 1)
    prefix, wanted = _choose_digit(prefix, wanted, p_joint, n_groups)
    if tl.program_id(0) == 0:
        tl.store(next_state_ptr + i_joint * 2, prefix)
        tl.store(next_state_ptr + i_joint * 2 + 1, wanted)
    i_row = tl.program_id(0) * BLOCK_Q + tl.arange(0, BLOCK_Q)
    i_k = tl.arange(0, BLOCK_K)
    mask = (i_row < n_windows)[:, None] & (i_k < n_k)[None, :]
    o_row = i_joint.to(tl.int64) * n_windows + i_row
    probs = tl.load(probs_ptr + o_row[:, None] * n_k + i_k[None, :], mask=mask, other=0.0)
    candidate = mask & ((probs.to(tl.int32, bitcast=True) >> (shift + DIGIT_BITS)) == prefix)
    i_counts = i_joint * n_groups + tl.program_id(0)
    p_counts = next_counts_ptr + i_counts.to(tl.int64) * N_BINS
    _count_digits(probs, candidate, shift, p_counts, BLOCK_Q * BLOCK_K)


@triton.jit(do_not_specialize_on_alignment=["page_table_ptr"])
def _index_lists_kernel(
    probs_ptr,
    counts_ptr,
    state_ptr,
    page_table_ptr,
    index_ptr,
    count_ptr,
    n_windows,
    n_k,
    BLOCK_Q: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Settles the last digit, which completes the threshold, and lists what is strictly greater."""
    i_joint = tl.program_id(1)
    n_groups = tl.num_programs(0)
    p_joint = counts_ptr + i_joint.to(tl.int64) * n_groups * N_BINS
    prefix, wanted = tl.load(state_ptr + i_joint * 2), tl.load(state_ptr + i_joint * 2 + 1)
    prefix, _ = _choose_digit(prefix, wanted, p_joint, n_groups)
    threshold = prefix.to(tl.float32, bitcast=True)
    i_row = tl.program_id(0) * BLOCK_Q + tl.arange(0, BLOCK_Q)
    i_k = tl.arange(0, BLOCK_K)
    m_row = i_row < n_windows
    mask = m_row[:, None] & (i_k < n_k)[None, :]
    o_row = i_joint.to(tl.int64) * n_windows + i_row
    keep = tl.load(probs_ptr + o_row[:, None] * n_k + i_k[None, :], mask=mask, other=-1.0) > threshold
    keep_int = keep.to(tl.int32)
    position = tl.cumsum(keep_int, 1) - 1
    page = tl.load(page_table_ptr + i_k // n_windows, mask=i_k < n_k, other=0)
    block = page * n_windows + i_k % n_windows
    block = tl.broadcast_to(block[None, :], [BLOCK_Q, BLOCK_K])
    tl.store(index_ptr + o_row[:, None] * n_k + position, block, mask=keep)
    tl.store(count_ptr + o_row, tl.sum(keep_int, 1), mask=m_row)


@triton.jit
def _order_kernel(count_ptr, order_ptr, n_rows, BLOCK: tl.constexpr, BLOCK_OTHER: tl.constexpr):
    """Rows by falling count, equal ones by row: each row counts those that come before it."""
    i_row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mine = tl.load(count_ptr + i_row, mask=i_row < n_rows, other=0)
    n_before = tl.zeros([BLOCK], tl.int32)
    for o in range(0, n_rows, BLOCK_OTHER):
        i_other = o + tl.arange(0, BLOCK_OTHER)
        other = tl.load(count_ptr + i_other, mask=i_other < n_rows, other=-1)
        first = (other[None, :] > mine[:, None]) | (
            (other[None, :] == mine[:, None]) & (i_other[None, :] < i_row[:, None])
        )
        n_before += tl.sum(first.to(tl.int32), 1)
    tl.store(order_ptr + n_before, i_row, mask=i_row < n_rows)


def _check(q_means: Tensor, k_means_pages: Tensor, page_table: Tensor, n_windows: int, rank: int) -> None:
    n_q, n_heads, head_dim = q_means.shape
    if q_means.dtype != torch.float32 or k_means_pages.dtype != torch.float32:
        raise ValueError("window means are float32")
    if page_table.dtype != torch.int32 or page_table.dim() != 1:
        raise ValueError(f"the page table is a list of int32, not {page_table.dtype} {tuple(page_table.shape)}")
    if k_means_pages.shape[1:] != (n_windows, n_heads, head_dim):
        raise ValueError(f"k means {tuple(k_means_pages.shape)} do not fit {n_windows} windows of {q_means.shape}")
    if n_q % n_windows:
        raise ValueError(f"{n_q} query windows are not whole time pairs of {n_windows}")
    if not 0 <= rank < n_windows * n_windows * page_table.numel():
        raise ValueError(f"rank {rank} does not index {n_windows} x {n_windows * page_table.numel()} scores")
    if not (q_means.is_contiguous() and k_means_pages.is_contiguous() and page_table.is_contiguous()):
        raise ValueError("window means and page table are contiguous")


def build_block_map(
    q_means: Tensor,
    k_means_pages: Tensor,
    page_table: Tensor,
    *,
    rows: int,
    cols: int,
    local_range: int,
    rank: int,
) -> BlockMap:
    """The kept blocks by the rule of `reference.keep_mask`, as lists.

    Args:
        q_means: (Q, H, d) float32, Q = whole time pairs of M = rows * cols windows.
        k_means_pages: (n_pages, M, H, d) float32.
        page_table: (n_kv_pairs,) int32 on the same device: which pages hold the keys.
        rows: windows per column of a time pair.
        cols: windows per row.
        local_range: side of the square of windows that a window sees.
        rank: per head and query pair, scores strictly greater than the (rank + 1)-th largest are kept.

    Returns:
        Lists in the order of the page table, then of the windows.

    Raises:
        ValueError: if shapes, dtypes or the rank do not fit together.

    Source: FlashVSR section 3.3. The official code materialises the mask and sorts; ties and empty rows
    behave as there.
    """
    n_windows = rows * cols
    _check(q_means, k_means_pages, page_table, n_windows, rank)
    n_q, n_heads, head_dim = q_means.shape
    n_k = page_table.numel() * n_windows
    device = q_means.device
    probs = torch.empty(n_heads, n_q, n_k, dtype=torch.float32, device=device)
    tile_q, tile_k = 16, 64
    _scores_kernel[(triton.cdiv(n_q, tile_q), triton.cdiv(n_k, tile_k), n_heads)](
        q_means, k_means_pages, page_table, probs, n_q, n_k, n_heads, rows, cols, local_range, head_dim**-0.5,
        HEAD_DIM=head_dim, BLOCK_Q=tile_q, BLOCK_K=tile_k, BLOCK_D=32, num_warps=4,
    )  # fmt: skip
    return _select(probs, page_table, n_windows, rank)


def _select(probs: Tensor, page_table: Tensor, n_windows: int, rank: int) -> BlockMap:
    """Softmax of the scores in place, then the lists of what exceeds the (rank + 1)-th largest."""
    n_heads, n_q, n_k = probs.shape
    n_joint = n_heads * n_q // n_windows
    n_rows = n_heads * n_q
    n_digits = PATTERN_BITS.value // DIGIT_BITS.value
    block_k = triton.next_power_of_2(n_k)
    block_q = max(1, min(8, 8192 // block_k))
    grid = (triton.cdiv(n_windows, block_q), n_joint)
    tile = {"BLOCK_Q": block_q, "BLOCK_K": block_k, "num_warps": 8}

    def empty(*shape: int) -> Tensor:
        return torch.empty(*shape, dtype=torch.int32, device=probs.device)

    # Per joint selection, the digits settled so far and the rank among what starts with them.
    states = empty(n_digits, n_joint, 2)
    counts = empty(n_digits, n_joint, grid[0], N_BINS.value)
    _softmax_kernel[grid](probs, counts[0], states[0], rank, n_windows, n_k, **tile)
    for i_digit in range(1, n_digits):
        shift = PATTERN_BITS.value - DIGIT_BITS.value * (i_digit + 1)
        _next_digit_kernel[grid](
            probs, counts[i_digit - 1], counts[i_digit], states[i_digit - 1], states[i_digit],
            n_windows, n_k, shift, **tile,
        )  # fmt: skip
    index, count, order = empty(n_heads, n_q, n_k), empty(n_heads, n_q), empty(n_rows)
    _index_lists_kernel[grid](probs, counts[-1], states[-1], page_table, index, count, n_windows, n_k, **tile)
    block, block_other = 16, 256
    _order_kernel[(triton.cdiv(n_rows, block),)](
        count, order, n_rows, BLOCK=block, BLOCK_OTHER=block_other, num_warps=4
    )
    return BlockMap(index=index, count=count, order=order)
