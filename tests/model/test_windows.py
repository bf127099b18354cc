"""Window order and the local mask against loops that follow the definition."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flashvsr_cli.model.windows import from_window_order, local_window_mask, to_window_order, window_means

GRIDS = st.tuples(st.sampled_from([2, 4, 6]), st.sampled_from([8, 16, 24]), st.sampled_from([8, 16, 24, 32]))


def window_order_loop(n_latents: int, rows: int, columns: int) -> list[tuple[int, int, int]]:
    return [
        (2 * pair + f, 8 * row + y, 8 * column + x)
        for pair in range(n_latents // 2)
        for row in range(rows // 8)
        for column in range(columns // 8)
        for f in range(2)
        for y in range(8)
        for x in range(8)
    ]


def local_mask_loop(rows: int, columns: int, local_range: int) -> torch.Tensor:
    half = local_range // 2
    mask = torch.zeros(rows, columns, rows, columns, dtype=torch.bool)
    for r in range(rows):
        for c in range(columns):
            for r2 in range(rows):
                for c2 in range(columns):
                    near_row = r - half <= r2 <= r - half + local_range - 1
                    near_column = c - half <= c2 <= c - half + local_range - 1
                    mask[r, c, r2, c2] = near_row and near_column
    return mask.reshape(rows * columns, rows * columns)


@given(GRIDS)
def test_window_order_is_pair_row_column_then_f_y_x(grid: tuple[int, int, int]) -> None:
    positions = torch.cartesian_prod(*(torch.arange(n) for n in grid)).reshape(*grid, 3)
    ordered = to_window_order(positions)
    assert [tuple(position) for position in ordered.tolist()] == window_order_loop(*grid)


@given(GRIDS, st.lists(st.integers(1, 3), max_size=3))
def test_window_order_round_trip(grid: tuple[int, int, int], rest: list[int]) -> None:
    x = torch.arange(torch.Size((*grid, *rest)).numel()).reshape(*grid, *rest)
    ordered = to_window_order(x)
    assert ordered.shape == (grid[0] * grid[1] * grid[2], *rest)
    assert torch.equal(from_window_order(ordered, grid), x)


@pytest.mark.parametrize(
    ("rows", "columns", "local_range"),
    [
        *((5, 7, r) for r in (1, 2, 3, 4, 5, 6, 9, 11, 14, 30)),
        (7, 5, 4),
        (6, 10, 9),
        (10, 6, 9),
        (1, 13, 11),
        (13, 1, 11),
        (14, 17, 11),
    ],
)
def test_local_mask_is_the_loop(rows: int, columns: int, local_range: int) -> None:
    assert torch.equal(local_window_mask(rows, columns, local_range), local_mask_loop(rows, columns, local_range))


def test_range_11_hides_windows_on_a_large_grid() -> None:
    mask = local_window_mask(17, 30, 11).reshape(17, 30, 17, 30)
    assert mask[8, 15].sum() == 11 * 11
    assert mask[0, 0].sum() == 6 * 6
    assert mask[16, 29].sum() == 6 * 6
    assert not mask[8, 15, 8, 21]
    assert mask[8, 15, 8, 20]


def test_even_range_reaches_one_further_up_and_left() -> None:
    mask = local_window_mask(9, 9, 4).reshape(9, 9, 9, 9)
    assert mask[4, 4].nonzero().aminmax(dim=0).min.tolist() == [2, 2]
    assert mask[4, 4].nonzero().aminmax(dim=0).max.tolist() == [5, 5]


def test_grids_of_equal_area_have_masks_of_their_own() -> None:
    # The official code keyed its cache by the area, so that 6x10 then 10x6 reused the wrong mask.
    assert not torch.equal(local_window_mask(6, 10, 5), local_window_mask(10, 6, 5))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_window_means_are_computed_in_float32(dtype: torch.dtype, rng: torch.Generator) -> None:
    x = (torch.randn(3 * 128, 10, generator=rng) + 5).to(dtype)
    expected = torch.stack([x[128 * i : 128 * (i + 1)].double().mean(dim=0) for i in range(3)])
    means = window_means(x)
    assert means.dtype == torch.float32
    torch.testing.assert_close(means.double(), expected, rtol=1e-6, atol=1e-6)
