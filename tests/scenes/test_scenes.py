"""Where shots are divided, and where they are not."""

from collections.abc import Callable
from itertools import chain

import numpy as np
import pytest

from flashvsr_cli.scenes import LOOKAHEAD, make_thumbnail, split_shots

MakeShot = Callable[..., list[np.ndarray]]


def lengths(frames: list[np.ndarray]) -> list[int]:
    return [len(list(shot)) for shot in split_shots(frames)]


@pytest.mark.parametrize("counts", [(30, 20), (1, 30), (30, 1), (5, 4, 30), (2, 20), (17, 3, 17), (40,), (1,), (1, 1)])
@pytest.mark.parametrize("noise", [0, 6])
def test_cuts_are_found_to_the_frame(make_shot: MakeShot, counts: tuple[int, ...], noise: float) -> None:
    shots = [make_shot(seed, count, noise=noise) for seed, count in enumerate(counts)]
    assert lengths(list(chain(*shots))) == list(counts)


@pytest.mark.parametrize("seed", range(12))
def test_any_two_pictures(make_shot: MakeShot, seed: int) -> None:
    assert lengths(make_shot(100 + seed, 12, speed=2) + make_shot(200 + seed, 12)) == [12, 12]


@pytest.mark.parametrize(("darkness", "noise"), [(0.7, 1), (0.85, 0.5)])
def test_dark_shots(make_shot: MakeShot, darkness: float, noise: float) -> None:
    frames = make_shot(1, 20, noise=noise, darkness=darkness) + make_shot(2, 20, noise=noise, darkness=darkness)
    assert lengths(frames) == [20, 20]


@pytest.mark.parametrize(("first", "second"), [((200, 0, 0), (0, 0, 200)), ((0, 0, 0), (90, 90, 90))])
def test_plain_colours(first: tuple[int, ...], second: tuple[int, ...]) -> None:
    frames = [np.full((24, 32, 3), color, np.uint8) for color in [first] * 10 + [second] * 10]
    assert lengths(frames) == [10, 10]


@pytest.mark.parametrize("speed", [0, 3, 10, 25, 60])
def test_no_pan_is_a_cut(make_shot: MakeShot, speed: float) -> None:
    assert lengths(make_shot(3, 30, speed=speed)) == [30]


@pytest.mark.parametrize("n_frames", [6, 12, 25])
def test_no_fade_is_a_cut(make_shot: MakeShot, n_frames: int) -> None:
    one, other = make_shot(4, 60), make_shot(5, 60)
    mix = np.clip((np.arange(60) - 20) / n_frames, 0, 1)
    frames = [((1 - m) * a + m * b).astype(np.uint8) for m, a, b in zip(mix, one, other, strict=True)]
    assert lengths(frames) == [60]
    to_black = [((1 - m) * a).astype(np.uint8) for m, a in zip(mix, one, strict=True)]
    assert lengths(to_black) == [60]


@pytest.mark.parametrize("n_flash", [1, 2, 3])
def test_no_flash_is_a_cut(make_shot: MakeShot, n_flash: int) -> None:
    frames = make_shot(6, 30)
    for i_frame in range(12, 12 + n_flash):
        frames[i_frame] = np.clip(frames[i_frame].astype(int) * 2 + 90, 0, 255).astype(np.uint8)
    assert lengths(frames) == [30]


@pytest.mark.parametrize("held", [2, 3])
def test_animation_that_holds_its_drawings_is_one_shot(make_shot: MakeShot, held: int) -> None:
    drawings = make_shot(7, 12, speed=14, noise=0)
    assert lengths([drawing for drawing in drawings for _ in range(held)]) == [12 * held]


def test_a_gap_in_the_recording_is_no_cut(make_shot: MakeShot) -> None:
    frames = make_shot(8, 60, speed=1)
    assert lengths(frames[:25] + frames[35:]) == [50]


def test_noise_is_one_shot() -> None:
    assert lengths(list(np.random.default_rng(0).integers(0, 256, (40, 24, 32, 3), dtype=np.uint8))) == [40]


def test_sixteen_bits_are_cut_as_eight(make_shot: MakeShot) -> None:
    frames = make_shot(1, 10) + make_shot(2, 10)
    deep = [frame.astype(np.uint16) * 257 for frame in frames]
    assert lengths(deep) == lengths(frames) == [10, 10]
    assert np.allclose(make_thumbnail(deep[0]), make_thumbnail(frames[0]))


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (7, 5), (33, 65), (100, 31)])
def test_any_size(size: tuple[int, int]) -> None:
    frames = [np.full((*size, 3), level, np.uint8) for level in [10] * 6 + [200] * 6]
    assert lengths(frames) == [6, 6]


def test_every_frame_comes_once_and_in_order(make_shot: MakeShot) -> None:
    frames = list(chain(*(make_shot(seed, 9) for seed in range(5))))
    out = [frame for shot in split_shots(frames) for frame in shot]
    assert len(out) == len(frames)
    assert all(a is b for a, b in zip(out, frames, strict=True))


def test_reads_three_frames_ahead_and_skips_what_is_left_of_a_shot(make_shot: MakeShot) -> None:
    n_read = 0

    def count() -> object:
        nonlocal n_read
        for frame in make_shot(1, 20) + make_shot(2, 20):
            n_read += 1
            yield frame

    shots = split_shots(count())
    assert n_read == 0
    first = next(shots)
    for i_frame in range(5):
        next(first)
        assert n_read <= i_frame + 1 + LOOKAHEAD
    assert len(list(next(shots))) == 20
    assert next(shots, None) is None


def test_no_frames_no_shots() -> None:
    assert list(split_shots([])) == []
