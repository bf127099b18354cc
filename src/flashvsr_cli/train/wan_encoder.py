"""The Wan 2.1 VAE's encoder: frames to the latents that released models were trained on.

Source: Wan2.1 VAE (wan/modules/vae.py of the Wan2.1 release); module names are the checkpoint's keys, pinned by the
fingerprint of all its shapes (tests/train/test_wan_encoder.py). The causal convolutions are the decoder's.
"""

from itertools import pairwise
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flashvsr_cli.model.config import StateDict
from flashvsr_cli.model.lq_projection import ChannelNorm
from flashvsr_cli.model.vae_decoder import (
    LATENT_MEAN,
    LATENT_STD,
    TIME_TAPS,
    CausalConv3d,
    PointwiseConv3d,
    ResidualBlock,
    SpatialAttention,
    VAEState,
)
from flashvsr_cli.schedule import FRAMES_PER_LATENT

STAGE_MULTIPLIERS = (1, 1, 2, 4, 4)
RES_BLOCKS_PER_STAGE = 2


class StridedTimeConv(nn.Conv3d):
    """Convolution over three time steps, every second one."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, (TIME_TAPS, 1, 1), stride=(2, 1, 1))


class Downsample(nn.Module):
    """Half the rows and columns; with `in_time` also one time step out of two."""

    def __init__(self, channels: int, *, in_time: bool) -> None:
        super().__init__()
        # The released list has the padding at index 0.
        self.resample = nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(channels, channels, 3, stride=2))
        if in_time:
            self.time_conv = StridedTimeConv(channels)

    def stream(self, x: Tensor, state: VAEState) -> Tensor:
        """(T, C, h, w) -> (T or T/2, C, h/2, w/2); a stream's very first frame is not halved in time."""
        x = self.resample(x)
        if not hasattr(self, "time_conv"):
            return x
        before = state.get(self)
        state[self] = x[-1:].clone()
        if before is None:
            return x
        slices = torch.cat((before, x)).transpose(0, 1)[None]
        return self.time_conv(slices)[0].transpose(0, 1)


class Encoder(nn.Module):
    """The encoder proper."""

    def __init__(self, dim: int, latent_channels: int) -> None:
        super().__init__()
        widths = [dim * m for m in STAGE_MULTIPLIERS]
        self.conv1 = CausalConv3d(3, widths[0], 3)
        self.downsamples = nn.ModuleList()
        n_stages = len(widths) - 1
        for i_stage, (incoming, width) in enumerate(pairwise(widths)):
            for i_block in range(RES_BLOCKS_PER_STAGE):
                self.downsamples.append(ResidualBlock(width if i_block else incoming, width))
            if i_stage < n_stages - 1:
                self.downsamples.append(Downsample(width, in_time=i_stage > 0))
        top = widths[-1]
        self.middle = nn.ModuleList([ResidualBlock(top, top), SpatialAttention(top), ResidualBlock(top, top)])
        self.head = nn.ModuleDict({"0": ChannelNorm(top), "2": CausalConv3d(top, 2 * latent_channels, 3)})

    def stream(self, x: Tensor, state: VAEState) -> Tensor:
        """(1 or 4, 3, H, W) -> (1, 2C, H/8, W/8): mean and logarithm of the variance."""
        x = self.conv1.stream(x, state)
        for layer in (*self.downsamples, *self.middle):
            x = cast(ResidualBlock | SpatialAttention | Downsample, layer).stream(x, state)
        return cast(CausalConv3d, self.head["2"]).stream(F.silu(self.head["0"](x)), state)


class WanEncoder(nn.Module):
    """Frames to normalised latents: the mean of the posterior."""

    def __init__(self, dim: int, latent_channels: int) -> None:
        super().__init__()
        self.encoder = Encoder(dim, latent_channels)
        self.conv1 = PointwiseConv3d(2 * latent_channels, 2 * latent_channels)

    @classmethod
    def of(cls, vae_state: StateDict) -> "WanEncoder":
        """From the tensors of a whole Wan VAE file."""
        state = {key: x for key, x in vae_state.items() if key.startswith(("encoder.", "conv1."))}
        encoder = cls(state["encoder.conv1.weight"].shape[0], state["conv1.weight"].shape[0] // 2)
        encoder.load_state_dict(state)
        return encoder

    def encode(self, frames: Tensor) -> Tensor:
        """(B, 4F - 3, 3, H, W) in [-1, 1] -> (B, C, F, H/8, W/8)."""
        return torch.stack([self._encode_clip(clip) for clip in frames])

    def _encode_clip(self, clip: Tensor) -> Tensor:
        state: VAEState = {}
        groups = (clip[:1], *clip[1:].split(FRAMES_PER_LATENT))
        moments = torch.cat([self.conv1.stream(self.encoder.stream(group, state)) for group in groups])
        mean = moments.chunk(2, dim=1)[0].float()
        scale = mean.new_tensor(LATENT_STD)[:, None, None]
        return ((mean - mean.new_tensor(LATENT_MEAN)[:, None, None]) / scale).transpose(0, 1)
