"""The fast attention against the float32 twin, on shuffled pages with NaN everywhere it must not look."""

import math

import pytest
import torch
from torch.nn import functional as F

from flashvsr_kernels import reference
from flashvsr_kernels.block_map import BlockMap
from flashvsr_kernels.block_sparse_attention import block_sparse_attention

N_WINDOWS = 2
PAGES = [3, 0]


def make_case(rng, device, dtype, head_dim, n_heads=2, keep=None, n_q_blk=2):
    """q, pools whose unused pages and never kept blocks are NaN, the keep mask, and k, v as plain tokens."""
    n_k_blk = N_WINDOWS * len(PAGES)
    dim = n_heads * head_dim

    def normal(n_tok):
        return torch.randn(n_tok, dim, generator=rng, device=device).to(dtype)

    q, k, v = normal(n_q_blk * 128), normal(n_k_blk * 128), normal(n_k_blk * 128)
    if keep is None:
        keep = torch.rand(n_heads, n_q_blk, n_k_blk, generator=rng, device=device) < 0.5
        keep[:, :, 1] = False
        keep[0, 0, 0] = True
    pools = []
    for tokens in (k, v):
        pool = torch.full((5, N_WINDOWS * 128, dim), math.nan, device=device, dtype=dtype)
        pool[PAGES] = tokens.reshape(len(PAGES), -1, dim)
        blocks = pool.view(5, N_WINDOWS, 128, n_heads, head_dim)
        for i_head, i_k in (~keep.any(dim=1)).nonzero().tolist():
            blocks[PAGES[i_k // N_WINDOWS], i_k % N_WINDOWS, :, i_head] = math.nan
        pools.append(pool)
    page_table = torch.tensor(PAGES, dtype=torch.int32, device=device)
    return q, *pools, BlockMap.from_keep(keep, page_table, N_WINDOWS), keep, k, v


def heads(x, n_heads):
    return x.unflatten(-1, (n_heads, -1))


@pytest.mark.parametrize("head_dim", [64, 128])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_equals_reference_and_ignores_what_is_not_kept(rng, device, dtype, head_dim):
    q, k_pages, v_pages, block_map, keep, k, v = make_case(rng, device, dtype, head_dim)
    assert k_pages.isnan().any()
    out = torch.full_like(q, math.nan)
    assert block_sparse_attention(q, k_pages, v_pages, block_map, out=out) is out
    exact = reference.block_sparse_attention(heads(q, 2), heads(k, 2), heads(v, 2), keep).flatten(1)
    if dtype == torch.float32:
        torch.testing.assert_close(out, exact, rtol=1e-5, atol=2e-6)
        return
    error = (out.float() - exact).norm() / exact.norm()
    mask = keep.repeat_interleave(128, 1).repeat_interleave(128, 2)
    plain = F.scaled_dot_product_attention(*(heads(x, 2).transpose(0, 1) for x in (q, k, v)), attn_mask=mask)
    plain = plain.nan_to_num(0).transpose(0, 1).flatten(1).float()
    assert error <= 2 * (plain - exact).norm() / exact.norm()


@pytest.mark.parametrize("head_dim", [64, 128])
def test_full_map_equals_dense_attention(rng, device, head_dim):
    keep = torch.ones(2, 2, 4, dtype=torch.bool, device=device)
    q, k_pages, v_pages, block_map, _, k, v = make_case(rng, device, torch.float32, head_dim, keep=keep)
    dense = F.scaled_dot_product_attention(*(heads(x, 2).transpose(0, 1) for x in (q, k, v)))
    out = block_sparse_attention(q, k_pages, v_pages, block_map)
    torch.testing.assert_close(out, dense.transpose(0, 1).flatten(1), rtol=1e-5, atol=2e-6)


def test_empty_rows_are_zero_in_an_output_of_nan(rng, device):
    keep = torch.zeros(2, 2, 4, dtype=torch.bool, device=device)
    keep[1, 0, 2] = True
    q, k_pages, v_pages, block_map, *_ = make_case(rng, device, torch.float32, 64, keep=keep)
    out = block_sparse_attention(q, k_pages, v_pages, block_map, out=torch.full_like(q, math.nan))
    assert out[:, :64].eq(0).all()
    assert out[128:].eq(0).all()
    assert out[:128, 64:].ne(0).all()


def test_rows_are_taken_in_any_order(rng, device):
    q, k_pages, v_pages, block_map, *_ = make_case(rng, device, torch.float32, 64)
    shuffled = BlockMap(block_map.index, block_map.count, block_map.order.flip(0).contiguous())
    expected = block_sparse_attention(q, k_pages, v_pages, block_map)
    assert torch.equal(block_sparse_attention(q, k_pages, v_pages, shuffled), expected)


def test_large_scores_do_not_overflow(rng, device):
    q, k_pages, v_pages, block_map, keep, k, v = make_case(rng, device, torch.float32, 64)
    out = block_sparse_attention(q * 200, k_pages, v_pages, block_map)
    exact = reference.block_sparse_attention(heads(q * 200, 2), heads(k, 2), heads(v, 2), keep).flatten(1)
    torch.testing.assert_close(out, exact, rtol=1e-4, atol=1e-4)


def test_queries_may_be_a_slice_of_a_wider_tensor(rng, device):
    q, k_pages, v_pages, block_map, *_ = make_case(rng, device, torch.float32, 64)
    wide = torch.cat((torch.full_like(q, math.nan), q), dim=1)
    out = block_sparse_attention(wide[:, q.shape[1] :], k_pages, v_pages, block_map)
    assert torch.equal(out, block_sparse_attention(q, k_pages, v_pages, block_map))


def test_bad_arguments_are_refused(rng, device):
    q, k_pages, v_pages, block_map, *_ = make_case(rng, device, torch.float32, 64)
    with pytest.raises(ValueError, match="windows"):
        block_sparse_attention(q[:128], k_pages, v_pages, block_map)
    with pytest.raises(ValueError, match="dtypes"):
        block_sparse_attention(q.bfloat16(), k_pages, v_pages, block_map)
    with pytest.raises(ValueError, match="contiguous"):
        block_sparse_attention(q, k_pages.transpose(0, 1).contiguous().transpose(0, 1), v_pages, block_map)
    narrow = BlockMap.from_keep(torch.ones(4, 2, 4, dtype=torch.bool, device=device))
    with pytest.raises(ValueError, match="head dim"):
        block_sparse_attention(q, k_pages, v_pages, narrow)
