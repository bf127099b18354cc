"""Locality-constrained sparse attention in plain torch.

`transformer.py` is the seam at which it or the GPU kernels are chosen. This one gathers the kept blocks and nothing
else, so its memory follows the number of kept blocks and never the square of the chunk.

Source: FlashVSR, section 3.2; the released pipeline's top-k rule, kept exactly (tests/model/test_attention.py).
"""

from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from flashvsr_cli.model.kv_cache import PagedKVCache
from flashvsr_cli.model.windows import TOKENS_PER_WINDOW, local_window_mask, window_means

REFERENCE_SIZE = (768, 1280)
REFERENCE_PIXELS = REFERENCE_SIZE[0] * REFERENCE_SIZE[1]
"""The picture size for which `sparse_ratio` counts in units of M kept blocks per query window."""


@dataclass(frozen=True)
class SparsityPlan:
    """Which blocks a chunk may keep; the same for every layer.

    Attributes:
        local_mask: (M, M) bool, which window may look at which within a time pair.
        rank: a block is kept iff its score is strictly above the (rank + 1)-th largest of its head and time pair.
        n_heads: heads of the transformer.
    """

    local_mask: Tensor
    rank: int
    n_heads: int


def sparsity_rank(window_grid: tuple[int, int], n_key_pairs: int, sparse_ratio: float) -> int:
    """Blocks kept per head and time pair: a score is kept iff it is strictly above the one after that many."""
    n_windows = window_grid[0] * window_grid[1]
    n_pixels = n_windows * TOKENS_PER_WINDOW // 2 * 256
    # Side by side as released: times the product, ratios such as 0.7 truncate to another rank (test_attention.py).
    topk_ratio = sparse_ratio * REFERENCE_SIZE[0] * REFERENCE_SIZE[1] / n_pixels
    rank = min(n_windows * n_windows * n_key_pairs - 1, int(n_windows * n_windows * topk_ratio) - 1)
    return max(rank, 0)


def plan_sparsity(
    window_grid: tuple[int, int],
    n_key_pairs: int,
    *,
    sparse_ratio: float,
    local_range: int,
    n_heads: int,
    device: torch.device,
) -> SparsityPlan:
    """The sparsity of a chunk whose queries face `n_key_pairs` time pairs of `window_grid` windows each."""
    rank = sparsity_rank(window_grid, n_key_pairs, sparse_ratio)
    return SparsityPlan(local_window_mask(*window_grid, local_range, device), rank, n_heads)


class SparseAttention(Protocol):
    """Attention of one layer's queries over its pages of the cache."""

    name: str

    def __call__(self, q: Tensor, cache: PagedKVCache, pages: list[int], plan: SparsityPlan) -> Tensor:
        """Attend.

        Args:
            q: (n_pairs * M * 128, D) queries in window order, normalised and rotated.
            cache: holds keys, values and the means of the keys.
            pages: the layer's pages, oldest first, the chunk's own included.
            plan: which blocks may be kept.

        Returns:
            Like `q`; windows that keep no block give zeros.
        """
        ...


def keep_mask(q_means: Tensor, k_means: Tensor, plan: SparsityPlan) -> Tensor:
    """Which key windows each query window keeps.

    Args:
        q_means: (n_query_pairs * M, D) float32.
        k_means: (n_key_pairs * M, D) float32.
        plan: local mask and rank.

    Returns:
        (n_heads, n_query_pairs * M, n_key_pairs * M) bool; rows may be empty.
    """
    n_windows = plan.local_mask.shape[0]
    q_heads = q_means.unflatten(-1, (plan.n_heads, -1)).transpose(0, 1)
    k_heads = k_means.unflatten(-1, (plan.n_heads, -1)).transpose(0, 1)
    n_query_pairs, n_key_pairs = q_heads.shape[1] // n_windows, k_heads.shape[1] // n_windows
    scores = q_heads @ k_heads.transpose(1, 2) / q_heads.shape[-1] ** 0.5
    scores = scores.masked_fill(~plan.local_mask.repeat(n_query_pairs, n_key_pairs), float("-inf"))
    shares = scores.softmax(dim=-1).reshape(plan.n_heads, n_query_pairs, -1)
    threshold = shares.topk(plan.rank + 1, dim=-1).values[..., -1:]
    return (shares > threshold).reshape(scores.shape)


class TorchSparseAttention:
    """The backend in plain torch, for any device and dtype."""

    name = "torch"
    _gather_elements = 1 << 22
    """Keys gathered at once on a CPU, in elements: bounds memory."""
    _gather_elements_on_gpu = 1 << 26
    """The same on a GPU, which wants more work at once."""

    def __call__(self, q: Tensor, cache: PagedKVCache, pages: list[int], plan: SparsityPlan) -> Tensor:
        """See `SparseAttention`."""
        table = torch.tensor(pages, device=q.device)
        key_means = cache.key_means[table].flatten(0, 1)
        keep = keep_mask(window_means(q), key_means, plan)
        n_windows = plan.local_mask.shape[0]
        block_ids = (table[:, None] * n_windows + torch.arange(n_windows, device=q.device)).flatten()

        def blocks(x: Tensor) -> Tensor:
            return x.reshape(-1, TOKENS_PER_WINDOW, plan.n_heads, q.shape[-1] // plan.n_heads)

        q_blocks, k_blocks, v_blocks = blocks(q), blocks(cache.keys), blocks(cache.values)
        out = torch.zeros_like(q_blocks)
        for head in range(plan.n_heads):
            out[:, :, head] = self._attend_head(
                q_blocks[:, :, head], k_blocks[:, :, head], v_blocks[:, :, head], keep[head], block_ids
            )
        return out.reshape(q.shape)

    def _attend_head(self, q: Tensor, k: Tensor, v: Tensor, keep: Tensor, block_ids: Tensor) -> Tensor:
        """One head: q (Q, 128, d), k and v (n_blocks, 128, d), keep (Q, K), block_ids (K,) -> (Q, 128, d)."""
        out = torch.zeros_like(q)
        counts = keep.sum(dim=-1).tolist()
        # Rows with equal counts side by side waste the least padding when they are gathered together.
        rows = sorted((i for i, count in enumerate(counts) if count), key=counts.__getitem__)
        n_elements = self._gather_elements_on_gpu if q.is_cuda else self._gather_elements
        while rows:
            width = counts[rows[-1]]
            n_rows = max(1, n_elements // (width * k.shape[1] * k.shape[2]))
            group, rows = rows[-n_rows:], rows[:-n_rows]
            selected = keep[group]
            # A stable descending sort of the flags lists the kept columns first, in their order.
            columns = selected.to(torch.uint8).argsort(dim=-1, descending=True, stable=True)[:, :width]
            is_kept = selected.gather(1, columns)
            # Padding repeats a kept block, so that a value of a block not kept can never be read, not even NaN.
            columns = torch.where(is_kept, columns, columns[:, :1])
            ids = block_ids[columns]
            mask = None
            if counts[group[0]] != width:
                mask = is_kept.repeat_interleave(k.shape[1], dim=1)[:, None, None, :]
            # With a head dimension of 1 in between: the CPU's kernel for four dimensions is twice as fast.
            keys, values = (x[ids].flatten(1, 2)[:, None] for x in (k, v))
            out[group] = F.scaled_dot_product_attention(q[group][:, None], keys, values, attn_mask=mask)[:, 0]
        return out
