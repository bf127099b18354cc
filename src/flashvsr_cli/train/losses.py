"""The terms of the stages' losses.

Source: FlashVSR, section 3 and supplement; flow matching after Lipman et al. 2022, distribution matching
distillation after Yin et al. 2023 with its normalisation.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flashvsr_cli.compare.flow import estimate_coarse_flow, warp
from flashvsr_cli.train.random import to_device

Perceptual = Callable[[Tensor, Tensor], Tensor]
CHARBONNIER_EPS = 1e-3
GRADIENT_LEVELS = 3
LUMA_SHARES = (0.299, 0.587, 0.114)
OCCLUDED = 0.15
"""Difference behind the motion, in [-1, 1], from which a pixel counts as hidden in one of two frames."""


def mix(clean: Tensor, noise: Tensor, time: Tensor) -> Tensor:
    """The point at `time` on the straight line from data (0) to noise (1)."""
    return (1 - time) * clean + time * noise


def shift_time(uniform: Tensor, shift: float) -> Tensor:
    """Move uniform times towards noise: shift * u / (1 + (shift - 1) * u)."""
    return shift * uniform / (1 + (shift - 1) * uniform)


def flow_loss(velocity: Sequence[Tensor], clean: Sequence[Tensor], noise: Sequence[Tensor]) -> Tensor:
    """Mean squared distance to `noise - clean`, every clip with the same weight."""
    terms = [F.mse_loss(v, n - z) for v, z, n in zip(velocity, clean, noise, strict=True)]
    return torch.stack(terms).mean()


def matching_loss(predicted: Sequence[Tensor], real: Sequence[Tensor], fake: Sequence[Tensor]) -> Tensor:
    """A term whose gradient with respect to the prediction is the normalised difference of two denoised ones."""
    terms = []
    for z, real_x0, fake_x0 in zip(predicted, real, fake, strict=True):
        with torch.no_grad():
            scale = (z - real_x0).abs().mean().clamp(min=1e-3)
            target = z - (fake_x0 - real_x0) / scale
        terms.append(0.5 * F.mse_loss(z, target))
    return torch.stack(terms).mean()


def pixel_loss(kind: str, frames: Tensor, wanted: Tensor) -> Tensor:
    """Mean squared, or mean Charbonnier distance."""
    if kind == "l2":
        return F.mse_loss(frames, wanted)
    return ((frames - wanted).square() + CHARBONNIER_EPS**2).sqrt().mean()


def gradient_distance(frames: Tensor, wanted: Tensor) -> Tensor:
    """Stand-in for LPIPS that needs no weights: distance of the finite differences on three scales, (T, 3, H, W)."""
    difference = frames - wanted
    total = difference.new_zeros(())
    for _ in range(GRADIENT_LEVELS):
        total = total + difference.diff(dim=-1).abs().mean() + difference.diff(dim=-2).abs().mean()
        difference = F.avg_pool2d(difference, 2)
    return total / (2 * GRADIENT_LEVELS)


def flicker_distance(frames: Tensor, wanted: Tensor) -> Tensor:
    """How much the error changes along the motion: mean square of luma between neighbouring frames, (B, T, 3, H, W).

    What moves with the picture costs nothing here. Motion is that of what is wanted.
    """
    weights = to_device(LUMA_SHARES, wanted.device)[:, None, None]
    luma, error = ((x.float() * weights).sum(dim=2, keepdim=True) for x in (wanted, frames - wanted))
    before, after = luma[:, :-1].flatten(0, 1), luma[:, 1:].flatten(0, 1)
    with torch.no_grad(), torch.autocast(luma.device.type, enabled=False):
        flow = estimate_coarse_flow(before * 127.5 + 127.5, after * 127.5 + 127.5)
        is_seen = (warp(after, flow) - before).abs() < OCCLUDED
    change = warp(error[:, 1:].flatten(0, 1), flow) - error[:, :-1].flatten(0, 1)
    return (change.square() * is_seen).mean()


def choose_perceptual(device: torch.device) -> tuple[Perceptual, str]:
    """LPIPS if the library and the weights of its network are here, else the stand-in; and a sentence on which.

    Nothing is downloaded: the weights count as at hand when torch.hub's folder holds them.
    """
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    try:
        import lpips
    except ImportError:
        return gradient_distance, "Perceptual loss: multi-scale gradient loss, because the lpips package is missing."
    if not any(folder.glob("vgg16-*.pth")):
        return (
            gradient_distance,
            f"Perceptual loss: multi-scale gradient loss, because {folder} holds no vgg16 weights for LPIPS.",
        )
    network: nn.Module = lpips.LPIPS(net="vgg", verbose=False).to(device).requires_grad_(False).eval()
    return (lambda frames, wanted: network(frames, wanted).mean()), "Perceptual loss: LPIPS (VGG)."
