"""Strength and grain: exact at their ends, right in strength, and the same however a clip was cut."""

import numpy as np
import pytest
import torch

from flashvsr_cli.blend import N_KNOTS, Grain, blend, draw_plate, measure_grain

SIZE = (192, 256)
CPU = torch.device("cpu")


def scene(noise: np.ndarray | float, seed: int = 0, dtype: type = np.uint8) -> torch.Tensor:
    """(1, H, W, 3): a ramp of brightness with some edges, and grey noise of a deviation in [0, 1] over it."""
    rng = np.random.default_rng(seed)
    y, x = np.indices(SIZE)
    picture = 0.1 + 0.8 * x / SIZE[1] + 0.08 * ((y // 24) % 2)
    peak = np.iinfo(dtype).max
    noisy = picture + rng.normal(0, 1, SIZE) * (noise(picture) if callable(noise) else noise)
    return torch.from_numpy((np.clip(noisy, 0, 1) * peak).round().astype(dtype))[None, ..., None].expand(1, *SIZE, 3)


def pictures(n_frames: int, seed: int = 1) -> torch.Tensor:
    return torch.rand(n_frames, 3, *SIZE, generator=torch.Generator().manual_seed(seed)) * 1.6 - 0.8


def test_blend_is_exact_at_its_ends_and_linear_between() -> None:
    x, plain = pictures(2, 1), pictures(2, 2)
    assert torch.equal(blend(x, plain, 1), x)
    assert torch.equal(blend(x, plain, 0), plain)
    assert torch.allclose(blend(x, plain, 0.25), 0.25 * x + 0.75 * plain, atol=1e-6)


@pytest.mark.parametrize("sigma", [0.01, 0.02, 0.05])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_noise_is_measured_to_a_tenth(sigma: float, dtype: type) -> None:
    (curve,) = measure_grain(scene(sigma, dtype=dtype))
    assert curve.shape == (N_KNOTS,)
    assert curve[1:8].numpy() == pytest.approx(sigma, rel=0.2)
    assert float(curve[1:8].mean()) == pytest.approx(sigma, rel=0.1)


def test_no_noise_is_measured_as_next_to_none() -> None:
    assert float(measure_grain(scene(0.0, dtype=np.uint16)).max()) < 5e-4


def test_noise_is_measured_per_brightness() -> None:
    (curve,) = measure_grain(scene(lambda picture: 0.01 + 0.05 * (picture > 0.5)))
    assert curve[2] == pytest.approx(0.01, rel=0.3)
    assert curve[6] == pytest.approx(0.06, rel=0.2)


def test_texture_is_no_noise() -> None:
    frame = scene(0.005).clone()
    frame[:, 20:70, 30:90] = torch.from_numpy(np.random.default_rng(0).integers(0, 255, (50, 60, 1), dtype=np.uint8))
    assert float(measure_grain(frame).max()) < 0.02


@pytest.mark.parametrize("size", [(1, 1), (15, 40)])
def test_frames_too_small_to_measure_have_none(size: tuple[int, int]) -> None:
    assert torch.equal(measure_grain(torch.full((2, *size, 3), 90, dtype=torch.uint8)), torch.zeros(2, N_KNOTS))


def test_grain_is_as_strong_as_measured_and_grey() -> None:
    grain = Grain(1.0, 0, 0, CPU)
    grain.read(scene(0.03))
    flat = torch.zeros(1, 3, 200, 300)
    added = (grain.add(flat) - flat) / 2
    assert float(added.std()) == pytest.approx(0.03, rel=0.15)
    assert abs(float(added.mean())) < 1e-3
    assert torch.allclose(added[:, 0], added[:, 1], atol=1e-6)
    assert torch.allclose(added[:, 0], added[:, 2], atol=1e-6)


def test_amount_scales_it_and_zero_changes_nothing() -> None:
    flat = torch.zeros(1, 3, *SIZE)
    added = {}
    for amount in (0, 0.5, 1):
        grain = Grain(amount, 0, 0, CPU)
        grain.read(scene(0.03))
        added[amount] = grain.add(flat)
    assert added[0] is flat
    assert torch.allclose(added[1], 2 * added[0.5], atol=1e-6)


def test_grain_follows_the_brightness_of_the_output() -> None:
    grain = Grain(1.0, 0, 0, CPU)
    grain.read(scene(lambda picture: 0.01 + 0.05 * (picture > 0.5)))
    halves = torch.full((1, 3, 200, 400), -0.5)
    halves[..., 200:] = 0.5
    added = grain.add(halves) - halves
    assert float(added[..., 200:].std()) > 3 * float(added[..., :200].std())


def test_grain_stays_in_range() -> None:
    grain = Grain(1.0, 0, 0, CPU)
    grain.read(scene(0.2))
    out = grain.add(torch.ones(1, 3, *SIZE))
    assert out.max() <= 1
    assert out.min() < 1


def test_a_frames_grain_depends_on_seed_and_number_alone() -> None:
    frames = torch.cat([scene(0.02, seed) for seed in range(6)])
    x = pictures(6)

    def play(seed: int, start: int, groups: list[int]) -> torch.Tensor:
        grain, out, at = Grain(1.0, seed, start, CPU), [], start
        grain.read(frames[start:])
        for n_frames in groups:
            out.append(grain.add(x[at : at + n_frames]))
            at += n_frames
        return torch.cat(out)

    whole = play(5, 0, [6])
    assert torch.equal(play(5, 0, [1, 4, 1]), whole)
    assert torch.equal(play(5, 2, [4]), whole[2:])
    assert not torch.equal(play(6, 0, [6]), whole)
    textures = [(whole[i] - x[i]).flatten() for i in range(6)]
    correlation = np.corrcoef(torch.stack(textures).numpy())
    assert np.abs(correlation - np.eye(6)).max() < 0.1


def test_the_plate_has_unit_deviation_and_repeats() -> None:
    plate = draw_plate(0, CPU)
    assert float(plate[:1024, :1024].std()) == pytest.approx(1, rel=0.01)
    assert torch.equal(plate[1024:], plate[:256])
    assert torch.equal(plate[:, 1024:], plate[:, :256])
