"""The decoder's last convolution against torch's own."""

import pytest
import torch
from torch.nn import functional as F

from flashvsr_kernels.pixel_conv import ROWS, arrange_weight, conv_to_rgb


def make_case(rng, device, dtype, shape):
    x = torch.randn(shape, generator=rng, device=device).to(dtype).contiguous(memory_format=torch.channels_last)
    weight = (torch.randn(3, shape[1], 3, 3, generator=rng, device=device) / shape[1] ** 0.5).to(dtype)
    return x, weight, torch.randn(3, generator=rng, device=device).to(dtype)


@pytest.mark.parametrize("shape", [(2, 32, ROWS + 3, 150), (1, 24, 2, 128), (3, 16, 1, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_equals_the_convolution(rng, device, dtype, shape):
    x, weight, bias = make_case(rng, device, dtype, shape)
    exact = F.conv2d(x.double(), weight.double(), bias.double(), padding=1)
    out = conv_to_rgb(x, arrange_weight(weight), bias)
    assert out.dtype == dtype
    assert out.shape == exact.shape
    tolerance = {"rtol": 1e-5, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 2**-8, "atol": 1e-5}
    torch.testing.assert_close(out.double(), exact, **tolerance)


def test_bad_arguments_are_refused(rng, device):
    x, weight, bias = make_case(rng, device, torch.float32, (1, 16, 4, 4))
    arranged = arrange_weight(weight)
    with pytest.raises(ValueError, match="channels last"):
        conv_to_rgb(x.contiguous(), arranged, bias)
    with pytest.raises(ValueError, match="does not fit"):
        conv_to_rgb(x, arranged.bfloat16(), bias)
    with pytest.raises(ValueError, match=r"\(3, C, 3, 3\)"):
        arrange_weight(weight[:2])
