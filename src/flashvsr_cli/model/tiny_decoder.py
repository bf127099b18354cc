"""The tiny conditional decoder: latents and the low-resolution frames to high-resolution frames, streaming.

Source: FlashVSR, section 3.3; layers and key names follow TAEHV (tiny autoencoder for Wan), whose MemBlock sees its
own input one time step earlier. On a GPU all time steps of a call are computed together: the past is the same tensor
shifted by one, with the previous call's last step in front. On a CPU they follow one another, which takes less memory.

Between stages the layers (nearest x2, 1x1 convolution, 3x3 convolution) are linear, so they are computed as the one
transposed convolution that they amount to: the same sums with less than half of the multiplications, and nothing is
stored at the larger size but the result.
"""

import math
from collections.abc import Callable, Iterator
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flashvsr_cli.model.config import TinyDecoderConfig
from flashvsr_cli.model.conv import conv_relu, nearest_twice_as_transposed, relu
from flashvsr_cli.model.frames import Frames
from flashvsr_cli.model.host_memory import return_freed_memory
from flashvsr_cli.schedule import FRAMES_PER_LATENT

CONDITION_BLOCK = 8
DETAIL_BLOCK = 4
MOST_BLOCKS = 3
SECOND_STAGE, LAST_UPSAMPLE = 11, 20
"""Numbers of layers."""
BAND_ROWS = 32
BAND_MARGIN = 2
"""Rows at half the output's size: of a band finished at once on a CPU, and what its three convolutions see beyond."""

DecoderState = dict[int, Tensor]
"""Layer number -> that MemBlock's last input (1, C, h, w); empty at the start of a stream."""


StackPast = Callable[[Tensor, Tensor], Tensor]
"""Time steps (T, C, h, w) and the one before them (1, C, h, w) to (T, 2C, h, w), every step with the one before it."""


def _stack_past(x: Tensor, before: Tensor) -> Tensor:
    """`StackPast` in plain torch."""
    past = torch.cat((before, x[:-1])) if len(x) > 1 else before
    return torch.cat((x, past), dim=1)


def _stack_past_in_kernel(x: Tensor, before: Tensor) -> Tensor:
    """`StackPast` in one pass over memory."""
    from flashvsr_kernels.time_taps import stack_time  # needs triton

    clip, front = (steps.permute(0, 2, 3, 1).contiguous()[None] for steps in (x, before))
    with torch.cuda.device_of(x):  # Triton launches on the current device.
        return stack_time(clip, front, 2, newest_first=True).permute(0, 3, 1, 2)


class Clamp(nn.Module):
    """Soft clamp 3 * tanh(x / 3)."""

    def forward(self, x: Tensor) -> Tensor:
        """Elementwise; in place where nothing is trained."""
        return torch.tanh(x / 3) * 3 if torch.is_grad_enabled() else x.div_(3).tanh_().mul_(3)


class MemBlock(nn.Module):
    """Residual block that also sees its input of the previous time step."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(2 * channels, channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
        )
        self.stack: StackPast = _stack_past

    def forward(self, x: Tensor, before: Tensor | None) -> tuple[Tensor, Tensor]:
        """Time steps (T, C, h, w) and the step before them (1, C, h, w), zeros if None; also returns the last step."""
        if before is None:
            before = torch.zeros_like(x[:1])
        # The clone lets go of the other time steps.
        last = x[-1:].clone() if len(x) > 1 else x
        return self._convolve(self.stack(x, before), x), last

    def combine(self, x: Tensor, past: Tensor) -> Tensor:
        """Time steps and, for each, the step before it: two of (T, C, h, w) to one."""
        return self._convolve(torch.cat((x, past), dim=1), x)

    def _convolve(self, stacked: Tensor, x: Tensor) -> Tensor:
        first, _, second, _, third = (cast(nn.Conv2d, layer) for layer in self.conv)
        return conv_relu(third, conv_relu(second, conv_relu(first, stacked)), plus=x)


RunBlock = Callable[[int, MemBlock, Tensor], Tensor]
"""Runs the memory block of that layer number on time steps."""


class TGrow(nn.Module):
    """Turn every time step into `factor` steps by a 1x1 convolution; the first channels are the earliest step."""

    def __init__(self, channels: int, factor: int) -> None:
        super().__init__()
        self.factor = factor
        self.conv = nn.Conv2d(channels, factor * channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(T, C, h, w) -> (factor * T, C, h, w)."""
        return self.conv(x).unflatten(1, (self.factor, -1)).flatten(0, 1)


class TinyDecoder(nn.Module):
    """The decoder. Module names are the checkpoint's keys (`decoder.N`)."""

    def __init__(self, config: TinyDecoderConfig) -> None:
        super().__init__()
        self.predicts_residual = config.predicts_residual
        self._folded: dict[int, list[Tensor]] = {}
        self._to_rgb: Callable[[Tensor], Tensor] | None = None

        def stage(channels: int, n_blocks: int, grow: int, next_channels: int) -> Iterator[nn.Module]:
            yield from (MemBlock(channels) if i < n_blocks else nn.Identity() for i in range(MOST_BLOCKS))
            yield nn.Upsample(scale_factor=2)
            yield TGrow(channels, grow)
            yield nn.Conv2d(channels, next_channels, 3, padding=1, bias=False)

        self._last_growth = config.grow[2]
        first, second, third, last = config.channels
        self.decoder = nn.ModuleList(
            [
                Clamp(),
                nn.Conv2d(config.in_channels, first, 3, padding=1),
                nn.ReLU(),
                nn.Conv2d(first, first, 3, padding=1, bias=False),
                nn.ReLU(),
                *stage(first, config.blocks[0], config.grow[0], second),
                *stage(second, config.blocks[1], config.grow[1], third),
                *stage(third, config.blocks[2], config.grow[2], last),
                nn.ReLU(),
                nn.Conv2d(last, last, 3, padding=1, bias=False),
                nn.ReLU(),
                nn.Conv2d(last, 3, 3, padding=1),
            ]
        )

        self.detail: nn.Conv2d | None = None
        if config.has_detail:
            if config.grow[0] != FRAMES_PER_LATENT:
                raise RuntimeError("detail.weight goes with a decoder whose second stage has every frame by itself")
            self.detail = nn.Conv2d(3 * DETAIL_BLOCK**2, second, 3, padding=1)

    def decode(self, latents: Tensor, low_res: Frames, state: DecoderState) -> Iterator[Tensor]:
        """Decode a chunk, one latent frame at a time; updates `state` as it goes.

        Args:
            latents: (1, C, F, H/8, W/8), the model's x0.
            low_res: (T, 3, H, W) in [-1, 1], the low-resolution frames at the output's times; T = 4F, or 4F - 3 for
                the first chunk of a stream. Four frames at a time are brought into the latents' dtype.
            state: of this stream.

        Yields:
            Frames (n, 3, H, W), nominally in [-1, 1], not clamped: per latent frame four, or one for the first of a
            stream; on a CPU these come one by one where the decoder's second stage has every frame by itself.
        """
        n_missing = -len(low_res) % FRAMES_PER_LATENT
        n_latents = latents.shape[2]
        if len(low_res) + n_missing != FRAMES_PER_LATENT * n_latents:
            raise ValueError(f"{n_latents} latents do not go with {len(low_res)} frames")
        if not latents.is_cuda:
            return_freed_memory()
        for i_latent, latent in enumerate(latents.unbind(2)):
            end = FRAMES_PER_LATENT * (i_latent + 1) - n_missing
            begin = max(0, end - FRAMES_PER_LATENT)
            group = low_res[begin:end].to(latents.dtype)
            n_repeated = FRAMES_PER_LATENT - len(group)
            if n_repeated:
                group = torch.cat((group[:1].expand(n_repeated, -1, -1, -1), group))
            yield from filter(len, self._decode_latent(latent, group, state, n_repeated))

    def _decode_latent(
        self, latent: Tensor, condition: Tensor, state: DecoderState, n_unwanted: int
    ) -> Iterator[Tensor]:
        """latent (1, C, H/8, W/8), condition (4, 3, H, W) -> together (4 - n_unwanted, 3, H, W).

        Of the frames left out, which are the first ones, comes a tensor without frames.
        """

        def remember(index: int, block: MemBlock, x: Tensor) -> Tensor:
            x, state[index] = block(x, state.get(index))
            return x

        # What goes in has no name here, so that its memory is free once the first layer has seen it.
        x = self._run_first_stage(_stack(latent, condition), remember)
        n_groups = 1 if x.is_cuda else len(x)
        for steps, low_res in zip(x.chunk(n_groups), condition.chunk(n_groups), strict=True):
            n_skipped = min(n_unwanted, len(low_res))
            # What is remembered must not hold the other steps; detail makes a tensor of its own.
            own = steps.clone() if self.detail is None and n_groups > 1 else steps
            n_unwanted -= n_skipped
            # The frames have no name here: when the next ones are computed, only who still wants them holds them.
            yield self.finish(
                self.run_from_second_stage(self._add_detail(own, low_res), remember, n_skipped), low_res[n_skipped:]
            )

    @torch.no_grad()
    def fold_constants(self) -> None:
        """Merge the layers between stages once and for all, and drop what they were made of."""
        for index, layer in enumerate(self.decoder):
            if isinstance(layer, nn.Upsample):
                self._folded[index] = self._merge_after(index)
                self.decoder[index + 1] = self.decoder[index + 2] = nn.Identity()
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def use_kernels(self) -> None:
        """Stack time steps and make the pictures with GPU kernels from now on; after `fold_constants`."""
        from flashvsr_kernels.pixel_conv import arrange_weight, conv_to_rgb  # needs triton

        for layer in self.decoder:
            if isinstance(layer, MemBlock):
                layer.stack = _stack_past_in_kernel
        last = cast(nn.Conv2d, self.decoder[-1])
        weight, bias = arrange_weight(last.weight), cast(Tensor, last.bias)

        def to_rgb(x: Tensor) -> Tensor:
            with torch.cuda.device_of(x):  # Triton launches on the current device.
                return conv_to_rgb(x.contiguous(memory_format=torch.channels_last), weight, bias)

        self._to_rgb = to_rgb

    def _merge_after(self, index: int) -> list[Tensor]:
        """Weights of the transposed convolutions for the enlargement at `index` and the two layers behind it."""
        grow, conv = cast(TGrow, self.decoder[index + 1]), cast(nn.Conv2d, self.decoder[index + 2])
        return nearest_twice_as_transposed(grow.conv.weight, conv.weight, grow.factor)

    def run_layers(self, x: Tensor, condition: Tensor, run_block: RunBlock) -> Tensor:
        """All layers on (T, 784, h, w), giving (4T, 3, 8h, 8w).

        Args:
            x: condition and latents, stacked.
            condition: (4T, 3, 8h, 8w), the same low-resolution frames as they are.
            run_block: runs a MemBlock; how that finds its past is the caller's.
        """
        x = self._add_detail(self._run_first_stage(x, run_block), condition)
        return self.run_from_second_stage(x, run_block)

    def _run_first_stage(self, x: Tensor, run_block: RunBlock) -> Tensor:
        """What precedes the second stage: (T, 784, h, w) to (n * T, C, 2h, 2w), n the first growth."""
        decoder = self.decoder
        x = conv_relu(cast(nn.Conv2d, decoder[1]), decoder[0](x))
        x = conv_relu(cast(nn.Conv2d, decoder[3]), x)
        return self._run_stages(range(5, SECOND_STAGE), x, run_block)

    def _add_detail(self, x: Tensor, condition: Tensor) -> Tensor:
        """The second stage's input (T, C, H/4, W/4), and what the low-resolution frames (T, 3, H, W) bring to it."""
        return x if self.detail is None else x + self.detail(unshuffle_detail(condition))

    def _run_stages(self, indices: range, x: Tensor, run_block: RunBlock) -> Tensor:
        for index in indices:
            layer = self.decoder[index]
            if isinstance(layer, MemBlock):
                x = run_block(index, layer, x)
            elif isinstance(layer, nn.Upsample):
                x = _interleave(list(self._upsample(index, x)))
        return x

    def run_from_second_stage(self, x: Tensor, run_block: RunBlock, n_skipped: int = 0) -> Tensor:
        """What follows the first enlargement: (T, C, 2h, 2w) to (n * T, 3, 8h, 8w), n = 4 over the first growth.

        Args:
            x: the second stage's input.
            run_block: see `run_layers`.
            n_skipped: so many frames at the beginning are only remembered, and neither finished nor returned.
        """
        x = self._run_stages(range(SECOND_STAGE, LAST_UPSAMPLE), x, run_block)
        # From here on time steps do not mix: each is finished by itself, and only its picture is put in its place.
        grow = self._last_growth
        x, n_skipped = x[n_skipped // grow :], n_skipped % grow
        if not len(x):
            return x.new_empty(0, 3, 2 * x.shape[2], 2 * x.shape[3])
        if torch.is_grad_enabled():
            return _interleave([self._finish_step(step) for step in self._upsample(LAST_UPSAMPLE, x)])[n_skipped:]
        if x.is_cuda:
            return self._finish_pictures(x)[n_skipped:]
        picture = x.new_empty(grow * len(x), 3, 2 * x.shape[2], 2 * x.shape[3])
        for top in range(0, x.shape[2], BAND_ROWS):
            picture[:, :, 2 * top : 2 * (top + BAND_ROWS)] = _interleave(self._finish_band(x, top))
        return picture[n_skipped:]

    def _finish_pictures(self, x: Tensor) -> Tensor:
        """The last stage's (T, C, h, w) to (n * T, 3, 2h, 2w), one picture at a time.

        One fills a GPU; two would need twice the memory, and beyond 4K their layers would have 2^31 values and more.
        """
        steps = (step for one in x.split(1) for step in self._upsample(LAST_UPSAMPLE, one))
        return torch.cat([self._finish_step(step) for step in steps])

    def _finish_band(self, x: Tensor, top: int) -> list[Tensor]:
        """A band of rows of the last stage's (T, C, h, w), finished by itself: on a CPU its layers stay in the cache.

        Returns:
            Per time step that a step becomes (T, 3, 2 * rows, 2w).
        """
        begin, end = max(0, top - BAND_MARGIN), min(x.shape[2], top + BAND_ROWS + BAND_MARGIN)
        n_rows = min(BAND_ROWS, x.shape[2] - top)
        rows = slice(2 * (top - begin), 2 * (top - begin + n_rows))
        return [self._finish_step(step)[:, :, rows] for step in self._upsample(LAST_UPSAMPLE, x[:, :, begin:end])]

    def _upsample(self, index: int, x: Tensor) -> Iterator[Tensor]:
        """(T, C, h, w) -> one after the other, per time step that a step becomes, (T, C', 2h, 2w)."""
        for weight in self._folded.get(index) or self._merge_after(index):
            yield F.conv_transpose2d(x, weight, stride=2, padding=1)

    def _finish_step(self, x: Tensor) -> Tensor:
        """The layers at full resolution: (T, C, H, W) -> (T, 3, H, W)."""
        x = conv_relu(cast(nn.Conv2d, self.decoder[24]), relu(x))
        return self.decoder[26](x) if self._to_rgb is None else self._to_rgb(x)

    def finish(self, x: Tensor, condition: Tensor) -> Tensor:
        """The last layer's output as frames, given the low-resolution frames in [-1, 1] of the same times."""
        if torch.is_grad_enabled():
            return condition + x if self.predicts_residual else x * 2 - 1
        return x.add_(condition) if self.predicts_residual else x.mul_(2).sub_(1)


def _stack(latent: Tensor, condition: Tensor) -> Tensor:
    """latent (1, C, h, w), condition (4, 3, 8h, 8w) -> (1, 768 + C, h, w), channels last."""
    # (4, 3, h, 8, w, 8) -> (h, w, 3, 4, 8, 8): channels ordered (colour, frame, row, column).
    blocks = condition.unflatten(3, (-1, CONDITION_BLOCK)).unflatten(2, (-1, CONDITION_BLOCK))
    blocks = blocks.permute(2, 4, 1, 0, 3, 5)
    n_condition = math.prod(blocks.shape[2:])
    x = latent.new_empty(*latent.shape[2:], n_condition + latent.shape[1])
    x[..., :n_condition].unflatten(-1, blocks.shape[2:]).copy_(blocks)
    x[..., n_condition:] = latent[0].permute(1, 2, 0)
    return x.permute(2, 0, 1)[None]


def unshuffle_detail(frames: Tensor) -> Tensor:
    """(T, 3, H, W) to (T, 48, H/4, W/4), channels last: `pixel_unshuffle` in the layout that the convolution wants."""
    blocks = frames.unflatten(3, (-1, DETAIL_BLOCK)).unflatten(2, (-1, DETAIL_BLOCK))
    return blocks.permute(0, 2, 4, 1, 3, 5).flatten(3).permute(0, 3, 1, 2)


def _interleave(steps: list[Tensor]) -> Tensor:
    """Tensors (T, C, h, w) of the first, second, ... time step that each step became -> (factor * T, C, h, w)."""
    if len(steps) == 1:
        return steps[0]
    # With channels last: whole pictures are copied, never single pixels.
    return torch.stack([step.permute(0, 2, 3, 1) for step in steps], dim=1).flatten(0, 1).permute(0, 3, 1, 2)
