"""A start for small residual decoders: the plain enlargement, sharpened.

From random weights the tiny decoder learns nothing for a long time: what is missing from a bicubic enlargement is a
few hundredths of the signal, has to come through 1/8 of the resolution, and is drowned there by plain brightness. So
some channels of every stage start as a linear path that carries the low-resolution picture's detail from the first
layer to the last, and the output starts as an unsharp mask. All other channels start at random and join in.

A path through ReLUs keeps its sign by an offset of 1, which a constant channel takes off again at the end. The
enlargement between stages (nearest, then 3x3) cannot place a value on one pixel of two exactly: its kernels have no
response at the highest frequency. The ones used here are what is left of the exact ones without it.
"""

from collections.abc import Iterator
from itertools import product
from typing import cast

import torch
from torch import Tensor, nn

from flashvsr_cli.model.config import RELEASED_GROW
from flashvsr_cli.model.tiny_decoder import CONDITION_BLOCK, MemBlock, TGrow, TinyDecoder
from flashvsr_cli.schedule import FRAMES_PER_LATENT
from flashvsr_cli.train.config import ModelConfig

SCALE = 4
COLORS = 3
NEEDED_CHANNELS = (49, 13, 7, 4)
"""Detail of 4 frames x 3 colours x 2x2 low-resolution pixels, then x 1, then 2 frames, then 1; and the constant."""
CARRIER_GAIN = 6.0
SHARPENING = 0.35
CROSS_TALK = 0.0
"""Factor on the random weights that lead into the linear path."""
PLACE = ((-0.25, 0.5, 0.25), (0.25, 0.5, -0.25))
"""Kernels (before, same, after) that put a value on the first or the second of two pixels."""
SMOOTH = (0.25, 0.5, 0.25)


def can_sharpen(decoder: TinyDecoder, config: ModelConfig) -> bool:
    """Whether the decoder predicts a residual, has the released stages, and room for the path."""
    has_room = all(have >= need for have, need in zip(config.decoder, NEEDED_CHANNELS, strict=True))
    return decoder.predicts_residual and config.decoder_grow == RELEASED_GROW and has_room


@torch.no_grad()
def start_as_sharpening(decoder: TinyDecoder) -> None:
    """Lay the path; the other weights stay as they are, and their last layer is switched off."""
    layers = decoder.decoder
    for block in layers:
        if isinstance(block, MemBlock):
            nn.init.zeros_(cast(nn.Conv2d, block.conv[-1]).weight)
    first, second = cast(nn.Conv2d, layers[1]), cast(nn.Conv2d, layers[3])
    n_carried = NEEDED_CHANNELS[0]
    assert first.bias is not None
    first.weight[:n_carried], first.bias[:n_carried] = 0, 1
    for row, (frame, color, y, x) in enumerate(_places()):
        first.weight[row] += _detail_filter(frame, color, y, x, first.in_channels) * CARRIER_GAIN
    _pass_on(second, n_carried)
    _rise(layers, 9, _first_rise())
    _rise(layers, 15, _plain_rise(n_frames=2), n_signals=6, n_before=12)
    _rise(layers, 21, _plain_rise(n_frames=1), n_signals=3, n_before=6)
    _pass_on(cast(nn.Conv2d, layers[24]), NEEDED_CHANNELS[3])
    last = cast(nn.Conv2d, layers[26])
    nn.init.zeros_(last.weight)
    for color in range(COLORS):
        last.weight[color, color, 1, 1] = SHARPENING / CARRIER_GAIN
        last.weight[color, COLORS, 1, 1] = -SHARPENING / CARRIER_GAIN


def _places() -> Iterator[tuple[int, int, int, int]]:
    """(frame, colour, row, column) of the first stage's signals in their order."""
    return product(range(FRAMES_PER_LATENT), range(COLORS), range(2), range(2))


def _detail_filter(frame: int, color: int, y: int, x: int, n_in: int) -> Tensor:
    """(n_in, 3, 3): a low-resolution pixel less the mean around it, from unshuffled blocks of 8x8 pixels."""
    side = 3 * CONDITION_BLOCK
    kernel = torch.zeros(side, side)
    weights = (0.25, 0.5, 0.25)
    for dy, dx in product(range(3), range(3)):
        top = CONDITION_BLOCK + SCALE * (y + dy - 1)
        left = CONDITION_BLOCK + SCALE * (x + dx - 1)
        share = float(dy == 1 and dx == 1) - weights[dy] * weights[dx]
        kernel[top : top + SCALE, left : left + SCALE] += share / SCALE**2
    blocks = kernel.reshape(3, CONDITION_BLOCK, 3, CONDITION_BLOCK).permute(1, 3, 0, 2).flatten(0, 1)
    begin = (color * FRAMES_PER_LATENT + frame) * CONDITION_BLOCK**2
    out = torch.zeros(n_in, 3, 3)
    out[begin : begin + CONDITION_BLOCK**2] = blocks
    return out


def _pass_on(conv: nn.Conv2d, n_carried: int) -> None:
    """Let the first channels through as they are."""
    conv.weight[:n_carried] *= CROSS_TALK
    for channel in range(n_carried):
        conv.weight[channel, :n_carried] = 0
        conv.weight[channel, channel, 1, 1] = 1


def _first_rise() -> dict[tuple[int, int], Tensor]:
    """From 1/8 to 1/4: four signals per frame and colour become the four pixels of one."""
    kernels = {}
    for row, (frame, color, y, x) in enumerate(_places()):
        kernels[frame * COLORS + color, row] = torch.outer(torch.tensor(PLACE[y]), torch.tensor(PLACE[x]))
    return kernels


def _plain_rise(n_frames: int) -> dict[tuple[int, int], Tensor]:
    """Linear interpolation of every signal by itself."""
    smooth = torch.outer(torch.tensor(SMOOTH), torch.tensor(SMOOTH))
    return {(channel, channel): smooth for channel in range(n_frames * COLORS)}


def _rise(
    layers: nn.ModuleList,
    index: int,
    kernels: dict[tuple[int, int], Tensor],
    *,
    n_signals: int = 48,
    n_before: int = 48,
) -> None:
    """Set the layers TGrow and convolution at `index` and behind it.

    Args:
        layers: of the decoder.
        index: of TGrow.
        kernels: (channel out, channel in after TGrow) -> (3, 3).
        n_signals: signals of one time step after TGrow.
        n_before: signals before it; the constant channel follows them.
    """
    grow, conv = cast(TGrow, layers[index]), cast(nn.Conv2d, layers[index + 1])
    weight = grow.conv.weight.unflatten(0, (grow.factor, -1))[..., 0, 0]
    for step in range(grow.factor):
        weight[step, : n_signals + 1] *= CROSS_TALK
        weight[step, : n_signals + 1, : n_before + 1] = 0
        for signal in range(n_signals):
            weight[step, signal, step * n_signals + signal] = 1
        weight[step, n_signals, n_before] = 1
    n_out = max(row for row, _ in kernels) + 1
    conv.weight[: n_out + 1] *= CROSS_TALK
    conv.weight[: n_out + 1, : n_signals + 1] = 0
    for (row, column), kernel in kernels.items():
        conv.weight[row, column] = kernel
    conv.weight[n_out, n_signals, 1, 1] = 1
