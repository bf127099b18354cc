"""The low-resolution projection: enlarged input frames to one set of tokens per latent frame.

Both released versions have the same tensors; they differ in what the two causal convolutions see in front of a
clip, which only the version number tells:
- v1.1 sees the last two slices of the previous clip, an ordinary causal convolution;
- v1 sees the last two slices of the *same* clip, because its cache is overwritten before it is read.

Source: FlashVSR's LQ_proj_in, released code; the version rule is pinned by tests/golden/test_mini.py.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flashvsr_cli.model.config import LowResProjectionConfig
from flashvsr_cli.model.conv import long_sum_format, stack_taps
from flashvsr_cli.model.frames import Frames
from flashvsr_cli.model.windows import to_window_order
from flashvsr_cli.options import Version
from flashvsr_cli.schedule import FRAMES_PER_LATENT

BLOCK = 16
KERNEL_FRAMES = 4
CACHED_SLICES = 2
NORM_EPS = 1e-12


class ChannelNorm(nn.Module):
    """x / ||x|| * sqrt(C) * gamma over dimension 1."""

    def __init__(self, channels: int, n_spatial: int = 3) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(channels, *(1,) * n_spatial))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (N, C, h, w)."""
        return F.normalize(x, dim=1, eps=NORM_EPS) * (x.shape[1] ** 0.5 * self.gamma.reshape(-1, 1, 1))

    def normalize_last(self, x: Tensor) -> Tensor:
        """The same for channels in the last dimension, (..., C), in one pass."""
        # The epsilon counts on the mean square here; it only matters for a vector of zeros, which stays zeros.
        return F.rms_norm(x, (x.shape[-1],), self.gamma.flatten(), NORM_EPS**2)


@dataclass
class ProjectionState:
    """What one stream remembers: the last two input slices of both convolutions, (2, h, w, C), None at the start."""

    conv1: Tensor | None = None
    conv2: Tensor | None = None


class LowResProjection(nn.Module):
    """Two causal convolutions over time, each halving it, and one linear layer per fed transformer block."""

    def __init__(self, config: LowResProjectionConfig, version: Version) -> None:
        super().__init__()
        self.config = config
        self.version = version
        kernel = (KERNEL_FRAMES, 3, 3)
        self.conv1 = nn.Conv3d(config.in_channels, config.hidden1, kernel)
        self.norm1 = ChannelNorm(config.hidden1)
        self.conv2 = nn.Conv3d(config.hidden1, config.hidden2, kernel)
        self.norm2 = ChannelNorm(config.hidden2)
        self.linear_layers = nn.ModuleList(nn.Linear(config.hidden2, config.dim) for _ in range(config.n_layers))
        self._has_kernels = False

    def forward(self, frames: Frames, state: ProjectionState) -> list[Tensor]:
        """`features` through every linear layer: one tensor (n*h*w, D) in window order per layer."""
        features = self.features(frames, state)
        return [linear(features) for linear in self.linear_layers]

    def features(self, frames: Frames, state: ProjectionState) -> Tensor:
        """What the frames a chunk reads become before the linear layers; updates `state`.

        Args:
            frames: (T, 3, H, W) in [-1, 1]; T = 1 + 4n for a stream's first chunk, 4n after it. Slices of them are
                brought into the weights' dtype: on a CPU four frames at a time.
            state: of this stream.

        Returns:
            (n*h*w, C) in window order.
        """
        n_frames, weight = len(frames), self.conv1.weight
        is_first = n_frames % FRAMES_PER_LATENT == 1
        # A CPU gains nothing by more clips at once, and they would be the most memory that a small model needs.
        n_together = n_frames if weight.is_cuda else FRAMES_PER_LATENT
        results = []
        if is_first:
            # The first clip is the first frame four times; it only fills the caches.
            first = frames[:1].to(weight.dtype).expand(FRAMES_PER_LATENT, -1, -1, -1)
            results.append(self._mix(first, state))
        for start in range(int(is_first), n_frames, n_together):
            results.append(self._mix(frames[start : start + n_together].to(weight.dtype), state))
        x = torch.cat(results)
        if is_first:
            x = x[1:]
        return to_window_order(x)

    def _mix(self, frames: Tensor, state: ProjectionState) -> Tensor:
        """Both convolutions on whole clips, (4n, 3, H, W) to (n, h, w, C); updates `state`."""
        x = F.pixel_unshuffle(frames, BLOCK).permute(0, 2, 3, 1)
        del frames
        if x.is_cuda:
            x = x.contiguous()
        x, state.conv1 = self._causal_conv(self.conv1, x, state.conv1, slices_per_clip=4)
        x = F.silu(self.norm1.normalize_last(x))
        x, state.conv2 = self._causal_conv(self.conv2, x, state.conv2, slices_per_clip=2)
        return F.silu(self.norm2.normalize_last(x))

    @torch.no_grad()
    def fold_constants(self) -> None:
        """Bring the convolutions' weights into the form they are used in, once and for all."""
        for conv in (self.conv1, self.conv2):
            conv.weight = nn.Parameter(stack_taps(conv.weight), requires_grad=False)

    def use_kernels(self) -> None:
        """Lay time steps side by side with a GPU kernel, from now on."""
        self._has_kernels = True

    def _causal_conv(
        self, conv: nn.Conv3d, x: Tensor, cached: Tensor | None, *, slices_per_clip: int
    ) -> tuple[Tensor, Tensor]:
        """Convolve (T, h, w, C) to (T/2, h, w, C'); also returns the slices to cache."""
        if self.version == "v1":
            clips = x.unflatten(0, (-1, slices_per_clip))
            in_front = clips[:, -CACHED_SLICES:]
        else:
            # Every clip follows the one before it, so that they are a single one.
            clips = x[None]
            in_front = (x[:1].expand(CACHED_SLICES, -1, -1, -1) if cached is None else cached)[None]
        weight = conv.weight if conv.weight.ndim == 4 else stack_taps(conv.weight)
        plain = _convolve_at_once if x.is_cuda else _convolve_one_by_one
        convolve = _convolve_in_kernel if self._has_kernels else plain
        return convolve(in_front, clips, weight, conv.bias), x[-CACHED_SLICES:].clone()


# All: time slices stacked as channels of a 2-D convolution, the same sums and a multiple faster than conv3d;
# in_front (N, 2, h, w, C) and clips (N, S, h, w, C) to (N * S / 2, h, w, C').


def _convolve_in_kernel(in_front: Tensor, clips: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """All results in one call, stacked and padded in one pass."""
    from flashvsr_kernels.time_taps import stack_time  # needs triton

    stacked = stack_time(clips.contiguous(), in_front.contiguous(), KERNEL_FRAMES, stride=2, border=1)
    return F.conv2d(stacked.permute(0, 3, 1, 2), weight, bias).permute(0, 2, 3, 1)


def _convolve_at_once(in_front: Tensor, clips: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """All results in one call, for GPUs without the kernels."""
    slices = _replicate_border(torch.cat((in_front, clips), dim=1))
    taps = [slices[:, tap : tap + clips.shape[1] - 1 : 2] for tap in range(KERNEL_FRAMES)]
    stacked = torch.cat(taps, dim=-1).flatten(0, 1).permute(0, 3, 1, 2)
    stacked = stacked.contiguous(memory_format=long_sum_format(stacked))
    return F.conv2d(stacked, weight, bias).permute(0, 2, 3, 1)


def _convolve_one_by_one(in_front: Tensor, clips: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """One result after the other, with no more slices in memory than it needs."""
    results = []
    for cached, clip in zip(in_front, clips, strict=True):
        slices = [F.pad(x.permute(2, 0, 1), (1, 1, 1, 1), mode="replicate") for x in (*cached, *clip)]
        for first in range(0, len(clip), 2):
            stacked = torch.cat(slices[first : first + KERNEL_FRAMES])[None]
            results.append(F.conv2d(stacked, weight, bias).permute(0, 2, 3, 1))
    return torch.cat(results)


def _replicate_border(x: Tensor) -> Tensor:
    """Repeat the outermost rows and columns once: (..., h, w, C) -> (..., h + 2, w + 2, C)."""
    rows = torch.arange(-1, x.shape[-3] + 1, device=x.device).clamp(0, x.shape[-3] - 1)
    columns = torch.arange(-1, x.shape[-2] + 1, device=x.device).clamp(0, x.shape[-2] - 1)
    return x.index_select(-3, rows).index_select(-2, columns)
