"""JPEG's losses in tensors, for whole clips on any device: colour transform, subsampling, quantised 8x8 DCT.

Source: ITU-T T.81, Annex K tables; the quality scale is libjpeg's.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

BLOCK = 8
# fmt: off
LUMINANCE = (
    16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55, 14, 13, 16, 24, 40, 57, 69, 56,
    14, 17, 22, 29, 51, 87, 80, 62, 18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92,
    49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99,
)
CHROMINANCE = (
    17, 18, 24, 47, 99, 99, 99, 99, 18, 21, 26, 66, 99, 99, 99, 99, 24, 26, 56, 99, 99, 99, 99, 99,
    47, 66, 99, 99, 99, 99, 99, 99, *(99,) * 32,
)
TO_YCC = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))
TO_RGB = ((1.0, 0.0, 1.402), (1.0, -0.344136, -0.714136), (1.0, 1.772, 0.0))
# fmt: on


def quantisation_table(base: tuple[int, ...], quality: int) -> Tensor:
    """libjpeg's table (8, 8) for a quality of 1 to 100."""
    scale = 5000 / quality if quality < 50 else 200 - 2 * quality
    return torch.tensor(base).reshape(BLOCK, BLOCK).mul(scale).add(50).div(100).floor().clamp(1, 255)


def cosine_basis(device: torch.device) -> Tensor:
    """The orthonormal DCT-II matrix (frequency, position)."""
    n = torch.arange(BLOCK, device=device, dtype=torch.float32)
    basis = torch.cos((2 * n[None] + 1) * n[:, None] * math.pi / (2 * BLOCK)) * (2 / BLOCK) ** 0.5
    basis[0] *= 0.5**0.5
    return basis


def quantise_plane(plane: Tensor, table: Tensor) -> Tensor:
    """(T, h, w) levels around 0, h and w multiples of 8, as they come back after quantisation."""
    n_frames, height, width = plane.shape
    basis = cosine_basis(plane.device)
    blocks = plane.reshape(n_frames, height // BLOCK, BLOCK, width // BLOCK, BLOCK).transpose(2, 3)
    table = table.to(plane)
    spectrum = ((basis @ blocks @ basis.T) / table).round() * table
    return (basis.T @ spectrum @ basis).transpose(2, 3).reshape(n_frames, height, width)


def compress_jpeg(clip: Tensor, quality: int, *, halve_colour: bool) -> Tensor:
    """Every frame through JPEG.

    Args:
        clip: (T, 3, h, w) float, levels 0..255.
        quality: 1 to 100.
        halve_colour: 4:2:0 instead of 4:4:4.
    """
    height, width = clip.shape[-2:]
    padded = F.pad(clip, (0, -width % (2 * BLOCK), 0, -height % (2 * BLOCK)), mode="replicate")
    planes = torch.einsum("ij,tjhw->tihw", padded.new_tensor(TO_YCC), padded)
    luma = quantise_plane(planes[:, 0] - 128, quantisation_table(LUMINANCE, quality)) + 128
    colour = planes[:, 1:]
    if halve_colour:
        colour = F.avg_pool2d(colour, 2)
    table = quantisation_table(CHROMINANCE, quality)
    colour = quantise_plane(colour.flatten(0, 1), table).unflatten(0, colour.shape[:2])
    if halve_colour:
        colour = F.interpolate(colour, scale_factor=2, mode="bilinear", align_corners=False)
    decoded = torch.einsum("ij,tjhw->tihw", padded.new_tensor(TO_RGB), torch.cat((luma[:, None], colour), dim=1))
    return decoded[..., :height, :width].round().clamp(0, 255)
