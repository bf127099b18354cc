"""The memory estimate: what it is made of, and that the cache's part is what the cache takes."""

from dataclasses import replace

import pytest
import torch

from flashvsr_cli.geometry import plan_geometry
from flashvsr_cli.model.full_size import full_size_states
from flashvsr_cli.model.kv_cache import PagedKVCache
from flashvsr_cli.model.memory import count_parameters, estimate_memory
from flashvsr_cli.options import CachePrecision, Settings

GEOMETRY = plan_geometry((192, 352), 4)


@pytest.mark.parametrize("kv_ratio", [1.0, 3.0, 5.0])
def test_cache_takes_what_is_estimated(kv_ratio: float) -> None:
    states, settings = full_size_states(), Settings(kv_ratio=kv_ratio)
    rows, columns = GEOMETRY.window_grid
    cache = PagedKVCache(30, rows * columns, 1536, kv_ratio, device=torch.device("meta"), dtype=torch.bfloat16)
    assert estimate_memory(states, GEOMETRY, settings, 2).cache == cache.n_bytes


def test_fp8_halves_the_cache() -> None:
    states, settings = full_size_states(), Settings()
    full, half = (
        estimate_memory(states, GEOMETRY, replace(settings, kv_precision=precision), 2).cache
        for precision in ("model", "fp8")
    )
    assert half == pytest.approx(full / 2, rel=0.01)


# GiB of live tensors at the peak of `Upscaler.upscale` over a few chunks, followed storage by storage on meta tensors
# with the kernels' results in place of the kernels. Workspaces of libraries are not in it.
FOLLOWED_GIB = {
    ((768, 1408), "model", False): 8.727,
    ((768, 1408), "fp8", False): 6.528,
    ((768, 1408), "fp8", True): 5.497,
    ((1152, 1920), "model", False): 14.668,
    ((1152, 1920), "fp8", False): 10.169,
    ((1152, 1920), "fp8", True): 9.138,
    ((1536, 2688), "model", False): 24.742,
    ((1536, 2688), "fp8", False): 16.345,
    ((1536, 2688), "fp8", True): 15.314,
}


@pytest.mark.parametrize(("size", "kv_precision", "fp8"), FOLLOWED_GIB)
def test_the_sum_is_what_the_pipeline_holds(size: tuple[int, int], kv_precision: CachePrecision, fp8: bool) -> None:
    geometry = plan_geometry((size[0] // 4, size[1] // 4), 4)
    settings = Settings(kv_precision=kv_precision)
    estimated = estimate_memory(full_size_states(), geometry, settings, 2, fp8=fp8).total
    assert estimated / 2**30 == pytest.approx(FOLLOWED_GIB[size, kv_precision, fp8], rel=0.04)


def test_fp8_halves_the_weights_that_it_multiplies() -> None:
    states, settings = full_size_states(), Settings()
    full, low = (estimate_memory(states, GEOMETRY, settings, 2, fp8=fp8).weights for fp8 in (False, True))
    # Behind norms: q, k, v, the cross-attention's q and the feed-forward; and the projection's one linear layer.
    assert full - low == 30 * (4 * 1536 * 1536 + 2 * 1536 * 8960) + 3072 * 1536


def test_folded_layers_and_the_prompt_do_not_count() -> None:
    states = full_size_states()
    everything = sum(tensor.numel() for state in states.values() for tensor in state.values())
    # Text embedding, time embedding and projection, 30 cross-attentions' keys and values, and the prompt.
    text = 4096 * 1536 + 1536 + 1536 * 1536 + 1536
    time = 256 * 1536 + 1536 + 1536 * 1536 + 1536 + 6 * 1536 * 1536 + 6 * 1536
    cross = 30 * 2 * (1536 * 1536 + 1536)
    assert everything - count_parameters(states) == text + time + cross + 512 * 4096


def test_memory_grows_with_the_picture_and_not_with_anything_else() -> None:
    states = full_size_states()
    small = estimate_memory(states, GEOMETRY, Settings(), 2)
    large = estimate_memory(states, plan_geometry((384, 704), 4), Settings(), 2)
    assert large.weights == small.weights
    for part in ("cache", "frames", "work"):
        assert getattr(large, part) == pytest.approx(4 * getattr(small, part), rel=0.01)


def test_the_full_decoder_needs_more() -> None:
    tiny, full = (
        estimate_memory(full_size_states(decoder), GEOMETRY, Settings(), 2).work for decoder in ("tiny", "full")
    )
    assert full > tiny
