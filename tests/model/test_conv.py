"""Convolutions against float64."""

import pytest
import torch
import torch.nn.functional as F

from flashvsr_cli.model.conv import CHANNELS_PER_SUM, conv_in_parts


@pytest.mark.parametrize("channels", [3, CHANNELS_PER_SUM, 2 * CHANNELS_PER_SUM + 40])
@pytest.mark.parametrize("padding", [0, 1])
def test_parts_add_up_to_the_convolution(channels: int, padding: int) -> None:
    generator = torch.Generator().manual_seed(channels)
    x, weight, bias = (
        torch.randn(*shape, generator=generator, dtype=torch.float64)
        for shape in ((2, channels, 7, 9), (5, channels, 3, 3), (5,))
    )
    exact = F.conv2d(x, weight, bias, padding=padding)
    parts = conv_in_parts(x.float(), weight.float(), bias.float(), padding)
    assert parts.shape == exact.shape
    assert (parts - exact).norm() <= 1e-6 * exact.norm()
