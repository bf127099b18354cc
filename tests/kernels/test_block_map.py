"""Block lists made on the device against the float32 twin, entry by entry."""

import pytest
import torch

from flashvsr_kernels import reference
from flashvsr_kernels.block_map import BlockMap, build_block_map


def lists_to_keep(block_map, page_table, n_windows):
    """(H, Q, K) bool from the lists; fails if a list names a block twice or one outside the page table."""
    n_heads, n_q, _ = block_map.index.shape
    position = {
        int(page) * n_windows + i_win: i_pair * n_windows + i_win
        for i_pair, page in enumerate(page_table.tolist())
        for i_win in range(n_windows)
    }
    keep = torch.zeros(n_heads, n_q, len(position), dtype=torch.bool)
    for i_head in range(n_heads):
        for i_q in range(n_q):
            count = int(block_map.count[i_head, i_q])
            blocks = block_map.index[i_head, i_q, :count].tolist()
            assert len(set(blocks)) == count
            keep[i_head, i_q, [position[block] for block in blocks]] = True
    return keep


def assert_order_is_longest_first(block_map):
    counts = block_map.count.flatten()
    assert sorted(block_map.order.tolist()) == list(range(counts.numel()))
    assert counts[block_map.order.long()].diff().le(0).all()


def make_case(rng, device, *, rows, cols, n_q_pairs, pages, n_pages, n_heads=2, head_dim=64, grid=None):
    def means(*shape):
        values = torch.randn(*shape, generator=rng, device=device)
        return values if grid is None else (values * grid).round() / grid

    n_windows = rows * cols
    q_means = means(n_q_pairs * n_windows, n_heads, head_dim)
    k_means = means(n_pages, n_windows, n_heads, head_dim)
    unused = [page for page in range(n_pages) if page not in pages]
    k_means[unused] = torch.nan
    page_table = torch.tensor(pages, dtype=torch.int32, device=device)
    return q_means, k_means, page_table


@pytest.mark.parametrize(
    ("rows", "cols", "local_range", "n_q_pairs", "pages", "share"),
    [
        (3, 4, 3, 1, [5, 0], 0.4),
        (2, 5, 4, 1, [3, 1, 6, 2], 0.3),
        (4, 3, 11, 3, [6, 2, 4], 0.5),
        (1, 2, 11, 1, [0], 0.3),
        (9, 8, 5, 1, [1, 3], 0.1),
    ],
)
def test_kept_blocks_equal_reference(rng, device, rows, cols, local_range, n_q_pairs, pages, share):
    q_means, k_means, page_table = make_case(
        rng, device, rows=rows, cols=cols, n_q_pairs=n_q_pairs, pages=pages, n_pages=7
    )
    n_windows = rows * cols
    rank = int(n_windows * n_windows * len(pages) * share)
    got = build_block_map(q_means, k_means, page_table, rows=rows, cols=cols, local_range=local_range, rank=rank)
    local = reference.local_window_mask(rows, cols, local_range, device)
    expected = reference.keep_mask(q_means, k_means[page_table.long()].flatten(0, 1), local, rank).cpu()
    assert torch.equal(lists_to_keep(got, page_table, n_windows), expected)
    assert 0 < expected.sum() < expected.numel()
    assert_order_is_longest_first(got)


def test_golden_map(golden, device):
    q_means, k_means = (reference.window_means(golden[f"lcsa.{name}"].reshape(-1, 1, 128)).to(device) for name in "qk")
    page_table = torch.tensor([1, 0], dtype=torch.int32, device=device)
    k_pages = k_means.reshape(2, 12, 1, 128).flip(0).contiguous()
    got = build_block_map(q_means, k_pages, page_table, rows=3, cols=4, local_range=3, rank=104)
    assert torch.equal(lists_to_keep(got, page_table, 12), golden["lcsa.mask"])


def test_ties_are_dropped_and_rows_may_be_empty(rng, device):
    q_means, k_means, page_table = make_case(
        rng, device, rows=2, cols=3, n_q_pairs=1, pages=[0, 1], n_pages=2, head_dim=64
    )
    q_means[:] = q_means[:1]
    k_means[1] = k_means[0]  # every score exists at least twice
    got = build_block_map(q_means, k_means, page_table, rows=2, cols=3, local_range=11, rank=0)
    assert got.count.sum() == 0
    got = build_block_map(q_means, k_means, page_table, rows=2, cols=3, local_range=11, rank=71)
    local = reference.local_window_mask(2, 3, 11, device)
    expected = reference.keep_mask(q_means, k_means.flatten(0, 1), local, 71).cpu()
    assert torch.equal(lists_to_keep(got, page_table, 6), expected)


def test_rank_beyond_the_visible_windows_keeps_all_of_them(rng, device):
    q_means, k_means, page_table = make_case(rng, device, rows=4, cols=4, n_q_pairs=1, pages=[1, 0], n_pages=2)
    got = build_block_map(q_means, k_means, page_table, rows=4, cols=4, local_range=3, rank=16 * 32 - 1)
    visible = reference.local_window_mask(4, 4, 3).repeat(1, 2).expand(2, -1, -1)
    assert torch.equal(lists_to_keep(got, page_table, 16), visible)


def test_underflowing_scores_equal_reference(rng, device):
    q_means, k_means, page_table = make_case(rng, device, rows=3, cols=3, n_q_pairs=1, pages=[0, 1], n_pages=2)
    q_means *= 100  # most probabilities are exactly zero in float32
    rank = 120
    got = build_block_map(q_means, k_means, page_table, rows=3, cols=3, local_range=11, rank=rank)
    local = reference.local_window_mask(3, 3, 11, device)
    expected = reference.keep_mask(q_means, k_means.flatten(0, 1), local, rank).cpu()
    assert torch.equal(lists_to_keep(got, page_table, 9), expected)
    assert expected.sum() < rank


def test_from_keep_lists_the_mask(rng, device):
    keep = torch.rand(2, 6, 12, generator=rng, device=device) < 0.3
    page_table = torch.tensor([4, 1], dtype=torch.int32, device=device)
    block_map = BlockMap.from_keep(keep, page_table, 6)
    assert torch.equal(lists_to_keep(block_map, page_table, 6), keep.cpu())
    assert_order_is_longest_first(block_map)


def test_bad_arguments_are_refused(rng, device):
    q_means, k_means, page_table = make_case(rng, device, rows=2, cols=2, n_q_pairs=1, pages=[0], n_pages=1)
    with pytest.raises(ValueError, match="rank"):
        build_block_map(q_means, k_means, page_table, rows=2, cols=2, local_range=3, rank=16)
    with pytest.raises(ValueError, match="windows"):
        build_block_map(q_means, k_means, page_table, rows=2, cols=3, local_range=3, rank=0)
    with pytest.raises(ValueError, match="int32"):
        build_block_map(q_means, k_means, page_table.long(), rows=2, cols=2, local_range=3, rank=0)
    with pytest.raises(ValueError, match="do not hold"):
        BlockMap.from_keep(torch.ones(1, 4, 4, dtype=torch.bool), page_table, 3)
