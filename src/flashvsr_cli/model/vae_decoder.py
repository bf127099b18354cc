"""The full decoder: the Wan 2.1 VAE's causal decoder, one latent frame at a time.

Every causal convolution is computed as a 2-D convolution over its time taps stacked as channels: the same sums,
about three times faster than conv3d on a CPU. Its state is the last two input slices, zeros at the start.

Source: Wan2.1 VAE (wan/modules/vae.py of the Wan2.1 release); module names are the checkpoint's keys.
"""

from collections.abc import Iterator
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flashvsr_cli.model.config import VAEDecoderConfig
from flashvsr_cli.model.conv import conv_long_sums, stack_taps
from flashvsr_cli.model.lq_projection import ChannelNorm

STAGE_MULTIPLIERS = (4, 4, 4, 2, 1)
RES_BLOCKS_PER_STAGE = 3
TIME_TAPS = 3

# Channel-wise statistics of the latents; the transformer works on (z - mean) / std.
LATENT_MEAN = (
    *(-0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508),
    *(0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921),
)
LATENT_STD = (
    *(2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743),
    *(3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160),
)

VAEState = dict[nn.Module, Tensor]
"""Causal convolution -> its last two input slices (2, C, h, w); empty at the start of a stream."""


class CausalConv3d(nn.Conv3d):
    """Convolution that sees this time step and the two before it."""

    def __init__(self, in_channels: int, out_channels: int, side: int) -> None:
        super().__init__(in_channels, out_channels, (TIME_TAPS, side, side))

    def stream(self, x: Tensor, state: VAEState) -> Tensor:
        """(T, C, h, w) -> (T, C', h, w); updates `state`."""
        before = state.get(self)
        if before is None:
            before = x.new_zeros(TIME_TAPS - 1, *x.shape[1:])
        slices = torch.cat((before, x))
        state[self] = slices[1 - TIME_TAPS :].clone()
        taps = slices.unfold(0, TIME_TAPS, 1).movedim(-1, 1).flatten(1, 2)
        weight = self.weight if self.weight.ndim == 4 else stack_taps(self.weight)
        return conv_long_sums(taps, weight, self.bias, padding=self.kernel_size[-1] // 2)


class PointwiseConv3d(nn.Conv3d):
    """1x1x1 convolution on (T, C, h, w)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 1)

    def stream(self, x: Tensor) -> Tensor:
        """(T, C, h, w) -> (T, C', h, w)."""
        return F.conv2d(x, self.weight[:, :, 0], self.bias)


class ResidualBlock(nn.Module):
    """Norm, SiLU, convolution, twice, plus the input."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        # Gaps in the numbering (SiLU, dropout) are the checkpoint's.
        self.residual = nn.ModuleDict(
            {
                "0": ChannelNorm(in_channels),
                "2": CausalConv3d(in_channels, out_channels, 3),
                "3": ChannelNorm(out_channels),
                "6": CausalConv3d(out_channels, out_channels, 3),
            }
        )
        if in_channels != out_channels:
            self.shortcut = PointwiseConv3d(in_channels, out_channels)

    def stream(self, x: Tensor, state: VAEState) -> Tensor:
        """(T, C, h, w) -> (T, C', h, w)."""
        shortcut = self.shortcut.stream(x) if hasattr(self, "shortcut") else x
        for norm, conv in (("0", "2"), ("3", "6")):
            x = cast(CausalConv3d, self.residual[conv]).stream(F.silu(self.residual[norm](x)), state)
        return x + shortcut


class SpatialAttention(nn.Module):
    """Single-head attention among the pixels of each time step."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = ChannelNorm(channels, n_spatial=2)
        self.to_qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.proj = nn.Conv2d(channels, channels, 1)

    def stream(self, x: Tensor, _state: VAEState) -> Tensor:
        """(T, C, h, w) -> the same shape."""
        q, k, v = self.to_qkv(self.norm(x)).flatten(2).transpose(1, 2)[:, None].chunk(3, dim=-1)
        attended = F.scaled_dot_product_attention(q, k, v)[:, 0].transpose(1, 2).reshape(x.shape)
        return x + self.proj(attended)


class Upsample(nn.Module):
    """Twice the rows and columns, half the channels; with `in_time` also two time steps out of one."""

    def __init__(self, channels: int, *, in_time: bool) -> None:
        super().__init__()
        self.resample = nn.Sequential(
            nn.Upsample(scale_factor=2, mode="nearest-exact"),
            nn.Conv2d(channels, channels // 2, 3, padding=1),
        )
        if in_time:
            self.time_conv = CausalConv3d(channels, 2 * channels, 1)

    def stream(self, x: Tensor, state: VAEState) -> Tensor:
        """(T, C, h, w) -> (T or 2T, C/2, 2h, 2w); a stream's very first latent frame is not doubled in time."""
        if hasattr(self, "time_conv"):
            if self in state:
                x = self.time_conv.stream(x, state).unflatten(1, (2, -1)).flatten(0, 1)
            state[self] = x.new_empty(0)
        return self.resample(x)


class Decoder(nn.Module):
    """The decoder proper."""

    def __init__(self, config: VAEDecoderConfig) -> None:
        super().__init__()
        widths = [config.dim * m for m in STAGE_MULTIPLIERS]
        top = widths[0]
        self.conv1 = CausalConv3d(config.latent_channels, top, 3)
        self.middle = nn.ModuleList([ResidualBlock(top, top), SpatialAttention(top), ResidualBlock(top, top)])
        self.upsamples = nn.ModuleList()
        incoming = top
        n_stages = len(widths) - 1
        for i_stage, width in enumerate(widths[1:]):
            for _ in range(RES_BLOCKS_PER_STAGE):
                self.upsamples.append(ResidualBlock(incoming, width))
                incoming = width
            if i_stage < n_stages - 1:
                self.upsamples.append(Upsample(width, in_time=i_stage < 2))
                incoming = width // 2
        self.head = nn.ModuleDict({"0": ChannelNorm(incoming), "2": CausalConv3d(incoming, 3, 3)})

    def stream(self, x: Tensor, state: VAEState) -> Tensor:
        """One latent frame (1, C, h, w) to (1 or 4, 3, 8h, 8w)."""
        x = self.conv1.stream(x, state)
        for layer in (*self.middle, *self.upsamples):
            x = cast(ResidualBlock | SpatialAttention | Upsample, layer).stream(x, state)
        return cast(CausalConv3d, self.head["2"]).stream(F.silu(self.head["0"](x)), state)


class VAEDecoder(nn.Module):
    """Un-normalises latents and decodes them."""

    def __init__(self, config: VAEDecoderConfig) -> None:
        super().__init__()
        self.conv2 = PointwiseConv3d(config.latent_channels, config.latent_channels)
        self.decoder = Decoder(config)

    @torch.no_grad()
    def fold_constants(self) -> None:
        """Bring the causal convolutions' weights into the form they are used in, once and for all."""
        for module in self.modules():
            if isinstance(module, CausalConv3d):
                module.weight = nn.Parameter(stack_taps(module.weight), requires_grad=False)

    def decode(self, latents: Tensor, state: VAEState) -> Iterator[Tensor]:
        """Decode a chunk, one latent frame at a time; updates `state` as it goes.

        Args:
            latents: (1, C, F, h, w), the model's x0.
            state: of this stream.

        Yields:
            Per latent frame (4, 3, 8h, 8w), or (1, 3, 8h, 8w) for the first of a stream; not clamped.
        """
        mean = latents.new_tensor(LATENT_MEAN)[:, None, None]
        std = latents.new_tensor(LATENT_STD)[:, None, None]
        for latent in latents[0].transpose(0, 1):
            x = self.conv2.stream((latent * std + mean)[None])
            yield self.decoder.stream(x, state)
