"""e4m3 attention and linear layers against the float32 twin on the quantised inputs."""

import math

import pytest
import torch
from torch.nn import functional as F

from flashvsr_kernels import reference
from flashvsr_kernels.block_map import BlockMap
from flashvsr_kernels.fp8_attention import FP8, block_sparse_attention_fp8, write_v
from flashvsr_kernels.fp8_linear import Fp8Weight, fp8_linear, gelu_quantize_rows, quantize_rows
from flashvsr_kernels.norm import residual_layer_norm, residual_layer_norm_fp8
from flashvsr_kernels.qk_rope import write_qk

N_WINDOWS, N_PAGES, PAGES = 2, 4, [3, 1]
NAN = 0x7F  # e4m3's NaN as a bit pattern


def normal(rng, device, *shape):
    return torch.randn(*shape, generator=rng, device=device)


def relative(x, exact):
    return (x.float() - exact.float()).norm() / exact.float().norm()


def rounding_bound(exact, scale):
    """How far e4m3 numbers times `scale` may be from `exact`, elementwise.

    Rounding to nearest is off by half a step: at most 1/16 of a number from 2**-6 on, and 2**-10 below. What float32
    arithmetic adds before, some 2**-18 of the number, can move it across the middle between two steps: 1% more.
    """
    return 1.01 * torch.maximum(exact.abs() / 16, torch.as_tensor(scale * 2**-10))


def empty_pages(shape, device):
    return torch.full(shape, NAN, dtype=torch.uint8, device=device).view(FP8)


def page_numbers(device):
    return torch.tensor(PAGES, dtype=torch.int32, device=device)


def write_v_pages(v, n_heads, head_dim):
    pages = empty_pages((N_PAGES, N_WINDOWS, n_heads, head_dim, 128), v.device)
    scales = torch.full(pages.shape[:3], math.nan, device=v.device)
    write_v(v, v_pages=pages, v_log2_scales=scales, new_pages=page_numbers(v.device), n_heads=n_heads)
    return pages, scales


def read_v(pages, scales):
    """Stored windows back as (n_tok, H, d), by the rule of the module's docstring written out."""
    order = [16 * group + 4 * t + 2 * c + b for group in range(8) for c in range(2) for t in range(4) for b in range(2)]
    values = pages[PAGES].float()[..., order] * scales[PAGES].exp2()[..., None, None]
    return values.permute(0, 1, 4, 2, 3).flatten(0, 2)


def make_case(rng, device, head_dim, keep):
    n_heads, n_q_blk, _ = keep.shape
    dim = n_heads * head_dim
    q = normal(rng, device, n_q_blk * 128, dim).to(FP8)
    k = normal(rng, device, len(PAGES) * N_WINDOWS * 128, dim).to(FP8)
    v = normal(rng, device, k.shape[0], dim) * torch.logspace(-3, 2, dim, device=device).roll(7)
    k_pages = empty_pages((N_PAGES, N_WINDOWS * 128, dim), device)
    k_pages.view(torch.uint8)[PAGES] = k.view(torch.uint8).reshape(len(PAGES), -1, dim)
    v_pages, scales = write_v_pages(v, n_heads, head_dim)
    block_map = BlockMap.from_keep(keep, page_numbers(device), N_WINDOWS)
    exact = reference.block_sparse_attention(
        q.float().unflatten(1, (n_heads, -1)), k.float().unflatten(1, (n_heads, -1)), read_v(v_pages, scales), keep
    )
    return (q, k_pages, v_pages, scales, block_map), exact.flatten(1)


@pytest.mark.parametrize(
    ("head_dim", "out_dtype"), [(64, torch.bfloat16), (128, torch.bfloat16), (64, torch.float16), (64, torch.float32)]
)
def test_attention_is_exact_up_to_the_rounding_of_probabilities(rng, device, head_dim, out_dtype):
    keep = torch.rand(2, 3, 4, generator=rng, device=device) < 0.6
    keep[0, 1] = False
    arguments, exact = make_case(rng, device, head_dim, keep)
    out = block_sparse_attention_fp8(*arguments, out_dtype)
    assert out.dtype == out_dtype
    assert out[128:256, :head_dim].eq(0).all()
    # e4m3 rounds by at most 1/16, evenly spread: 0.026 rms for each of many probabilities.
    assert relative(out, exact) < 0.04
    for i_head in range(2):
        channels = slice(i_head * head_dim, (i_head + 1) * head_dim)
        assert relative(out[:, channels], exact[:, channels]) < 0.04


def test_blocks_not_kept_are_not_read(rng, device):
    keep = torch.ones(2, 2, 4, dtype=torch.bool, device=device)
    keep[:, :, 2] = False
    (q, k_pages, v_pages, scales, block_map), exact = make_case(rng, device, 64, keep)
    k_pages.view(torch.uint8)[PAGES[1], :128] = NAN
    v_pages.view(torch.uint8)[PAGES[1], 0] = NAN
    scales[PAGES[1], 0] = math.nan
    out = block_sparse_attention_fp8(q, k_pages, v_pages, scales, block_map)
    assert relative(out, exact) < 0.04


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_v_pages_hold_v(rng, device, dtype):
    n_heads, head_dim = 3, 64
    v = normal(rng, device, len(PAGES) * N_WINDOWS * 128, n_heads * head_dim).to(dtype)
    v[128:256] *= 1000
    v[256:384] = 0
    pages, scales = write_v_pages(v, n_heads, head_dim)
    got, expected = read_v(pages, scales), v.float().unflatten(1, (n_heads, -1))
    scale = scales[PAGES].exp2().flatten(0, 1).repeat_interleave(128, 0)[..., None]
    assert ((got - expected).abs() <= rounding_bound(expected, scale)).all()
    largest = pages[PAGES].float().abs().amax((3, 4)).flatten(0, 1)
    assert largest[[0, 1, 3]].eq(448).all()
    assert largest[2].eq(0).all()
    assert pages.view(torch.uint8)[[0, 2]].eq(NAN).all()
    assert scales[[0, 2]].isnan().all()


def test_write_qk_stores_e4m3_but_means_what_it_read(rng, device):
    n_tok, dim = N_WINDOWS * 128, 128
    q, k = (normal(rng, device, n_tok, dim).bfloat16() for _ in range(2))
    weight, angle = torch.ones(dim, device=device), normal(rng, device, n_tok, 32)
    weight[0] = 1e4  # beyond e4m3: stored as its largest value, not as NaN
    pages = empty_pages((N_PAGES, n_tok, dim), device)
    k_means = torch.full((N_PAGES, N_WINDOWS, 2, 64), math.nan, device=device)
    arguments = {"new_pages": page_numbers(device)[:1], "n_heads": 2, "k_means_pages": k_means}
    q_out, q_means = write_qk(q, k, weight, weight, angle.cos(), angle.sin(), k_pages=pages, **arguments)
    exact = reference.rms_norm_rope(k, weight, angle.cos(), angle.sin(), 2, 1e-6)
    assert q_out.dtype == FP8
    stored = pages[PAGES[0]].float()
    assert stored.isfinite().all()
    assert stored.abs().max() == 448
    # The kernel rounds to bfloat16 first: 2**-9 of a number, which may move it into the next e4m3 step.
    error = (stored - exact.flatten(1).clamp(-448, 448)).abs()
    assert (error <= rounding_bound(exact.flatten(1), 1.0) + exact.flatten(1).abs() * 2**-8).all()
    assert relative(k_means[PAGES[0]], reference.window_means(exact)) < 4e-3
    assert relative(q_means[..., 2:], reference.window_means(q_out.float().unflatten(1, (2, 64)))[..., 2:]) > 1e-3


@pytest.mark.filterwarnings("ignore:overflow encountered in exp")  # the interpreter, where sigmoid saturates
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("gelu", [False, True])
def test_quantized_rows(rng, device, dtype, gelu):
    sizes = torch.tensor([1e-6, 1.0, 3.0, 1e4], device=device).repeat(8)
    wide = (normal(rng, device, len(sizes), 2400) * sizes[:, None]).to(dtype)
    x = wide[:, 96:]  # two passes of the kernel, the second not full
    exact = F.gelu(x.double(), approximate="tanh") if gelu else x.double()
    values, scale = (gelu_quantize_rows if gelu else quantize_rows)(x)
    assert values.dtype == FP8
    assert values.float().abs().amax(1).eq(448).all()
    torch.testing.assert_close(scale, exact.abs().amax(1, keepdim=True).float() / 448, rtol=1e-5, atol=0)
    assert ((values.double() * scale - exact).abs() <= rounding_bound(exact, scale)).all()


@pytest.mark.parametrize("quantize", [quantize_rows, gelu_quantize_rows])
def test_rows_next_to_nothing_are_zeros_and_not_nan(device, quantize):
    x = torch.zeros(4, 96, device=device)
    x[1, 3], x[2, 3], x[3, 3] = 1e-44, -1e-38, 1e-30
    values, scale = quantize(x)
    assert (values.float() * scale).abs().max() <= 1e-30
    assert values[:3].float().eq(0).all()
    assert scale.isfinite().all()


@pytest.mark.parametrize("rows", ["normal", "one large channel"])
def test_layer_norm_emits_e4m3(rng, device, rows):
    x, delta = (normal(rng, device, 64, 96).bfloat16() for _ in range(2))
    if rows == "one large channel":
        x[:, 5] *= 200
    gate, weight, bias = (normal(rng, device, 96) for _ in range(3))
    other = x.clone()
    residual_layer_norm(x, delta, gate, weight=weight, bias=bias)
    values, scale = residual_layer_norm_fp8(other, delta, gate, weight=weight, bias=bias)
    assert torch.equal(x, other)
    assert scale.shape == (64, 1)
    # Of the sum as it was stored, which is what the kernel normalises.
    exact = F.layer_norm(x.double(), (96,), weight.double(), bias.double(), eps=1e-6)
    slack = 2**-20 * exact.abs().amax(1, keepdim=True)  # where the bias takes nearly everything away
    assert ((values.double() * scale - exact).abs() <= rounding_bound(exact, scale) + slack).all()


def test_weight_scales_are_per_output_channel(rng, device):
    weight = normal(rng, device, 32, 48) * torch.logspace(-4, 4, 32, device=device)[:, None]
    low = Fp8Weight.of(weight)
    back = low.values.float() * low.scale.T
    assert low.values.float().abs().amax(1).eq(448).all()
    assert ((back - weight).abs() <= rounding_bound(weight, low.scale.T)).all()


@pytest.mark.gpu
def test_linear_on_the_gpu(rng, device):
    if device.type != "cuda":
        pytest.skip("scaled products run on a GPU")
    x, weight, bias = normal(rng, device, 256, 192), normal(rng, device, 320, 192), normal(rng, device, 320)
    values, scale = quantize_rows(x)
    low = Fp8Weight.of(weight)
    exact = F.linear(values.float() * scale, low.values.float() * low.scale.T, bias)
    assert relative(fp8_linear((values, scale), low, bias.bfloat16()), exact) < 5e-3


def test_bad_arguments_are_refused(rng, device):
    keep = torch.ones(2, 1, 4, dtype=torch.bool, device=device)
    (q, k_pages, v_pages, scales, block_map), _ = make_case(rng, device, 64, keep)
    with pytest.raises(ValueError, match="float8"):
        block_sparse_attention_fp8(q.float(), k_pages, v_pages, scales, block_map)
    with pytest.raises(ValueError, match="scales"):
        block_sparse_attention_fp8(q, k_pages, v_pages, scales[:1], block_map)
    with pytest.raises(ValueError, match="does not fill"):
        write_v(
            torch.zeros(128, 128, device=device), v_pages=v_pages, v_log2_scales=scales,
            new_pages=page_numbers(device), n_heads=2,
        )  # fmt: skip
