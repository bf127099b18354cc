"""The paged cache against the plain rule: put new pairs behind, drop the oldest one if there are too many."""

import pytest
import torch

from flashvsr_cli.model.kv_cache import PagedKVCache, count_pages
from flashvsr_cli.schedule import iter_chunks, plan_chunk

N_WINDOWS, DIM = 1, 4


def make_cache(n_layers: int, kv_ratio: float) -> PagedKVCache:
    cache = PagedKVCache(n_layers, N_WINDOWS, DIM, kv_ratio, device=torch.device("cpu"), dtype=torch.float32)
    for pages in (cache.keys, cache.values, cache.key_means):
        pages.fill_(torch.nan)
    return cache


@pytest.mark.parametrize("kv_ratio", [0, 0.9, 1, 2, 2.5, 3, 4, 5, 6])
@pytest.mark.parametrize("n_layers", [1, 2, 5])
def test_pages_hold_what_concatenating_would(n_layers: int, kv_ratio: float) -> None:
    cache = make_cache(n_layers, kv_ratio)
    held: list[list[int]] = [[] for _ in range(n_layers)]
    n_pairs_before = 0
    for chunk in iter_chunks(21 + 8 * 15):
        new = list(range(n_pairs_before, n_pairs_before + len(chunk.latents) // 2))
        n_pairs_before += len(new)
        tables = cache.plan_chunk(len(new))
        for layer, pages in enumerate(tables):
            for page, pair in zip(pages[-len(new) :], new, strict=True):
                cache.keys[page] = 1000 * layer + pair
                cache.values[page] = -(1000 * layer + pair)
                cache.key_means[page] = 1000 * layer + pair
            held[layer] += new
            expected = [1000.0 * layer + pair for pair in held[layer]]
            for page_contents, sign in ((cache.keys, 1), (cache.values, -1), (cache.key_means, 1)):
                assert [sign * page_contents[page].unique().item() for page in pages] == expected
            if len(held[layer]) > int(kv_ratio):
                held[layer].pop(0)


@pytest.mark.parametrize(("kv_ratio", "n_steady"), [(0, 3), (1, 3), (2, 3), (2.9, 3), (3, 4), (4, 5), (6, 7)])
def test_steady_state_has_one_pair_more_than_is_kept(kv_ratio: float, n_steady: int) -> None:
    cache = make_cache(2, kv_ratio)
    counts = [len(cache.plan_chunk(len(plan_chunk(i).latents) // 2)[0]) for i in range(12)]
    assert counts[0] == 3
    assert counts[8:] == [n_steady] * 4


def test_pages_of_a_table_are_distinct_and_within_the_cache() -> None:
    cache = make_cache(3, 3)
    for i_chunk in range(10):
        for pages in cache.plan_chunk(3 if i_chunk == 0 else 1):
            assert len(set(pages)) == len(pages)
            assert all(0 <= page < len(cache.keys) for page in pages)


def test_size_is_what_the_layers_keep_and_one_page() -> None:
    assert count_pages(30, 3.0) == 91
    cache = make_cache(2, 3)
    page_floats = 2 * N_WINDOWS * 128 * DIM + N_WINDOWS * DIM
    assert cache.n_bytes == count_pages(2, 3) * page_floats * 4
