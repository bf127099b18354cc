"""The slow, obvious float32 twin of every fast op here, in plain torch.

Layout letters: H heads, d channels per head, Q query windows, K key windows, M windows per time pair.
Windows hold 128 tokens and are ordered (time pair, row, column). Everything runs on any device and
returns float32, whatever the dtype of its inputs, but for `stack_time`, which only moves numbers.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

WINDOW_TOK = 128  # (2, 8, 8) tokens: the block size the weights were trained with


def window_means(x: Tensor, window_tok: int = WINDOW_TOK) -> Tensor:
    """Mean of the tokens of each window: (n_tok, H, d) -> (n_tok / window_tok, H, d) float32.

    Raises:
        ValueError: if n_tok is not a multiple of window_tok.
    """
    n_tok, n_heads, head_dim = x.shape
    if n_tok % window_tok:
        raise ValueError(f"{n_tok} tokens do not divide into windows of {window_tok}")
    return x.float().reshape(n_tok // window_tok, window_tok, n_heads, head_dim).mean(dim=1)


def local_window_mask(rows: int, cols: int, local_range: int, device: torch.device | str = "cpu") -> Tensor:
    """Which windows of one time pair see each other: (M, M) bool, [query, key], M = rows * cols.

    A query window at (r, c) sees r - R//2 .. r - R//2 + R - 1 and the same for columns. For an even R this is
    lopsided, and at the borders nothing is clamped: both are what the weights were trained with.

    Source: FlashVSR section 3.3, the locality constraint.
    """

    def sees(n: int) -> Tensor:
        offset = torch.arange(n, device=device)[None, :] - torch.arange(n, device=device)[:, None]
        first = -(local_range // 2)
        return (offset >= first) & (offset < first + local_range)

    both = sees(rows)[:, None, :, None] & sees(cols)[None, :, None, :]
    return both.reshape(rows * cols, rows * cols)


def block_scores(q_means: Tensor, k_means: Tensor, local_mask: Tensor) -> Tensor:
    """Softmax over the key windows of each query window: (Q,H,d), (K,H,d), (M,M) -> (H,Q,K) float32."""
    n_q, n_k, n_win = q_means.shape[0], k_means.shape[0], local_mask.shape[0]
    scores = torch.einsum("qhd,khd->hqk", q_means.float(), k_means.float()) / math.sqrt(q_means.shape[-1])
    visible = local_mask.repeat(n_q // n_win, n_k // n_win)
    return scores.masked_fill(~visible, -math.inf).softmax(dim=-1)


def keep_mask(q_means: Tensor, k_means: Tensor, local_mask: Tensor, rank: int) -> Tensor:
    """Which key windows each query window attends to: (Q,H,d), (K,H,d), (M,M) -> (H,Q,K) bool.

    Per head and per query time pair, jointly over its M x K scores, those strictly greater than the
    (rank + 1)-th largest are kept. A row may keep nothing; ties at the threshold are all dropped.

    Raises:
        ValueError: if rank is not an index into the M x K scores, or Q or K is not a multiple of M.

    Source: FlashVSR section 3.3; the official code's top-k over the flattened block map.
    """
    n_q, n_heads = q_means.shape[:2]
    n_k, n_win = k_means.shape[0], local_mask.shape[0]
    if n_q % n_win or n_k % n_win:
        raise ValueError(f"{n_q} x {n_k} windows are not whole time pairs of {n_win} windows")
    if not 0 <= rank < n_win * n_k:
        raise ValueError(f"rank {rank} is outside 0..{n_win * n_k - 1}")
    probs = block_scores(q_means, k_means, local_mask)
    joint = probs.reshape(n_heads, n_q // n_win, n_win * n_k)
    threshold = joint.sort(dim=-1, descending=True).values[..., rank : rank + 1]
    return (joint > threshold).reshape(n_heads, n_q, n_k)


def block_sparse_attention(q: Tensor, k: Tensor, v: Tensor, keep: Tensor) -> Tensor:
    """Exact softmax attention over the kept 128 x 128 blocks.

    Args:
        q: (Q * 128, H, d), any float dtype.
        k: (K * 128, H, d).
        v: (K * 128, H, d).
        keep: (H, Q, K) bool.

    Returns:
        (Q * 128, H, d) float32; zeros where a query window keeps no key window. Blocks that are not kept are
        never read, so NaN in them stays there.
    """
    n_heads, n_q, n_k = keep.shape
    head_dim = q.shape[-1]
    q_blk = q.float().reshape(n_q, WINDOW_TOK, n_heads, head_dim)
    k_blk = k.float().reshape(n_k, WINDOW_TOK, n_heads, head_dim)
    v_blk = v.float().reshape(n_k, WINDOW_TOK, n_heads, head_dim)
    out = torch.zeros_like(q_blk)
    for i_head in range(n_heads):
        for i_q in range(n_q):
            kept = keep[i_head, i_q].nonzero().flatten()
            if kept.numel() == 0:
                continue
            keys = k_blk[kept, :, i_head].reshape(-1, head_dim)
            values = v_blk[kept, :, i_head].reshape(-1, head_dim)
            probs = (q_blk[i_q, :, i_head] @ keys.T / math.sqrt(head_dim)).softmax(dim=-1)
            out[i_q, :, i_head] = probs @ values
    return out.reshape(n_q * WINDOW_TOK, n_heads, head_dim)


def residual_layer_norm(
    x: Tensor,
    delta: Tensor | None,
    gate: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    extra: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """`x + gate * delta + extra`, and its LayerNorm times weight plus bias: (n_tok, dim) -> two (n_tok, dim) float32.

    Modulation is the case weight = 1 + scale, bias = shift; norm3 is the affine case with gate = None.
    """
    total = x.float()
    if delta is not None:
        total = total + (delta.float() if gate is None else gate.float() * delta.float())
    if extra is not None:
        total = total + extra.float()
    centred = total - total.mean(dim=-1, keepdim=True)
    normed = centred * torch.rsqrt(centred.square().mean(dim=-1, keepdim=True) + eps)
    return total, normed * weight.float() + bias.float()


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """RMS-norm over the last dimension: (n_tok, dim) -> (n_tok, dim) float32."""
    x = x.float()
    return x * torch.rsqrt(x.square().mean(dim=-1, keepdim=True) + eps) * weight.float()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """RoPE, adjacent channels as complex numbers: (n_tok, H, d) with cos, sin (n_tok, d / 2) -> float32."""
    pairs = x.float().unflatten(-1, (-1, 2))
    real, imag = pairs[..., 0], pairs[..., 1]
    cos, sin = cos[:, None].float(), sin[:, None].float()
    return torch.stack((real * cos - imag * sin, real * sin + imag * cos), dim=-1).flatten(-2)


def rms_norm_rope(x: Tensor, weight: Tensor, cos: Tensor, sin: Tensor, n_heads: int, eps: float) -> Tensor:
    """RMS-norm over the whole dim, then RoPE per head: (n_tok, dim) -> (n_tok, H, d) float32."""
    return rotate(rms_norm(x, weight, eps).unflatten(-1, (n_heads, -1)), cos, sin)


def stack_time(
    x: Tensor, front: Tensor, n_taps: int, *, stride: int = 1, border: int = 0, newest_first: bool = False
) -> Tensor:
    """`time_taps.stack_time`, clip by clip and result by result."""
    results = []
    for clip, before in zip(x, front, strict=True):
        steps = F.pad(torch.cat((before, clip)).permute(0, 3, 1, 2), (border,) * 4, mode="replicate")
        for first in range(0, len(clip), stride):
            seen = steps[first : first + n_taps]
            results.append((seen.flip(0) if newest_first else seen).flatten(0, 1))
    return torch.stack(results).permute(0, 2, 3, 1)
