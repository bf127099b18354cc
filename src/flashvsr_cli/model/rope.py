"""Rotary position embedding over time, rows and columns, without a limit on any of them.

Source: Wan2.1's three-axis RoPE; its table ends at position 1024, so long videos crash there. Angles are computed
here in float64 for the positions at hand, which agrees with the table and has no end.
"""

import torch
from torch import Tensor

from flashvsr_cli.model.windows import to_window_order

THETA = 10000.0


def axis_dims(head_dim: int) -> tuple[int, int, int]:
    """Channels given to time, rows and columns; 128 -> 44, 42, 42."""
    per_space_axis = 2 * (head_dim // 6)
    return head_dim - 2 * per_space_axis, per_space_axis, per_space_axis


def axis_angles(positions: range, n_channels: int, device: torch.device | str = "cpu") -> Tensor:
    """Angles (len(positions), n_channels / 2) float64: position * THETA^(-2i / n_channels)."""
    exponents = torch.arange(0, n_channels, 2, dtype=torch.float64, device=device) / n_channels
    index = torch.arange(positions.start, positions.stop, dtype=torch.float64, device=device)
    return torch.outer(index, THETA**-exponents)


def rotary_table(latents: range, grid: tuple[int, int], head_dim: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosines and sines, each (F*h*w, head_dim / 2) float32 in window order.

    Args:
        latents: positions in time of the F latent frames, counted from the start of the stream.
        grid: (h, w) token rows and columns.
        head_dim: channels of one head.
        device: where the tables are wanted.
    """
    positions = (latents, range(grid[0]), range(grid[1]))
    # Made on the device: a copy from the host would wait for the chunk before.
    angles = [axis_angles(p, n, device) for p, n in zip(positions, axis_dims(head_dim), strict=True)]

    def expand(per_axis: list[Tensor]) -> Tensor:
        time, row, column = (table.float() for table in per_axis)
        shape = (len(latents), *grid)
        parts = (
            time[:, None, None, :].expand(*shape, -1),
            row[None, :, None, :].expand(*shape, -1),
            column[None, None, :, :].expand(*shape, -1),
        )
        return to_window_order(torch.cat(parts, dim=-1))

    return expand([table.cos() for table in angles]), expand([table.sin() for table in angles])


def rotate(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Rotate adjacent channel pairs of every head as complex numbers, computing in float32.

    Args:
        x: (n_tokens, D); D a multiple of the head dimension.
        cosine: (n_tokens, d / 2) float32.
        sine: (n_tokens, d / 2) float32.

    Returns:
        Like `x`.
    """
    n_tokens, half = cosine.shape
    pairs = x.float().reshape(n_tokens, -1, half, 2)
    real, imaginary = pairs.unbind(-1)
    cosine, sine = cosine[:, None, :], sine[:, None, :]
    rotated = torch.stack((real * cosine - imaginary * sine, real * sine + imaginary * cosine), dim=-1)
    return rotated.reshape(x.shape).to(x.dtype)
