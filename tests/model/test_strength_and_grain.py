"""Strength and grain through the whole data path."""

from collections.abc import Callable, Iterator

import numpy as np
import torch

from flashvsr_cli import Settings, Upscaler
from flashvsr_cli.enlarge import enlarge_levels
from flashvsr_cli.geometry import plan_geometry

Clip = Callable[..., Iterator[np.ndarray]]
Load = Callable[..., Upscaler]
SMALL = (32, 30)


def run(upscaler: Upscaler, frames: list[np.ndarray], **settings: object) -> np.ndarray:
    scale = 128 // max(frames[0].shape)
    return np.stack(list(upscaler.upscale(frames, scale=scale, settings=Settings(**settings))))


def test_strength_goes_from_the_plain_enlargement_to_the_model(load_micro: Load, make_clip: Clip) -> None:
    for dtype in (np.uint8, np.uint16):
        frames = list(make_clip(24, SMALL, dtype))
        geometry = plan_geometry(SMALL, 4)
        plain = enlarge_levels(torch.from_numpy(np.stack(frames)), geometry)[..., :128, :120].permute(0, 2, 3, 1)
        none, half, full = (run(load_micro(), frames, strength=s).astype(np.int64) for s in (0, 0.5, 1))
        assert np.array_equal(full, run(load_micro(), frames))
        assert np.abs(none - plain.double().numpy()).max() <= (0 if dtype == np.uint8 else 0.51)
        assert np.abs(half - (none + full) / 2).max() <= 1
        assert np.abs(full - none).mean() > 1


def test_grain_is_the_same_every_time_and_on_top_of_the_picture(load_micro: Load, make_clip: Clip) -> None:
    frames = list(make_clip(30, (96, 96)))
    without, once, again = (run(load_micro(), frames, grain=grain) for grain in (0, 1, 1))
    assert np.array_equal(once, again)
    added = once.astype(int) - without
    assert 1 < added.std() < 20
    assert abs(added.mean()) < 1
    assert len({frame.tobytes() for frame in added}) == 30
