"""Convolutions as the decoder and the projection use them, fused with what follows where the device can."""

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ONE = (1, 1)
CHANNELS_PER_SUM = 256
"""What a GPU adds up in one go where float32 is asked for: 2304 products of a 3x3 convolution."""


def conv_relu(conv: nn.Conv2d, x: Tensor, plus: Tensor | None = None) -> Tensor:
    """relu(conv(x) + plus), in one pass over memory where cuDNN offers it.

    Args:
        conv: stride 1, zero-padded.
        x: (T, C, h, w); channels last is fastest.
        plus: (T, C', h, w), added before the ReLU.
    """
    is_training = torch.is_grad_enabled() and (conv.weight.requires_grad or x.requires_grad)
    if x.is_cuda and not is_training:
        padding = cast(tuple[int, int], conv.padding)
        if plus is None:
            return torch.cudnn_convolution_relu(x, conv.weight, conv.bias, ONE, padding, ONE, 1)
        return torch.cudnn_convolution_add_relu(x, conv.weight, plus, 1.0, conv.bias, ONE, padding, ONE, 1)
    y = conv(x)
    if plus is not None:
        y = y + plus if torch.is_grad_enabled() else y.add_(plus)
    return relu(y)


def relu(x: Tensor) -> Tensor:
    """ReLU; in place where nothing is trained."""
    return x.relu() if torch.is_grad_enabled() else x.relu_()


def stack_taps(weight: Tensor) -> Tensor:
    """Weights (C', C, t, h, w) of a 3-D convolution for its time taps stacked as channels: (C', t * C, h, w)."""
    return weight.transpose(1, 2).flatten(1, 2).contiguous(memory_format=long_sum_format(weight))


def conv_long_sums(x: Tensor, weight: Tensor, bias: Tensor | None, padding: int = 0) -> Tensor:
    """`F.conv2d` for thousands of channels, (T, C, h, w) -> (T, C', h', w'), with float32's digits on a GPU, too.

    There every result is one running sum, whose rounding error grows with the root of its length: to 3e-6 for the
    27,648 products of the projection (docs/performance.md). Half precision has no such digits.
    """
    if x.is_cuda and x.dtype == torch.float32:
        return conv_in_parts(x, weight, bias, padding)
    return F.conv2d(x, weight, bias, padding=padding)


def conv_in_parts(x: Tensor, weight: Tensor, bias: Tensor | None, padding: int = 0) -> Tensor:
    """The same, `CHANNELS_PER_SUM` input channels at a time."""
    parts = zip(x.split(CHANNELS_PER_SUM, dim=1), weight.split(CHANNELS_PER_SUM, dim=1), strict=True)
    first, taps = next(parts)
    y = F.conv2d(first, taps, bias, padding=padding)
    for part, taps in parts:
        y += F.conv2d(part, taps, padding=padding)
    return y


def long_sum_format(x: Tensor) -> torch.memory_format:
    """The layout for sums over tens of thousands of products: channels last on a GPU.

    On a CPU the convolution for channels last adds them up with twice the rounding error, past the golden limits.
    """
    return torch.channels_last if x.is_cuda else torch.contiguous_format


def nearest_twice_as_transposed(grow: Tensor, conv: Tensor, factor: int) -> list[Tensor]:
    """Nearest x2, a 1x1 convolution and a 3x3 convolution, all linear, as transposed convolutions.

    Those have kernel 4, stride 2 and padding 1: the same sums with less than half of the multiplications, and nothing
    is stored at the larger size but the result.

    Args:
        grow: (factor * C, C, 1, 1), the 1x1 convolution; its first C outputs are the earliest time step.
        conv: (C', C, 3, 3).
        factor: time steps that a step becomes.

    Returns:
        One weight (C, C', 4, 4) per time step, channels last.
    """
    steps = grow.float()[:, :, 0, 0].unflatten(0, (factor, -1))
    weight = torch.einsum("omyx,fmi->fioyx", conv.float(), steps)
    for dim in (3, 4):
        # Of the 3x3 neighbours of an even output pixel the first comes from the input pixel before, the other two
        # from its own; of an odd one's, two from its own and the last from the one after.
        before, same, after = weight.unbind(dim)
        weight = torch.stack((after, same + after, before + same, before), dim)
    return [step.to(conv.dtype).contiguous(memory_format=torch.channels_last) for step in weight]
