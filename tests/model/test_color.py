"""Colour fixes against plain numpy in float64."""

import numpy as np
import pytest
import torch

from flashvsr_cli.color import fix_color

SIZE = (37, 50)


@pytest.fixture
def frames(rng: torch.Generator) -> torch.Tensor:
    return torch.randn(3, 3, *SIZE, generator=rng) * 0.4 + 0.2


@pytest.fixture
def reference(rng: torch.Generator) -> torch.Tensor:
    return (torch.randn(3, 3, *SIZE, generator=rng) * 0.2 - 0.3).clamp(-1, 1)


def adain(x: np.ndarray, reference: np.ndarray) -> np.ndarray:
    out = np.empty_like(x)
    for t in range(x.shape[0]):
        for c in range(3):
            mine, theirs = x[t, c], reference[t, c]
            deviation = np.sqrt(((mine - mine.mean()) ** 2).mean() + 1e-5)
            wanted = np.sqrt(((theirs - theirs.mean()) ** 2).mean() + 1e-5)
            out[t, c] = (mine - mine.mean()) / deviation * wanted + theirs.mean()
    return out.clip(-1, 1)


def low_band(channel: np.ndarray) -> np.ndarray:
    height, width = channel.shape
    for level in range(5):
        step = 2**level
        padded = np.pad(channel, step, mode="edge")
        channel = sum(
            weight * padded[dy * step : dy * step + height, dx * step : dx * step + width]
            for dy, row in enumerate([[1, 2, 1], [2, 4, 2], [1, 2, 1]])
            for dx, weight in enumerate(row)
        )
        channel = channel / 16
    return channel


def wavelet(x: np.ndarray, reference: np.ndarray) -> np.ndarray:
    out = np.empty_like(x)
    for t in range(x.shape[0]):
        for c in range(3):
            out[t, c] = x[t, c] - low_band(x[t, c]) + low_band(reference[t, c])
    return out.clip(-1, 1)


@pytest.mark.parametrize(
    ("method", "naive"), [("adain", adain), ("wavelet", wavelet), ("none", lambda x, _: x.clip(-1, 1))]
)
def test_fix_is_the_naive_one(method: str, naive, frames: torch.Tensor, reference: torch.Tensor) -> None:
    expected = naive(frames.double().numpy(), reference.double().numpy())
    actual = fix_color(method, frames, reference)
    assert np.abs(actual.double().numpy() - expected).max() < 2e-6
    assert actual.abs().max() <= 1
    assert (frames.abs() > 1).any(), "the case has nothing to clamp"


@pytest.mark.parametrize("method", ["adain", "wavelet", "none"])
def test_frames_are_fixed_one_by_one(method: str, frames: torch.Tensor, reference: torch.Tensor) -> None:
    alone = torch.cat([fix_color(method, frames[i : i + 1], reference[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(fix_color(method, frames, reference), alone, rtol=0, atol=1e-6)


@pytest.mark.parametrize("method", ["adain", "wavelet"])
def test_a_picture_smaller_than_the_filter_works(method: str, rng: torch.Generator) -> None:
    x, reference = torch.rand(2, 1, 3, 2, 3, generator=rng)
    naive = {"adain": adain, "wavelet": wavelet}[method]
    expected = naive(x.double().numpy(), reference.double().numpy())
    assert np.abs(fix_color(method, x, reference).double().numpy() - expected).max() < 1e-5


def test_flat_pictures_take_the_references_colour() -> None:
    x, reference = torch.full((1, 3, 8, 8), 0.7), torch.full((1, 3, 8, 8), -0.2)
    for method in ("adain", "wavelet"):
        torch.testing.assert_close(fix_color(method, x, reference), reference)


def test_deviation_is_the_biased_one(rng: torch.Generator) -> None:
    # Only where the variance is near the epsilon does it matter, and in small pictures.
    x, reference = 0.003 * torch.randn(1, 3, 3, 3, generator=rng), 0.5 * torch.randn(1, 3, 3, 3, generator=rng)
    expected = adain(x.double().numpy(), reference.clamp(-1, 1).double().numpy())
    actual = fix_color("adain", x, reference.clamp(-1, 1)).double().numpy()
    assert np.abs(actual - expected).max() < 1e-4
