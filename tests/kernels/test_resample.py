"""Enlarging in integers, against the same in plain torch, which other tests compare with Pillow."""

import pytest
import torch

from flashvsr_cli.enlarge import enlarge_levels, integer_taps
from flashvsr_cli.geometry import plan_geometry
from flashvsr_kernels.resample import Taps, resample


@pytest.mark.parametrize(
    ("size", "scale"),
    [((1, 1), 4), ((2, 90), 1.5), ((17, 23), 2), ((33, 20), 2.7), ((5, 130), 4), ((40, 60), 0.5), ((128, 128), 1)],
)
def test_bytes_are_the_same(rng, device, size, scale):
    frames = torch.randint(0, 256, (2, *size, 3), generator=rng, device=device, dtype=torch.uint8)
    frames[1] = torch.where(frames[1] < 128, 0, 255)  # overshoots in both passes
    geometry = plan_geometry(size, scale)
    plain = enlarge_levels(frames.cpu(), geometry)
    assert torch.equal(enlarge_levels(frames, geometry, has_kernels=True).cpu(), plain)


def test_frames_need_not_be_contiguous(rng, device):
    frames = torch.randint(0, 256, (1, 9, 12, 3), generator=rng, device=device, dtype=torch.uint8)[:, :, ::2]
    geometry = plan_geometry((9, 6), 2)
    assert torch.equal(enlarge_levels(frames, geometry, has_kernels=True).cpu(), enlarge_levels(frames.cpu(), geometry))


def test_many_taps_are_left_to_torch(rng, device, monkeypatch):
    """A new number of taps is a new kernel, and one of a hundred taps compiles for half a minute."""
    monkeypatch.setattr("flashvsr_kernels.resample.resample", lambda *_: pytest.fail("a kernel was used"))
    frames = torch.randint(0, 256, (1, 200, 160, 3), generator=rng, device=device, dtype=torch.uint8)
    geometry = plan_geometry((200, 160), 0.1)
    assert torch.equal(enlarge_levels(frames, geometry, has_kernels=True).cpu(), enlarge_levels(frames.cpu(), geometry))


@pytest.mark.parametrize(("n_in", "n_out"), [(1, 4), (3, 7), (270, 1080), (1080, 4320), (700, 699), (640, 200)])
def test_sums_fit_32_bits(n_in, n_out):
    first, weights = integer_taps(n_in, n_out, torch.device("cpu"))
    assert first.min() >= 0
    assert int(first.max()) + len(weights) <= n_in
    assert int(weights.long().abs().sum(0).max()) * 255 + 2**21 < 2**31
    assert int((weights.long().sum(0) - 2**22).abs().max()) <= len(weights)


def test_bad_arguments_are_refused(device):
    taps = Taps(*integer_taps(4, 8, device))
    frames = torch.zeros(1, 4, 4, 3, dtype=torch.uint8, device=device)
    with pytest.raises(ValueError, match="uint8"):
        resample(frames.int(), taps, taps, (8, 8))
    with pytest.raises(ValueError, match="do not fit"):
        resample(frames, taps, taps, (8, 7))
    with pytest.raises(ValueError, match="int32"):
        resample(frames, Taps(taps.first, taps.weights.long()), taps, (8, 8))
    assert resample(frames[:0], taps, taps, (8, 8)).shape == (0, 3, 8, 8)
