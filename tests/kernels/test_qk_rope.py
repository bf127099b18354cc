"""Norm, RoPE, page writes and window means in one op, against the float32 twin."""

import math

import pytest
import torch

from flashvsr_kernels import reference
from flashvsr_kernels.qk_rope import write_qk

N_WINDOWS = 2


def make_case(rng, device, dtype, *, n_heads, head_dim, pages):
    n_tok, dim = N_WINDOWS * 128 * len(pages), n_heads * head_dim
    qk = torch.randn(n_tok, 2 * dim, generator=rng, device=device).to(dtype)
    weights = [torch.rand(dim, generator=rng, device=device).to(dtype) + 0.5 for _ in range(2)]
    angle = torch.rand(n_tok, head_dim // 2, generator=rng, device=device) * 30
    k_pages = torch.full((5, N_WINDOWS * 128, dim), math.nan, dtype=dtype, device=device)
    k_means = torch.full((5, N_WINDOWS, n_heads, head_dim), math.nan, device=device)
    new_pages = torch.tensor(pages, dtype=torch.int32, device=device)
    return qk.split(dim, dim=1), weights, angle.cos(), angle.sin(), k_pages, k_means, new_pages


@pytest.mark.parametrize(("n_heads", "head_dim", "pages"), [(3, 128, [4]), (2, 64, [3, 0, 2])])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_equals_reference(rng, device, dtype, n_heads, head_dim, pages):
    (q, k), (q_weight, k_weight), cos, sin, k_pages, k_means, new_pages = make_case(
        rng, device, dtype, n_heads=n_heads, head_dim=head_dim, pages=pages
    )
    q_out, q_means = write_qk(
        q, k, q_weight, k_weight, cos, sin, k_pages=k_pages, k_means_pages=k_means, new_pages=new_pages,
        n_heads=n_heads,
    )  # fmt: skip
    tolerance = {"rtol": 1e-5, "atol": 2e-6} if dtype == torch.float32 else {"rtol": 2**-8, "atol": 1e-5}
    written = k_pages[pages].reshape(k.shape)
    for got, x, weight in ((q_out, q, q_weight), (written, k, k_weight)):
        exact = reference.rms_norm_rope(x, weight, cos, sin, n_heads, 1e-6).flatten(1)
        assert got.dtype == dtype
        torch.testing.assert_close(got.float(), exact, **tolerance)

    # Means are of the rounded values, so they agree with the twin to float32 accuracy in every dtype.
    def means_of(x):
        return reference.window_means(x.unflatten(1, (n_heads, head_dim)))

    torch.testing.assert_close(q_means, means_of(q_out), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(k_means[pages].flatten(0, 1), means_of(written), rtol=1e-5, atol=1e-6)
    others = [page for page in range(5) if page not in pages]
    assert k_pages[others].isnan().all()
    assert k_means[others].isnan().all()


def test_bad_arguments_are_refused(rng, device):
    (q, k), (q_weight, k_weight), cos, sin, k_pages, k_means, new_pages = make_case(
        rng, device, torch.float32, n_heads=1, head_dim=64, pages=[1]
    )
    arguments = {"k_pages": k_pages, "k_means_pages": k_means, "n_heads": 1}
    with pytest.raises(ValueError, match="page numbers"):
        write_qk(q, k, q_weight, k_weight, cos, sin, new_pages=new_pages.repeat(2), **arguments)
    with pytest.raises(ValueError, match="RoPE"):
        write_qk(q, k, q_weight, k_weight, cos[:, :-1], sin, new_pages=new_pages, **arguments)
