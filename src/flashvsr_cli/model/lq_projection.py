"""The low-resolution projection: enlarged input frames to one set of tokens per latent frame.

Both released versions have the same tensors; they differ in what the two causal convolutions see in front of a
clip, which only the version number tells:
- v1.1 sees the last two slices of the previous clip, an ordinary causal convolution;
- v1 sees the last two slices of the *same* clip, because its cache is overwritten before it is read.

Source: FlashVSR's LQ_proj_in, released code; the version rule is pinned by tests/golden/test_mini.py.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flashvsr_cli.model.config import LowResProjectionConfig
from flashvsr_cli.model.conv import conv_long_sums, long_sum_format, stack_taps
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
    """What one stream remembers of the last two input slices of both convolutions, None at the start.

    On a GPU the slices themselves, (2, h, w, C); on a CPU what they add to the next result, (1, C', h, w).
    """

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
        self._is_folded = False

    def forward(self, frames: Frames, state: ProjectionState) -> list[Tensor]:
        """`features` through every linear layer: one tensor (n*h*w, D) in window order per layer."""
        features = self.features(frames, state)
        return [linear(features) for linear in self.linear_layers]

    def features(self, frames: Frames, state: ProjectionState) -> Tensor:
        """What the frames a chunk reads become before the linear layers; updates `state`.

        Args:
            frames: (T, 3, H, W) in [-1, 1]; T = 1 + 4n for a stream's first chunk, 4n after it. Slices of them are
                brought into the weights' dtype: on a CPU one frame at a time.
            state: of this stream.

        Returns:
            (n*h*w, C) in window order.
        """
        weight = self.conv1.weight
        mix = self._mix_at_once if weight.is_cuda else self._mix_by_clips
        n_first = len(frames) % FRAMES_PER_LATENT
        results = []
        if n_first:
            # The first clip is the first frame four times; it only fills the caches.
            first = frames[:1].to(weight.dtype)
            results.append(mix(first.expand(FRAMES_PER_LATENT, -1, -1, -1), state)[:0])
        if len(frames) > n_first:
            results.append(mix(frames, state, n_first))
        return to_window_order(torch.cat(results))

    @torch.no_grad()
    def fold_constants(self) -> None:
        """Bring the convolutions' weights into the form they are used in, once and for all."""
        for conv in (self.conv1, self.conv2):
            fold = stack_taps if conv.weight.is_cuda else _group_taps
            conv.weight = nn.Parameter(fold(conv.weight), requires_grad=False)
        self._is_folded = True

    def _mix_at_once(self, frames: Frames, state: ProjectionState, start: int = 0) -> Tensor:
        """Both convolutions on whole clips, (4n, 3, H, W) from `start` on, to (n, h, w, C); updates `state`."""
        x = F.pixel_unshuffle(frames[start:].to(self.conv1.weight.dtype), BLOCK).permute(0, 2, 3, 1).contiguous()
        x, state.conv1 = self._causal_conv(self.conv1, x, state.conv1, slices_per_clip=4)
        x = F.silu(self.norm1.normalize_last(x))
        x, state.conv2 = self._causal_conv(self.conv2, x, state.conv2, slices_per_clip=2)
        return F.silu(self.norm2.normalize_last(x))

    def _mix_by_clips(self, frames: Frames, state: ProjectionState, start: int = 0) -> Tensor:
        """The same for CPUs, which gain nothing by more than one clip at once, nor by more than one of its frames."""
        results = []
        for begin in range(start, len(frames), FRAMES_PER_LATENT):
            clip = (frames[i : i + 1].to(self.conv1.weight.dtype) for i in range(begin, begin + FRAMES_PER_LATENT))
            slices: Iterable[Tensor] = (_unshuffle_and_pad(frame) for frame in clip)
            x, state.conv1 = self._causal_conv_by_slices(self.conv1, slices, state.conv1)
            slices = F.pad(F.silu(self.norm1(x)), (1, 1, 1, 1), mode="replicate").split(1)
            x, state.conv2 = self._causal_conv_by_slices(self.conv2, slices, state.conv2)
            results.append(F.silu(self.norm2(x)).permute(0, 2, 3, 1))
        return torch.cat(results)

    def use_kernels(self) -> None:
        """Lay time steps side by side with a GPU kernel, from now on."""
        self._has_kernels = True

    def _causal_conv(
        self, conv: nn.Conv3d, x: Tensor, cached: Tensor | None, *, slices_per_clip: int
    ) -> tuple[Tensor, Tensor]:
        """Convolve (T, h, w, C) to (T/2, h, w, C'); also returns the slices to cache.

        Time slices are stacked as channels of a 2-D convolution, the same sums and a multiple faster than conv3d.
        """
        if self.version == "v1":
            clips = x.unflatten(0, (-1, slices_per_clip))
            in_front = clips[:, -CACHED_SLICES:]
        else:
            # Every clip follows the one before it, so that they are a single one.
            clips = x[None]
            in_front = (x[:1].expand(CACHED_SLICES, -1, -1, -1) if cached is None else cached)[None]
        weight = conv.weight if self._is_folded else stack_taps(conv.weight)
        stack = _stack_in_kernel if self._has_kernels else _stack
        y = conv_long_sums(stack(in_front, clips), weight, conv.bias)
        return y.permute(0, 2, 3, 1), x[-CACHED_SLICES:].clone()

    def _causal_conv_by_slices(
        self, conv: nn.Conv3d, slices: Iterable[Tensor], cached: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Convolve the slices (1, C, h + 2, w + 2) of one clip to (n, C', h, w); also returns what to cache.

        Two neighbouring slices end one result and begin the next. Each is convolved once, for both, so that slices need
        not be copied beside each other.
        """
        weights = conv.weight if self._is_folded else _group_taps(conv.weight)
        slices = iter(slices)
        pairs = [F.conv2d(one, weights[0]) + F.conv2d(two, weights[1]) for one, two in zip(slices, slices, strict=True)]
        begun, ended = zip(*(pair.chunk(2, dim=1) for pair in pairs), strict=True)
        # All slices of a stream's first clip are the same, so that what stands in front of it is also its own.
        in_front = begun[-1] if self.version == "v1" or cached is None else cached
        results = [early + late for early, late in zip((in_front, *begun), ended, strict=False)]
        x = torch.cat(results)
        if conv.bias is not None:
            x += conv.bias[:, None, None]
        return x, begun[-1].clone()


def _group_taps(weight: Tensor) -> Tensor:
    """Weights (C', C, 4, h, w) by what a slice needs: (2, 2 * C', C, h, w).

    For the first and the second of two neighbouring slices: the tap for the result that they begin, and the one for the
    result that they end.
    """
    return weight.unflatten(2, (2, 2)).permute(3, 2, 0, 1, 4, 5).flatten(1, 2).contiguous()


def _unshuffle_and_pad(frame: Tensor) -> Tensor:
    """(1, 3, H, W) to (1, 768, h + 2, w + 2): blocks of pixels as channels, the outermost blocks once more around."""
    blocks = frame.unflatten(3, (-1, BLOCK)).unflatten(2, (-1, BLOCK)).permute(0, 1, 3, 5, 2, 4)
    padded = frame.new_empty(*blocks.shape[:4], blocks.shape[4] + 2, blocks.shape[5] + 2)
    padded[..., 1:-1, 1:-1] = blocks
    padded[..., 0, :], padded[..., -1, :] = padded[..., 1, :], padded[..., -2, :]
    padded[..., 0], padded[..., -1] = padded[..., 1], padded[..., -2]
    return padded.flatten(1, 3)


# Both: in front of clips (N, 2, h, w, C) and their slices (N, S, h, w, C) to what each result sees, its taps stacked as
# channels and the border repeated: (N * S / 2, 4 * C, h + 2, w + 2).


def _stack_in_kernel(in_front: Tensor, clips: Tensor) -> Tensor:
    """In one pass over memory."""
    from flashvsr_kernels.time_taps import stack_time  # needs triton

    with torch.cuda.device_of(clips):  # Triton launches on the current device.
        stacked = stack_time(clips.contiguous(), in_front.contiguous(), KERNEL_FRAMES, stride=2, border=1)
    return stacked.permute(0, 3, 1, 2)


def _stack(in_front: Tensor, clips: Tensor) -> Tensor:
    """In plain torch."""
    slices = _replicate_border(torch.cat((in_front, clips), dim=1))
    taps = [slices[:, tap : tap + clips.shape[1] - 1 : 2] for tap in range(KERNEL_FRAMES)]
    stacked = torch.cat(taps, dim=-1).flatten(0, 1).permute(0, 3, 1, 2)
    return stacked.contiguous(memory_format=long_sum_format(stacked))


def _replicate_border(x: Tensor) -> Tensor:
    """Repeat the outermost rows and columns once: (..., h, w, C) -> (..., h + 2, w + 2, C)."""
    rows = torch.arange(-1, x.shape[-3] + 1, device=x.device).clamp(0, x.shape[-3] - 1)
    columns = torch.arange(-1, x.shape[-2] + 1, device=x.device).clamp(0, x.shape[-2] - 1)
    return x.index_select(-3, rows).index_select(-2, columns)
