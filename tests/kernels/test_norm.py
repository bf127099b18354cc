"""Fused normalisations against the float32 twin."""

import math

import pytest
import torch
from torch.nn import functional as F

from flashvsr_kernels import reference
from flashvsr_kernels.norm import add_gated_, residual_layer_norm, rms_norm

DIM = 96  # not a power of two, like the model's 1536


def normal(rng, device, *shape):
    return torch.randn(*shape, generator=rng, device=device)


def relative(x, exact):
    return (x.float() - exact).norm() / exact.norm()


@pytest.mark.parametrize(("with_delta", "with_gate"), [(False, False), (True, False), (True, True)])
@pytest.mark.parametrize("with_extra", [False, True])
def test_float32_equals_reference(rng, device, with_delta, with_gate, with_extra):
    x, weight, bias = normal(rng, device, 10, DIM) + 3, normal(rng, device, DIM), normal(rng, device, DIM)
    delta = normal(rng, device, 10, DIM) if with_delta else None
    gate = normal(rng, device, DIM) if with_gate else None
    extra = normal(rng, device, 10, 2 * DIM)[:, :DIM] if with_extra else None
    total, normed = reference.residual_layer_norm(x, delta, gate, weight, bias, 1e-6, extra)
    got = residual_layer_norm(x, delta, gate, extra, weight=weight, bias=bias)
    torch.testing.assert_close(got, normed, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(x, total, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_is_no_worse_than_twice_plain_torch(rng, device, dtype):
    x, delta = (normal(rng, device, 9, DIM).to(dtype) for _ in range(2))
    gate, weight, bias = (normal(rng, device, DIM) for _ in range(3))
    total, normed = reference.residual_layer_norm(x, delta, gate, weight, bias, 1e-6)
    plain_total = x + gate.to(dtype) * delta
    plain = F.layer_norm(plain_total, (DIM,), None, None, 1e-6) * weight.to(dtype) + bias.to(dtype)
    got = residual_layer_norm(x, delta, gate, weight=weight, bias=bias)
    assert got.dtype == x.dtype == dtype
    assert relative(x, total) <= 2 * relative(plain_total, total)
    assert relative(got, normed) <= 2 * relative(plain, normed)


def test_epsilon_matters_for_tiny_activations(rng, device):
    x, one, zero = normal(rng, device, 4, DIM) * 1e-3, torch.ones(DIM, device=device), torch.zeros(DIM, device=device)
    got = residual_layer_norm(x, weight=one, bias=zero, eps=1e-6)
    torch.testing.assert_close(got, F.layer_norm(x, (DIM,), eps=1e-6), rtol=1e-4, atol=1e-5)
    assert got.std() < 0.8


def test_rows_beside_the_tensor_are_untouched(rng, device):
    guard = torch.full((12, DIM), math.nan, device=device)
    guard[:9] = normal(rng, device, 9, DIM)
    weight, bias = torch.ones(DIM, device=device), torch.zeros(DIM, device=device)
    out = residual_layer_norm(guard[:9], torch.ones(9, DIM, device=device), weight=weight, bias=bias)
    assert out.isfinite().all()
    assert guard[9:].isnan().all()


def test_delta_may_be_strided_and_gate_optional(rng, device):
    x, wide, gate = normal(rng, device, 7, DIM), normal(rng, device, 7, 2 * DIM), normal(rng, device, DIM)
    expected = x + wide[:, DIM:]
    assert add_gated_(x, wide[:, DIM:]) is x
    torch.testing.assert_close(x, expected)
    torch.testing.assert_close(add_gated_(x, wide[:, :DIM], gate), expected + gate * wide[:, :DIM])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rms_norm(rng, device, dtype):
    wide, weight = normal(rng, device, 7, 2 * DIM).to(dtype), normal(rng, device, DIM).to(dtype)
    x = wide[:, DIM:]
    exact = reference.rms_norm(x, weight, 1e-6)
    got = rms_norm(x, weight)
    assert got.dtype == dtype
    if dtype == torch.float32:
        torch.testing.assert_close(got, exact, rtol=1e-5, atol=1e-6)
    else:
        assert relative(got, exact) <= 2 * relative(F.rms_norm(x, (DIM,), weight, 1e-6), exact)


def test_bad_arguments_are_refused(device):
    x, vector = torch.zeros(4, DIM, device=device), torch.zeros(DIM, device=device)
    with pytest.raises(ValueError, match="gate"):
        residual_layer_norm(x, gate=vector, weight=vector, bias=vector)
    with pytest.raises(ValueError, match="weight"):
        residual_layer_norm(x, weight=vector[:-1], bias=vector)
    with pytest.raises(ValueError, match="contiguous"):
        residual_layer_norm(x[:, ::2], weight=vector[::2], bias=vector[::2])
