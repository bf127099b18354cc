"""A hard cut starts a fresh stream: nothing of the old shot is in the new one."""

from collections.abc import Callable
from itertools import chain
from pathlib import Path

import numpy as np
import pytest

from flashvsr_cli import Settings, Upscaler
from flashvsr_cli.model.stream import draw_noise

MINI = Path(__file__).parents[1] / "golden" / "mini"
SIZE = (32, 32)
COUNTS = (23, 9, 30)
MakeShot = Callable[..., list[np.ndarray]]


@pytest.fixture(scope="module")
def upscaler() -> Upscaler:
    return Upscaler.load(str(MINI), device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def shots(make_shot: MakeShot) -> list[list[np.ndarray]]:
    return [make_shot(seed, count, size=SIZE) for seed, count in enumerate(COUNTS)]


def test_each_shot_is_as_if_it_were_alone(upscaler: Upscaler, shots: list[list[np.ndarray]]) -> None:
    settings = Settings(seed=3, scene_cut="auto")
    out = list(upscaler.upscale(chain(*shots), settings=settings))
    assert len(out) == sum(COUNTS)
    begin = 0
    for i_shot, shot in enumerate(shots):

        def noise(i_chunk: int, shape: tuple[int, ...], i_shot: int = i_shot) -> object:
            return draw_noise(3, i_chunk, shape, i_shot=i_shot)

        alone = list(upscaler.upscale(shot, settings=Settings(), noise=noise))
        assert np.array_equal(np.stack(out[begin : begin + len(shot)]), np.stack(alone))
        begin += len(shot)


def test_the_first_shot_is_what_it_was_and_off_is_one_shot(upscaler: Upscaler, shots: list[list[np.ndarray]]) -> None:
    whole, cut = (list(upscaler.upscale(chain(*shots), settings=Settings(scene_cut=s))) for s in ("off", "auto"))
    alone = list(upscaler.upscale(shots[0]))
    assert np.array_equal(np.stack(cut[:23]), np.stack(alone))
    assert not np.array_equal(np.stack(whole[23:]), np.stack(cut[23:]))
    assert np.array_equal(np.stack(whole), np.stack(list(upscaler.upscale(chain(*shots)))))


def test_shots_have_noise_of_their_own() -> None:
    shape = (1, 16, 2, 4, 4)
    drawn = [draw_noise(0, i_chunk, shape, i_shot=i_shot) for i_chunk in range(3) for i_shot in range(3)]
    for i, one in enumerate(drawn):
        assert not any(np.allclose(one, other) for other in drawn[:i])
    assert np.array_equal(draw_noise(0, 2, shape), draw_noise(0, 2, shape, i_shot=0))
