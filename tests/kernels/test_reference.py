"""The float32 twin against what the official operators computed, and against dense torch."""

import math

import pytest
import torch
from torch.nn import functional as F

from flashvsr_kernels import reference


def as_tokens(windows):
    return windows.reshape(-1, 1, windows.shape[-1])


def golden_keep(golden):
    local = reference.local_window_mask(3, 4, 3)
    q_means = reference.window_means(as_tokens(golden["lcsa.q"]))
    k_means = reference.window_means(as_tokens(golden["lcsa.k"]))
    rank = min(12 * 24 - 1, int(12 * 12 * 0.73) - 1)
    return reference.keep_mask(q_means, k_means, local, rank)


def test_local_mask_equals_golden(golden):
    assert torch.equal(reference.local_window_mask(3, 4, 3), golden["lcsa.local_mask"])


def test_kept_blocks_equal_golden(golden):
    keep = golden_keep(golden)
    assert torch.equal(keep, golden["lcsa.mask"])
    assert 0 < keep.float().mean() < 1


def test_attention_equals_golden(golden):
    q, k, v = (as_tokens(golden[f"lcsa.{name}"]) for name in "qkv")
    out = reference.block_sparse_attention(q, k, v, golden["lcsa.mask"])
    torch.testing.assert_close(out[::11, 0], golden["lcsa.out"][0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("local_range", "seen"), [(1, 1), (2, 2), (3, 3), (4, 4), (11, 5)])
def test_local_mask_width_inside(local_range, seen):
    middle = reference.local_window_mask(1, 5, local_range)[2]
    assert middle.sum() == seen
    if local_range == 2:
        assert middle.tolist() == [False, True, True, False, False]  # even: one more before than after


def test_local_mask_tells_rows_from_columns():
    wide, tall = reference.local_window_mask(2, 6, 3), reference.local_window_mask(6, 2, 3)
    assert not torch.equal(wide, tall)


def test_ties_at_the_threshold_are_dropped_and_rows_may_be_empty():
    q_means = torch.ones(2, 1, 4)
    k_means = torch.ones(2, 1, 4)
    everything = torch.ones(2, 2, dtype=torch.bool)
    assert not reference.keep_mask(q_means, k_means, everything, rank=3).any()
    k_means[1] *= 2
    keep = reference.keep_mask(q_means, k_means, everything, rank=2)
    assert keep[0].tolist() == [[False, True], [False, True]]


def test_each_query_pair_has_its_own_threshold():
    generator = torch.Generator().manual_seed(1)
    q_means = torch.randn(8, 2, 16, generator=generator)
    k_means = torch.randn(8, 2, 16, generator=generator)
    local = torch.ones(4, 4, dtype=torch.bool)
    both = reference.keep_mask(q_means, k_means, local, rank=10)
    second = reference.keep_mask(q_means[4:], k_means, local, rank=10)
    assert torch.equal(both[:, 4:], second)
    assert both.reshape(2, 2, -1).sum(-1).eq(10).all()


def test_full_map_equals_dense_attention_and_empty_rows_are_zero():
    generator = torch.Generator().manual_seed(2)
    q = torch.randn(256, 2, 64, generator=generator)
    k, v = (torch.randn(384, 2, 64, generator=generator) for _ in range(2))
    keep = torch.ones(2, 2, 3, dtype=torch.bool)
    dense = F.scaled_dot_product_attention(*(t.transpose(0, 1) for t in (q, k, v))).transpose(0, 1)
    torch.testing.assert_close(reference.block_sparse_attention(q, k, v, keep), dense, rtol=1e-5, atol=1e-6)
    keep[1, 0] = False
    k[128:256] = math.nan
    keep[:, :, 1] = False
    out = reference.block_sparse_attention(q, k, v, keep)
    assert out.isfinite().all()
    assert out[:128, 1].eq(0).all()


def test_residual_layer_norm_matches_torch():
    generator = torch.Generator().manual_seed(3)
    x, delta = (torch.randn(5, 48, generator=generator) for _ in range(2))
    gate, weight, bias = (torch.randn(48, generator=generator) for _ in range(3))
    total, normed = reference.residual_layer_norm(x, delta, gate, weight, bias, 1e-6)
    torch.testing.assert_close(total, x + gate * delta)
    torch.testing.assert_close(normed, F.layer_norm(total, (48,), weight, bias, 1e-6))


def test_rotation_is_complex_multiplication_of_adjacent_channels():
    generator = torch.Generator().manual_seed(4)
    x = torch.randn(7, 2, 8, generator=generator)
    angle = torch.randn(7, 4, generator=generator)
    expected = torch.view_as_complex(x.reshape(7, 2, 4, 2)) * torch.polar(torch.ones_like(angle), angle)[:, None]
    torch.testing.assert_close(reference.rotate(x, angle.cos(), angle.sin()), torch.view_as_real(expected).flatten(-2))
