"""Rotary embedding against complex numbers in float64, without end in time."""

import cmath

import pytest
import torch

from flashvsr_cli.model.rope import axis_dims, rotary_table, rotate

CPU = torch.device("cpu")
HEAD_DIM = 128


def rotated_as_complex(x: torch.Tensor, latents: range, grid: tuple[int, int]) -> torch.Tensor:
    """x (F, h, w, n_heads, 128) float64, rotated pair by pair; 44 channels for time, 42 for rows, 42 for columns."""
    pairs = torch.view_as_complex(x.reshape(*x.shape[:-1], HEAD_DIM // 2, 2).contiguous()).clone()
    for i_time, time in enumerate(latents):
        for row in range(grid[0]):
            for column in range(grid[1]):
                angles = [
                    position * 10000.0 ** (-2 * i / channels)
                    for position, channels in ((time, 44), (row, 42), (column, 42))
                    for i in range(channels // 2)
                ]
                factors = torch.tensor([cmath.exp(1j * angle) for angle in angles], dtype=torch.complex128)
                pairs[i_time, row, column] *= factors
    return torch.view_as_real(pairs).flatten(-2)


def window_positions(x: torch.Tensor) -> torch.Tensor:
    """(2, 8, w, ...) -> tokens in window order, one row of windows, by a loop."""
    windows = [x[:, :, start : start + 8].flatten(0, 2) for start in range(0, x.shape[2], 8)]
    return torch.cat(windows)


@pytest.mark.parametrize("first_latent", [0, 4, 1022, 1023, 20_000])
def test_rotation_is_that_of_complex_numbers(first_latent: int, rng: torch.Generator) -> None:
    latents, grid, n_heads = range(first_latent, first_latent + 2), (8, 16), 2
    x = torch.randn(2, *grid, n_heads, HEAD_DIM, generator=rng, dtype=torch.float64)
    expected = window_positions(rotated_as_complex(x, latents, grid))
    tokens = window_positions(x).flatten(1).float()
    actual = rotate(tokens, *rotary_table(latents, grid, HEAD_DIM, CPU))
    torch.testing.assert_close(actual.double().reshape(expected.shape), expected, rtol=0, atol=2e-6)


def test_angles_stay_exact_far_out() -> None:
    # 2.5 million frames in: float32 angles would be off by 0.03.
    cosine, sine = rotary_table(range(625_000, 625_002), (8, 8), HEAD_DIM, CPU)
    expected = torch.polar(torch.ones(1, dtype=torch.float64), torch.tensor([625_000.0], dtype=torch.float64))
    torch.testing.assert_close(cosine[0, 0].double(), expected.real[0], rtol=0, atol=1e-7)
    torch.testing.assert_close(sine[0, 0].double(), expected.imag[0], rtol=0, atol=1e-7)


def test_a_table_continues_where_the_last_chunk_ended() -> None:
    whole = rotary_table(range(4), (8, 8), HEAD_DIM, CPU)
    halves = [rotary_table(range(start, start + 2), (8, 8), HEAD_DIM, CPU) for start in (0, 2)]
    for i in range(2):
        assert torch.equal(whole[i], torch.cat([half[i] for half in halves]))


def test_axes_of_128_channels() -> None:
    assert axis_dims(128) == (44, 42, 42)


@pytest.mark.parametrize("head_dim", [64, 96, 128])
def test_axes_fill_the_head_with_whole_pairs(head_dim: int) -> None:
    assert sum(axis_dims(head_dim)) == head_dim
    assert all(channels % 2 == 0 for channels in axis_dims(head_dim))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_rotated_in_float32(dtype: torch.dtype, rng: torch.Generator) -> None:
    table = rotary_table(range(1000, 1002), (8, 8), HEAD_DIM, CPU)
    x = torch.randn(128, HEAD_DIM, generator=rng).to(dtype)
    assert torch.equal(rotate(x, *table), rotate(x.float(), *table).to(dtype))
