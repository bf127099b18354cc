"""The colour match to bytes, against the colour fix and the rounding in plain torch."""

import numpy as np
import pytest
import torch

from flashvsr_cli.color import ADAIN_EPS, match_mean_and_deviation
from flashvsr_cli.enlarge import to_integers, to_signed
from flashvsr_kernels.color_match import match_levels, round_levels


def plain(x, reference):
    """In float64, before rounding, (T, H, W, 3)."""
    return (match_mean_and_deviation(x.double(), to_signed(reference).double()) + 1).permute(0, 2, 3, 1) * 127.5


def frames(rng, device, dtype, size, spread=0.6):
    x = torch.randn(2, 3, *size, generator=rng, device=device) * spread + 0.1
    reference = torch.randint(0, 256, x.shape, generator=rng, device=device, dtype=torch.uint8)
    return x.to(dtype), reference


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("size", [(1, 1), (5, 7), (64, 64), (97, 130)])  # less than, exactly and more than a block
def test_equals_the_colour_fix(rng, device, dtype, size):
    x, reference = frames(rng, device, dtype, size)
    levels = match_levels(x, reference, ADAIN_EPS)
    assert levels.dtype == torch.uint8
    assert levels.shape == (2, *size, 3)
    # Rounded to nearest, whatever float32 makes of a value next to the middle.
    assert (levels.double() - plain(x, reference)).abs().max() <= 0.5 + 1e-3


def test_dark_and_even_frames_keep_their_digits(rng, device):
    """Nearly black, nearly without contrast: where a mean of squares would have cancelled."""
    x, reference = frames(rng, device, torch.float32, (97, 130), spread=1e-3)
    x = x * 0.5 - 0.96
    reference = (reference % 3).add(2)
    assert (match_levels(x, reference, ADAIN_EPS).double() - plain(x, reference)).abs().max() <= 0.5 + 1e-3


def test_cropped_views(rng, device):
    x, reference = frames(rng, device, torch.bfloat16, (40, 56))
    crop = (..., slice(33), slice(50))
    levels = match_levels(x[crop], reference[crop], ADAIN_EPS)
    assert torch.equal(levels, match_levels(x[crop].contiguous(), reference[crop].contiguous(), ADAIN_EPS))


def test_channels_last(rng, device):
    """As cuDNN leaves what a decoder with such weights makes."""
    x, reference = frames(rng, device, torch.bfloat16, (33, 50))
    turned = x.contiguous(memory_format=torch.channels_last)
    assert turned.stride(3) == 3
    assert torch.equal(match_levels(turned, reference, ADAIN_EPS), match_levels(x, reference, ADAIN_EPS))
    assert torch.equal(round_levels(turned), round_levels(x))


def test_a_frame_with_its_own_colours_stays(rng, device):
    reference = torch.randint(0, 256, (3, 3, 20, 30), generator=rng, device=device, dtype=torch.uint8)
    x = to_signed(reference)
    levels = match_levels(x, reference, ADAIN_EPS)
    assert torch.equal(levels, to_integers(x, np.dtype(np.uint8)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_colour_fix(rng, device, dtype):
    x, _ = frames(rng, device, dtype, (33, 50))
    crop = (..., slice(30), slice(47))
    expected = to_integers(x[crop].float().clamp(-1, 1), np.dtype(np.uint8))
    levels = round_levels(x[crop])
    assert levels.shape == expected.shape
    # x * 127.5 + 127.5 and (x + 1) * 127.5 can fall on either side of a half.
    assert (levels.int() - expected.int()).abs().max() <= 1
    assert (levels != expected).float().mean() < 1e-3


def test_bad_arguments_are_refused(rng, device):
    x, reference = frames(rng, device, torch.float32, (4, 6))
    with pytest.raises(ValueError, match="no reference"):
        match_levels(x, reference.float(), ADAIN_EPS)
    with pytest.raises(ValueError, match="no reference"):
        match_levels(x, reference[:1], ADAIN_EPS)
    with pytest.raises(ValueError, match="no reference"):
        match_levels(x.mT, reference.mT, ADAIN_EPS)
    with pytest.raises(ValueError, match="3, H, W"):
        round_levels(x[:, :2])
    assert round_levels(x[:0]).shape == (0, 4, 6, 3)
    assert match_levels(x[:0], reference[:0], ADAIN_EPS).shape == (0, 4, 6, 3)
