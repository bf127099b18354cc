"""Pools of more than 2**31 elements. Their memory is never touched but for one page, so it is not even allocated."""

import math

import pytest
import torch

from flashvsr_kernels import reference
from flashvsr_kernels.block_map import BlockMap
from flashvsr_kernels.block_sparse_attention import block_sparse_attention
from flashvsr_kernels.fp8_attention import FP8, block_sparse_attention_fp8, write_v
from flashvsr_kernels.qk_rope import write_qk

HEAD_DIM = 64
PAGE_ELEMENTS = 128 * HEAD_DIM
N_PAGES = 2**31 // PAGE_ELEMENTS + 2
LAST = N_PAGES - 1


@pytest.fixture
def page(device):
    return torch.tensor([LAST], dtype=torch.int32, device=device)


@pytest.fixture
def block_map(device, page):
    return BlockMap.from_keep(torch.ones(1, 1, 1, dtype=torch.bool, device=device), page, 1)


@pytest.fixture
def qkv(rng, device):
    return [torch.randn(128, HEAD_DIM, generator=rng, device=device).half() for _ in range(3)]


def attend(q, k, v):
    keep = torch.ones(1, 1, 1, dtype=torch.bool, device=q.device)
    return reference.block_sparse_attention(q[:, None], k[:, None], v[:, None], keep)[:, 0]


def test_attention_reads_the_last_page(device, qkv, block_map):
    q, k, v = qkv
    pools = [torch.empty(N_PAGES, 128, HEAD_DIM, dtype=torch.float16, device=device) for _ in range(2)]
    pools[0][LAST], pools[1][LAST] = k, v
    out = block_sparse_attention(q, *pools, block_map)
    torch.testing.assert_close(out.float(), attend(q, k, v), rtol=2e-3, atol=1e-3)


def test_e4m3_is_written_and_read_in_the_last_page(device, qkv, block_map, page):
    q, k, v = qkv
    k_pages = torch.empty(N_PAGES, 128, HEAD_DIM, dtype=FP8, device=device)
    v_pages = torch.empty(N_PAGES, 1, 1, HEAD_DIM, 128, dtype=FP8, device=device)
    scales = torch.empty(N_PAGES, 1, 1, device=device)
    write_v(v, v_pages=v_pages, v_log2_scales=scales, new_pages=page, n_heads=1)
    k_pages[LAST] = k.to(FP8)
    out = block_sparse_attention_fp8(q.to(FP8), k_pages, v_pages, scales, block_map)
    exact = attend(q.to(FP8), k.to(FP8), v)
    assert (out - exact).norm() / exact.norm() < 0.05


def test_keys_are_written_to_the_last_page(device, qkv, page):
    q, k, _ = qkv
    k_pages = torch.empty(N_PAGES, 128, HEAD_DIM, dtype=torch.float16, device=device)
    k_means = torch.full((N_PAGES, 1, 1, HEAD_DIM), math.nan, device=device)
    weight = torch.ones(HEAD_DIM, device=device)
    cos, sin = torch.ones(128, HEAD_DIM // 2, device=device), torch.zeros(128, HEAD_DIM // 2, device=device)
    write_qk(q, k, weight, weight, cos, sin, k_pages=k_pages, k_means_pages=k_means, new_pages=page, n_heads=1)
    exact = reference.rms_norm(k, weight, 1e-6)
    torch.testing.assert_close(k_pages[LAST].float(), exact, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(k_means[LAST, 0, 0], exact.mean(0), rtol=1e-3, atol=1e-3)
    assert k_means[:LAST].isnan().all()
