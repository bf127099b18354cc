"""Self-attention for whole clips at once: full within each clip, or exactly what the streaming model sees.

Clips of a pack stand one after the other in the token sequence; no token sees another clip, which is the
block-diagonal segment mask of the teacher stage. The causal stages build, for all chunks of a clip at once, the
block map that streaming inference would arrive at chunk by chunk (pinned by tests/train/test_causal_mask.py).

Source: FlashVSR, sections 3.2 and 3.3.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from flashvsr_cli.model.attention import SparsityPlan, keep_mask, plan_sparsity
from flashvsr_cli.model.dit import SelfAttend
from flashvsr_cli.model.windows import TOKENS_PER_WINDOW, window_means
from flashvsr_cli.options import Settings
from flashvsr_cli.schedule import FIRST_CHUNK_LATENTS, LATENTS_PER_PAIR, NEXT_CHUNK_LATENTS


def full_attention(segments: Sequence[int], n_heads: int) -> SelfAttend:
    """Every token sees its whole segment and nothing else.

    Args:
        segments: tokens per clip, in order; equal neighbours are computed together.
        n_heads: of the transformer.
    """

    def attend(_layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        outputs, start = [], 0
        for length, count in _runs(segments):
            stop = start + length * count
            q_heads, k_heads, v_heads = (_heads(x[start:stop], count, n_heads) for x in (q, k, v))
            out = F.scaled_dot_product_attention(q_heads, k_heads, v_heads)
            outputs.append(out.transpose(1, 2).reshape(stop - start, -1))
            start = stop
        return torch.cat(outputs)

    return attend


def _runs(segments: Sequence[int]) -> list[tuple[int, int]]:
    """Equal neighbours as (length, count)."""
    runs: list[tuple[int, int]] = []
    for length in segments:
        if runs and runs[-1][0] == length:
            runs[-1] = (length, runs[-1][1] + 1)
        else:
            runs.append((length, 1))
    return runs


def _heads(x: Tensor, n_clips: int, n_heads: int) -> Tensor:
    """(B * N, D) -> (B, n_heads, N, d)."""
    return x.unflatten(0, (n_clips, -1)).unflatten(-1, (n_heads, -1)).transpose(1, 2)


@dataclass(frozen=True)
class VisibleChunk:
    """The pairs of latent frames that one chunk asks from and to, as ranges within the clip."""

    queries: range
    keys: range


def visible_chunks(n_latents: int, kv_ratio: float) -> list[VisibleChunk]:
    """What the streaming cache lets each chunk of a clip see: after every chunk at most one pair is dropped."""
    sizes = [FIRST_CHUNK_LATENTS] + [NEXT_CHUNK_LATENTS] * ((n_latents - FIRST_CHUNK_LATENTS) // NEXT_CHUNK_LATENTS)
    if sum(sizes) != n_latents:
        raise ValueError(f"{n_latents} latents are no whole number of chunks")
    chunks, oldest, begin = [], 0, 0
    for size in sizes:
        end = begin + size // LATENTS_PER_PAIR
        chunks.append(VisibleChunk(range(begin, end), range(oldest, end)))
        if end - oldest > int(kv_ratio):
            oldest += 1
        begin = end
    return chunks


@dataclass(frozen=True)
class CausalSparsity:
    """The locality-constrained sparse attention of whole clips.

    Attributes:
        window_grid: rows and columns of windows.
        n_latents: per clip.
        n_heads: of the transformer.
        settings: sparsity and memory.
        path: see `SparsityConfig.path`.
    """

    window_grid: tuple[int, int]
    n_latents: int
    n_heads: int
    settings: Settings
    path: str = "masked"

    def __call__(self, _layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attend; tensors (B * N, D) in window order, clips one after the other."""
        n_tokens = self.window_grid[0] * self.window_grid[1] * TOKENS_PER_WINDOW * self.n_latents // LATENTS_PER_PAIR
        n_clips = q.shape[0] // n_tokens
        keep = self.block_map(q.detach(), k.detach(), n_clips)
        q, k, v = (_heads(x, n_clips, self.n_heads) for x in (q, k, v))
        attend_kept = _attend_flex if self.path == "flex" else _attend_masked
        out = attend_kept(q, k, v, keep)
        return out.transpose(1, 2).flatten(0, 1).flatten(1)

    def block_map(self, q: Tensor, k: Tensor, n_clips: int) -> Tensor:
        """Which key windows each query window keeps: (B, n_heads, W, W) bool over all W windows of a clip."""
        n_windows = self.window_grid[0] * self.window_grid[1]
        n_pairs = self.n_latents // LATENTS_PER_PAIR
        q_means, k_means = (window_means(x).unflatten(0, (n_clips, n_pairs, n_windows)) for x in (q, k))
        keep = torch.zeros(
            n_clips, self.n_heads, n_pairs, n_windows, n_pairs, n_windows, dtype=torch.bool, device=q.device
        )
        for chunk in visible_chunks(self.n_latents, self.settings.kv_ratio):
            queries, keys = (slice(r.start, r.stop) for r in (chunk.queries, chunk.keys))
            if self.path == "dense":
                keep[:, :, queries, :, keys] = True
                continue
            plan = self._plan(len(chunk.keys), n_clips, q.device)
            # Clips are taken for heads: the rule is the same for every head by itself.
            means = [
                x.permute(1, 2, 0, 3).reshape(-1, n_clips * x.shape[-1])
                for x in (q_means[:, queries], k_means[:, keys])
            ]
            kept = keep_mask(means[0], means[1], plan)
            shape = (n_clips, self.n_heads, len(chunk.queries), n_windows, len(chunk.keys), n_windows)
            keep[:, :, queries, :, keys] = kept.reshape(shape)
        return keep.flatten(4, 5).flatten(2, 3)

    def _plan(self, n_key_pairs: int, n_clips: int, device: torch.device) -> SparsityPlan:
        return _plan(self.window_grid, n_key_pairs, self.n_heads * n_clips, self.settings, device)


@cache
def _plan(
    window_grid: tuple[int, int], n_key_pairs: int, n_heads: int, settings: Settings, device: torch.device
) -> SparsityPlan:
    return plan_sparsity(
        window_grid,
        n_key_pairs,
        sparse_ratio=settings.sparse_ratio,
        local_range=settings.local_range,
        n_heads=n_heads,
        device=device,
    )


def _attend_masked(q: Tensor, k: Tensor, v: Tensor, keep: Tensor) -> Tensor:
    """Attention under the block map spread out to tokens; a query that keeps nothing gives zeros."""
    is_empty = ~keep.any(dim=-1, keepdim=True)
    mask = (keep | is_empty).repeat_interleave(TOKENS_PER_WINDOW, dim=-1)
    mask = mask.repeat_interleave(TOKENS_PER_WINDOW, dim=-2)
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return out.masked_fill(is_empty.repeat_interleave(TOKENS_PER_WINDOW, dim=-2), 0)


def _attend_flex(q: Tensor, k: Tensor, v: Tensor, keep: Tensor) -> Tensor:
    """The same through FlexAttention, which visits the kept blocks and no other."""
    from torch.nn.attention.flex_attention import BlockMask

    counts = keep.sum(dim=-1, dtype=torch.int32)
    columns = keep.to(torch.uint8).argsort(dim=-1, descending=True, stable=True).to(torch.int32)

    def is_kept(i_clip: Tensor, head: Tensor, i_q: Tensor, i_k: Tensor) -> Tensor:
        return keep[i_clip, head, i_q // TOKENS_PER_WINDOW, i_k // TOKENS_PER_WINDOW]

    # Kept blocks are full ones, inside which nothing is masked.
    mask = BlockMask.from_kv_blocks(
        torch.zeros_like(counts), columns, counts, columns, BLOCK_SIZE=TOKENS_PER_WINDOW, mask_mod=is_kept
    )
    out = _flex_attention(q.device.type)(q, k, v, block_mask=mask)
    return out.masked_fill((counts == 0)[..., None].repeat_interleave(TOKENS_PER_WINDOW, dim=-2), 0)


@cache
def _flex_attention(device_type: str) -> Any:
    """Compiled where that gives the sparse kernel; on the CPU the plain form, which is for checking."""
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention) if device_type == "cuda" else flex_attention
