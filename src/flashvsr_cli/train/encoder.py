"""The latent encoder of small models: frames to latents, four frames a latent, at an eighth of the size.

Released models use the Wan VAE's (`wan_encoder.py`); it would be larger than everything else here together.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flashvsr_cli.model.tiny_decoder import CONDITION_BLOCK
from flashvsr_cli.schedule import FRAMES_PER_LATENT


def group_frames(frames: Tensor) -> Tensor:
    """Frames (B, 4F - 3, 3, H, W) of the start of a clip as (B, F, 4, 3, H, W): the first one four times."""
    n_missing = -frames.shape[1] % FRAMES_PER_LATENT
    frames = torch.cat((frames[:, :1].expand(-1, n_missing, -1, -1, -1), frames), dim=1)
    return frames.unflatten(1, (-1, FRAMES_PER_LATENT))


def stack_pixels(groups: Tensor) -> Tensor:
    """(B, F, 4, 3, H, W) -> (B * F, 768, H/8, W/8), channels ordered (colour, frame, row, column)."""
    batch, n_latents = groups.shape[:2]
    stacked = F.pixel_unshuffle(groups.transpose(2, 3).flatten(0, 3)[:, None], CONDITION_BLOCK)
    return stacked.reshape(batch * n_latents, -1, *stacked.shape[-2:])


class LatentEncoder(nn.Module):
    """Three convolutions; every latent pixel has unit mean square, the scale of the noise it is mixed with."""

    def __init__(self, channels: int, latent_channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3 * FRAMES_PER_LATENT * CONDITION_BLOCK**2, channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels, latent_channels, 3, padding=1),
        )

    def encode(self, frames: Tensor) -> Tensor:
        """(B, 4F - 3, 3, H, W) in [-1, 1] -> (B, C, F, H/8, W/8)."""
        groups = group_frames(frames)
        x = self.layers(stack_pixels(groups)).float()
        x = x * x.square().mean(dim=1, keepdim=True).add(1e-4).rsqrt()
        return x.unflatten(0, groups.shape[:2]).transpose(1, 2)
