"""The sparsity rule and the plain-torch backend against slow twins."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

import flashvsr_kernels.reference as reference
from flashvsr_cli.model.attention import SparsityPlan, TorchSparseAttention, keep_mask, plan_sparsity
from flashvsr_cli.model.kv_cache import PagedKVCache
from flashvsr_cli.model.windows import TOKENS_PER_WINDOW, local_window_mask, window_means

CPU = torch.device("cpu")
HEAD_DIM = 128


def make_plan(grid: tuple[int, int], local_range: int, rank: int, n_heads: int) -> SparsityPlan:
    plan = plan_sparsity(grid, 1, sparse_ratio=2.0, local_range=local_range, n_heads=n_heads, device=CPU)
    assert torch.equal(plan.local_mask, local_window_mask(*grid, local_range))
    return replace(plan, rank=rank)


def keep_loop(q_means: torch.Tensor, k_means: torch.Tensor, plan: SparsityPlan) -> torch.Tensor:
    """The rule word by word, in float64: softmax per row, then the threshold per head and query pair."""
    n_windows = len(plan.local_mask)
    n_q, n_k = len(q_means), len(k_means)
    keep = torch.zeros(plan.n_heads, n_q, n_k, dtype=torch.bool)
    for head in range(plan.n_heads):
        channels = slice(head * HEAD_DIM, (head + 1) * HEAD_DIM)
        for first in range(0, n_q, n_windows):
            rows = []
            for i in range(first, first + n_windows):
                scores = k_means[:, channels].double() @ q_means[i, channels].double() / HEAD_DIM**0.5
                visible = torch.tensor([bool(plan.local_mask[i % n_windows, j % n_windows]) for j in range(n_k)])
                weights = torch.where(visible, (scores - scores[visible].max()).exp(), 0.0)
                rows.append(weights / weights.sum())
            shares = torch.stack(rows)
            threshold = sorted(shares.flatten().tolist(), reverse=True)[plan.rank]
            keep[head, first : first + n_windows] = shares > threshold
    return keep


def random_means(n: int, n_heads: int, rng: torch.Generator) -> torch.Tensor:
    return torch.randn(n, n_heads * HEAD_DIM, generator=rng)


@pytest.mark.parametrize("grid", [(1, 1), (2, 3), (3, 2), (4, 4)])
@pytest.mark.parametrize(("n_query_pairs", "n_key_pairs"), [(1, 1), (1, 4), (3, 3)])
@pytest.mark.parametrize("local_range", [2, 3, 11])
def test_keep_mask_is_the_loop(
    grid: tuple[int, int], n_query_pairs: int, n_key_pairs: int, local_range: int, rng: torch.Generator
) -> None:
    n_windows, n_heads = grid[0] * grid[1], 2
    q = random_means(n_query_pairs * n_windows, n_heads, rng)
    k = random_means(n_key_pairs * n_windows, n_heads, rng)
    n_entries = n_windows * n_windows * n_key_pairs
    for rank in sorted({0, n_entries // 8, n_entries // 2, n_entries - 1}):
        plan = make_plan(grid, local_range, rank, n_heads)
        kept = keep_mask(q, k, plan)
        assert torch.equal(kept, keep_loop(q, k, plan))
        twin = reference.keep_mask(q.unflatten(1, (n_heads, -1)), k.unflatten(1, (n_heads, -1)), plan.local_mask, rank)
        assert torch.equal(kept, twin)


def test_several_query_pairs_have_thresholds_of_their_own(rng: torch.Generator) -> None:
    plan = make_plan((2, 3), 11, 20, 1)
    # The second pair's rows are far more peaked; with one threshold for both it would take most of the places.
    q = random_means(12, 1, rng) * torch.tensor([0.2] * 6 + [4.0] * 6)[:, None]
    k = random_means(18, 1, rng)
    counts = keep_mask(q, k, plan).reshape(2, -1).sum(dim=1)
    assert counts.tolist() == [20, 20]


def test_ties_at_the_threshold_are_all_dropped() -> None:
    # One row with shares 8:2:2:1 over keys at log 8, log 2, log 2, log 1.
    q = torch.zeros(1, HEAD_DIM)
    q[0, 0] = HEAD_DIM**0.5
    k = torch.zeros(4, HEAD_DIM)
    k[:, 0] = torch.tensor([8.0, 2.0, 2.0, 1.0]).log()
    kept = [keep_mask(q, k, make_plan((1, 1), 11, rank, 1))[0, 0].tolist() for rank in range(4)]
    assert kept[0] == [False] * 4
    assert kept[1] == kept[2] == [True, False, False, False]
    assert kept[3] == [True, True, True, False]


def test_equal_scores_keep_nothing() -> None:
    plan = make_plan((2, 2), 11, 7, 1)
    assert not keep_mask(torch.zeros(4, HEAD_DIM), torch.zeros(8, HEAD_DIM), plan).any()


def test_invisible_windows_are_never_kept(rng: torch.Generator) -> None:
    # More places than visible entries: the threshold falls to the zeros of the invisible ones.
    plan = make_plan((5, 5), 3, 25 * 25 * 2 - 1, 2)
    kept = keep_mask(random_means(25, 2, rng), random_means(50, 2, rng), plan)
    assert torch.equal(kept, plan.local_mask.repeat(1, 2).expand(2, -1, -1))


@given(
    st.tuples(st.integers(1, 30), st.integers(1, 30)),
    st.integers(1, 5),
    st.sampled_from([0.7, 1.1, 1.3, 1.5, 1.7, 1.9, 2.0, 2.6, 0.05]) | st.floats(1e-4, 50),
)
@settings(deadline=None)
def test_rank_is_the_released_arithmetic(grid: tuple[int, int], n_key_pairs: int, sparse_ratio: float) -> None:
    n_windows, height, width = grid[0] * grid[1], grid[0] * 128, grid[1] * 128
    topk_ratio = sparse_ratio * 768 * 1280 / (height * width)
    expected = min(n_windows * n_windows * n_key_pairs - 1, int(n_windows * n_windows * topk_ratio) - 1)
    plan = plan_sparsity(grid, n_key_pairs, sparse_ratio=sparse_ratio, local_range=3, n_heads=1, device=CPU)
    assert plan.rank == max(expected, 0)


@pytest.mark.parametrize(
    ("sparse_ratio", "grid", "rank"), [(0.7, (1, 1), 40), (2.0, (6, 11), 7919), (1.5, (6, 11), 5939)]
)
def test_known_ranks(sparse_ratio: float, grid: tuple[int, int], rank: int) -> None:
    # 0.7 * 768 * 1280 / 16384 is 41.999...; 0.7 * (768 * 1280) / 16384 would be 42.
    n_key_pairs = 50 if grid == (1, 1) else 4
    plan = plan_sparsity(grid, n_key_pairs, sparse_ratio=sparse_ratio, local_range=11, n_heads=1, device=CPU)
    assert plan.rank == rank


@dataclass
class Case:
    """One layer's chunk: queries, and keys and values spread over the pages of a cache full of NaN."""

    q: torch.Tensor
    keys: torch.Tensor
    values: torch.Tensor
    cache: PagedKVCache
    pages: list[int]
    plan: SparsityPlan

    def attend(self, backend: TorchSparseAttention | None = None) -> torch.Tensor:
        return (backend or TorchSparseAttention())(self.q, self.cache, self.pages, self.plan)

    @property
    def keep(self) -> torch.Tensor:
        return keep_mask(window_means(self.q), window_means(self.keys), self.plan)

    def reference(self) -> torch.Tensor:
        q, k, v = (x.unflatten(1, (self.plan.n_heads, -1)) for x in (self.q, self.keys, self.values))
        rank, local_mask = self.plan.rank, self.plan.local_mask
        keep = reference.keep_mask(reference.window_means(q), reference.window_means(k), local_mask, rank)
        return reference.block_sparse_attention(q, k, v, keep).flatten(1)


def make_case(
    rng: torch.Generator,
    grid: tuple[int, int] = (2, 3),
    n_query_pairs: int = 1,
    pages: Sequence[int] = (3, 0, 5, 2),
    density: float = 0.3,
    local_range: int = 11,
    dtype: torch.dtype = torch.float32,
    n_heads: int = 2,
) -> Case:
    n_windows, dim = grid[0] * grid[1], n_heads * HEAD_DIM
    n_tokens = n_windows * TOKENS_PER_WINDOW
    cache = PagedKVCache(2, n_windows, dim, 3, device=CPU, dtype=dtype)
    for pool in (cache.keys, cache.values, cache.key_means):
        pool.fill_(torch.nan)

    def draw(n_pairs: int) -> torch.Tensor:
        # A common part per window, so that the block scores differ by more than noise.
        shared = torch.randn(n_pairs * n_windows, 1, dim, generator=rng)
        own = torch.randn(n_pairs * n_windows, TOKENS_PER_WINDOW, dim, generator=rng)
        return (0.5 * shared + own).flatten(0, 1).to(dtype)

    q, k, v = draw(n_query_pairs), draw(len(pages)), draw(len(pages))
    for i, page in enumerate(pages):
        part = slice(i * n_tokens, (i + 1) * n_tokens)
        cache.keys[page], cache.values[page] = k[part], v[part]
        cache.key_means[page] = window_means(k[part])
    rank = int(n_windows * n_windows * len(pages) * density)
    return Case(q, k, v, cache, list(pages), make_plan(grid, local_range, rank, n_heads))


@pytest.mark.parametrize("density", [0.02, 0.3, 0.9])
@pytest.mark.parametrize("local_range", [2, 11])
@pytest.mark.parametrize(("n_query_pairs", "pages"), [(1, (3, 0, 5, 2)), (3, (1, 2, 0))])
def test_backend_is_the_reference(
    rng: torch.Generator, density: float, local_range: int, n_query_pairs: int, pages: tuple[int, ...]
) -> None:
    case = make_case(rng, n_query_pairs=n_query_pairs, pages=pages, density=density, local_range=local_range)
    torch.testing.assert_close(case.attend(), case.reference(), rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_near_the_reference(rng: torch.Generator, dtype: torch.dtype) -> None:
    case = make_case(rng, dtype=dtype)
    out = case.attend()
    assert out.dtype == dtype
    error = (out.float() - case.reference()).abs().max()
    assert error < 4 * torch.finfo(dtype).eps * case.values.float().abs().max()


def test_full_map_is_dense_attention(rng: torch.Generator) -> None:
    q, k, v = (torch.randn(n, TOKENS_PER_WINDOW, HEAD_DIM, generator=rng) for n in (3, 5, 5))
    keep = torch.ones(3, 5, dtype=torch.bool)
    out = TorchSparseAttention()._attend_head(q, k, v, keep, torch.arange(5))
    dense = F.scaled_dot_product_attention(*(x.flatten(0, 1)[None] for x in (q, k, v)))[0]
    torch.testing.assert_close(out.flatten(0, 1), dense, rtol=1e-5, atol=2e-6)


def test_rows_that_keep_nothing_are_zero(rng: torch.Generator) -> None:
    case = make_case(rng, density=0.03)
    is_empty = ~case.keep.any(dim=-1)
    assert is_empty.any()
    assert not is_empty.all()
    blocks = case.attend().unflatten(1, (2, HEAD_DIM)).unflatten(0, (-1, TOKENS_PER_WINDOW)).permute(2, 0, 1, 3)
    assert torch.equal((blocks == 0).all(dim=-1).all(dim=-1), is_empty)


def test_nothing_kept_at_all_is_zero(rng: torch.Generator) -> None:
    case = make_case(rng, density=0)
    assert torch.equal(case.attend(), torch.zeros_like(case.q))


def test_a_row_reads_only_blocks_it_keeps(rng: torch.Generator) -> None:
    case = make_case(rng, grid=(2, 2), pages=(4, 1), density=0.4)
    clean, keep = case.attend(), case.keep
    n_windows = 4
    for i_block in range(keep.shape[2]):
        page, window = case.pages[i_block // n_windows], i_block % n_windows
        tokens = slice(window * TOKENS_PER_WINDOW, (window + 1) * TOKENS_PER_WINDOW)
        for head in range(2):
            channels = slice(head * HEAD_DIM, (head + 1) * HEAD_DIM)
            saved = [pool[page, tokens, channels].clone() for pool in (case.cache.keys, case.cache.values)]
            for pool in (case.cache.keys, case.cache.values):
                pool[page, tokens, channels] = torch.nan
            spoilt = case.attend()
            for pool, contents in zip((case.cache.keys, case.cache.values), saved, strict=True):
                pool[page, tokens, channels] = contents
            is_spoilt = spoilt.isnan().unflatten(1, (2, HEAD_DIM)).unflatten(0, (-1, TOKENS_PER_WINDOW))
            expected = torch.zeros(2, keep.shape[1], dtype=torch.bool)
            expected[head] = keep[head, :, i_block]
            assert torch.equal(is_spoilt.any(dim=3).any(dim=1).T, expected)
            assert torch.equal(spoilt[~spoilt.isnan()], clean[~spoilt.isnan()])


@pytest.mark.parametrize("n_elements", [1, 5 * TOKENS_PER_WINDOW * HEAD_DIM])
def test_gathering_little_at_once_changes_nothing(rng: torch.Generator, n_elements: int) -> None:
    case = make_case(rng, n_query_pairs=3, pages=(3, 0, 5))
    thrifty = TorchSparseAttention()
    thrifty._gather_elements = n_elements
    torch.testing.assert_close(case.attend(thrifty), case.attend(), rtol=1e-5, atol=2e-6)
