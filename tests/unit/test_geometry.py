"""Exact target sizes, multiples of 128, crops that fit."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flashvsr_cli.geometry import plan_geometry, round_up

SIDES = st.integers(1, 8192)
SCALES = st.one_of(st.sampled_from([1, 1.5, 2, 3, 4]), st.floats(1, 8, allow_nan=False))


@given(SIDES, SIDES, SCALES)
def test_target_is_the_rounded_product(height: int, width: int, scale: float) -> None:
    geometry = plan_geometry((height, width), scale)
    assert geometry.source == (height, width)
    assert geometry.target == (round(height * scale), round(width * scale))


@given(SIDES, SIDES, SCALES)
def test_padded_is_the_next_multiple_of_128(height: int, width: int, scale: float) -> None:
    geometry = plan_geometry((height, width), scale)
    for target, padded, padding in zip(geometry.target, geometry.padded, geometry.padding, strict=True):
        assert padded % 128 == 0
        assert target + padding == padded
        assert 0 <= padding < 128


@given(SIDES, SIDES, SCALES)
def test_grids_cover_the_padded_picture_exactly(height: int, width: int, scale: float) -> None:
    geometry = plan_geometry((height, width), scale)
    assert tuple(16 * n for n in geometry.token_grid) == geometry.padded
    assert tuple(128 * n for n in geometry.window_grid) == geometry.padded


@given(SIDES, SIDES, SCALES)
def test_rows_and_columns_are_treated_alike(height: int, width: int, scale: float) -> None:
    one, other = plan_geometry((height, width), scale), plan_geometry((width, height), scale)
    for name in ("source", "target", "padded", "padding", "token_grid", "window_grid"):
        assert getattr(one, name) == getattr(other, name)[::-1]


@pytest.mark.parametrize(
    ("source", "scale", "target", "padded"),
    [
        ((17, 23), 1.5, (26, 34), (128, 128)),
        ((180, 320), 4, (720, 1280), (768, 1280)),
        ((480, 853), 1.5, (720, 1280), (768, 1280)),
        ((480, 853), 3, (1440, 2559), (1536, 2560)),
        ((240, 320), 4, (960, 1280), (1024, 1280)),
        ((32, 32), 4, (128, 128), (128, 128)),
        ((1, 1), 1, (1, 1), (128, 128)),
    ],
)
def test_known_sizes(source: tuple[int, int], scale: float, target: tuple[int, int], padded: tuple[int, int]) -> None:
    geometry = plan_geometry(source, scale)
    assert (geometry.target, geometry.padded) == (target, padded)


@given(st.integers(0, 10**6), st.integers(1, 1000))
def test_round_up_is_the_nearest_multiple_from_above(value: int, multiple: int) -> None:
    rounded = round_up(value, multiple)
    assert rounded % multiple == 0
    assert value <= rounded < value + multiple


@pytest.mark.parametrize("source", [(0, 5), (5, 0), (-1, 5)])
def test_an_empty_frame_is_refused(source: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="at least one pixel"):
        plan_geometry(source, 4)


@pytest.mark.parametrize("scale", [0.0, 0.01, -2.0])
def test_a_vanishing_target_is_refused(scale: float) -> None:
    with pytest.raises(ValueError, match="vanish"):
        plan_geometry((17, 23), scale)
