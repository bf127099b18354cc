"""Attention windows: the order of tokens inside the transformer, and which windows see each other.

Window order is (time pair, window row, window column, f, y, x) with windows of 2 x 8 x 8 = 128 tokens. Tokens
stay in this order from the patch embedding to the head, so they are permuted once in and once out per chunk.

Source: FlashVSR, section 3.2 (locality-constrained sparse attention).
"""

import torch
from torch import Tensor

WINDOW = (2, 8, 8)
TOKENS_PER_WINDOW = WINDOW[0] * WINDOW[1] * WINDOW[2]


def to_window_order(x: Tensor) -> Tensor:
    """Regroup (F, h, w, *rest) into (F*h*w, *rest) in window order; F even, h and w multiples of 8."""
    n_latents, rows, columns, *rest = x.shape
    f, y, x_side = WINDOW
    x = x.reshape(n_latents // f, f, rows // y, y, columns // x_side, x_side, *rest)
    return x.permute(0, 2, 4, 1, 3, 5, *range(6, x.ndim)).reshape(n_latents * rows * columns, *rest)


def from_window_order(x: Tensor, grid: tuple[int, int, int]) -> Tensor:
    """The inverse of `to_window_order`: (F*h*w, *rest) back to (F, h, w, *rest) for `grid` = (F, h, w)."""
    n_latents, rows, columns = grid
    f, y, x_side = WINDOW
    rest = x.shape[1:]
    x = x.reshape(n_latents // f, rows // y, columns // x_side, f, y, x_side, *rest)
    return x.permute(0, 3, 1, 4, 2, 5, *range(6, x.ndim)).reshape(n_latents, rows, columns, *rest)


def local_window_mask(rows: int, columns: int, local_range: int, device: torch.device | str = "cpu") -> Tensor:
    """Which window (column index) is visible from which (row index): (M, M) bool, M = rows * columns.

    A window at (r, c) sees (r', c') iff r - half <= r' <= r - half + local_range - 1 and the same for columns, with
    half = local_range // 2; nothing is clamped at the borders, and an even range reaches one further up and left.
    """

    def visible(count: int) -> Tensor:
        index = torch.arange(count, device=device)
        offset = index[None, :] - index[:, None] + local_range // 2
        return (offset >= 0) & (offset < local_range)

    both = visible(rows)[:, None, :, None] & visible(columns)[None, :, None, :]
    return both.reshape(rows * columns, rows * columns)


def window_means(x: Tensor) -> Tensor:
    """Mean over each window: (n_tokens, D) in window order -> (n_windows, D) float32."""
    return x.float().reshape(-1, TOKENS_PER_WINDOW, x.shape[-1]).mean(dim=1)
