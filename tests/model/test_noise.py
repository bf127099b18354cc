"""Noise depends on seed and chunk alone, and is standard normal."""

import numpy as np
import pytest
import torch

from flashvsr_cli.model.stream import draw_noise

SHAPE = (1, 16, 2, 16, 32)
SEEDS = [0, 1, 2, 2**31, 2**32, 2**32 + 1, 2**40, 2**63 - 1]


def test_same_seed_and_chunk_give_the_same_noise() -> None:
    first = draw_noise(3, 5, SHAPE)
    torch.manual_seed(99)
    assert torch.equal(draw_noise(3, 5, SHAPE), first)
    assert (first.shape, first.dtype, first.device.type) == (SHAPE, torch.float32, "cpu")


def test_global_generators_are_left_alone() -> None:
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    draw_noise(0, 0, SHAPE)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)


def test_seeds_and_chunks_all_differ() -> None:
    # 2^32 apart too: a generator that reads 32 bits of its seed would repeat itself there.
    drawn = {tuple(draw_noise(seed, i_chunk, (4,)).tolist()) for seed in SEEDS for i_chunk in range(200)}
    assert len(drawn) == len(SEEDS) * 200


@pytest.mark.parametrize(("seed", "i_chunk"), [(0, 0), (0, 1), (12345, 1249)])
def test_noise_is_standard_normal(seed: int, i_chunk: int) -> None:
    noise = draw_noise(seed, i_chunk, (1, 16, 6, 96, 96)).double().flatten()
    n = noise.numel()
    assert abs(noise.mean()) < 5 / n**0.5
    assert abs(noise.var() - 1) < 5 * (2 / n) ** 0.5
    assert abs(noise.pow(3).mean()) < 5 * (15 / n) ** 0.5
    assert abs(noise.pow(4).mean() - 3) < 5 * (96 / n) ** 0.5
    for limit in (-2, -1, 0, 1, 2):
        expected = torch.special.ndtr(torch.tensor(float(limit), dtype=torch.float64))
        assert abs((noise < limit).double().mean() - expected) < 5 * 0.5 / n**0.5


@pytest.mark.parametrize(("one", "other"), [((0, 0), (0, 1)), ((0, 0), (1, 0)), ((0, 1), (1, 0)), ((7, 3), (7, 4))])
def test_different_draws_are_uncorrelated(one: tuple[int, int], other: tuple[int, int]) -> None:
    a, b = (draw_noise(seed, i_chunk, (1, 16, 2, 64, 64)).double().flatten() for seed, i_chunk in (one, other))
    assert abs((a * b).mean()) < 5 / a.numel() ** 0.5
    assert abs((a[1:] * a[:-1]).mean()) < 5 / a.numel() ** 0.5
