"""Joins in the middle of a clip: every frame once, and no seam."""

from collections.abc import Callable
from itertools import chain
from pathlib import Path

import numpy as np
import pytest

from flashvsr_cli import Settings, Upscaler
from flashvsr_cli.model.stream import draw_noise
from flashvsr_cli.resume_point import WARM_UP_CHUNKS, ResumePoint, ShotNoise
from flashvsr_cli.schedule import plan_chunk

MINI = Path(__file__).parents[1] / "golden" / "mini"
SIZE = (32, 32)
N_FRAMES = 130
A_SECOND = 25
INVISIBLE_DB = 45.0


@pytest.fixture(scope="module", params=["tiny", "full"])
def upscaler(request: pytest.FixtureRequest) -> Upscaler:
    return Upscaler.load(str(MINI), device="cpu", dtype="float32", decoder=request.param)


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    error = ((a.astype(float) - b) ** 2).mean()
    return 10 * np.log10(255**2 / error) if error else float("inf")


def test_a_join_cannot_be_seen(upscaler: Upscaler, paint: Callable[..., np.ndarray]) -> None:
    frames = [paint(i_frame, SIZE) for i_frame in range(N_FRAMES)]
    whole = np.stack(list(upscaler.upscale(frames)))
    for n_done in (60, 101):
        rest = np.stack(list(upscaler.upscale(frames, n_done=n_done)))
        assert len(rest) == N_FRAMES - n_done
        assert psnr(rest[:A_SECOND], whole[n_done : n_done + A_SECOND]) >= INVISIBLE_DB
    for n_done in (N_FRAMES - 1, N_FRAMES, N_FRAMES + 9):
        assert len(list(upscaler.upscale(frames, n_done=n_done))) == max(0, N_FRAMES - n_done)


def test_early_joins_are_exact_and_shots_are_counted_through(paint: Callable[..., np.ndarray]) -> None:
    upscaler = Upscaler.load(str(MINI), device="cpu", dtype="float32")
    shots = [
        [255 - paint(i, SIZE) if k % 2 else paint(i + 40 * k, SIZE) for i in range(n)]
        for k, n in enumerate((24, 5, 26))
    ]
    settings = Settings(scene_cut="auto", grain=0.5, seed=4)
    whole = np.stack(list(upscaler.upscale(chain(*shots), settings=settings)))
    for n_done in (0, 20, 23, 24, 26, 29, 50, 54, 55):
        rest = list(upscaler.upscale(chain(*shots), settings=settings, n_done=n_done))
        assert len(rest) == 55 - n_done
        assert not rest or np.array_equal(np.stack(rest), whole[n_done:])


@pytest.mark.parametrize("n_done", [0, 1, 20, 21, 28, 29, 76, 77, 500])
@pytest.mark.parametrize("n_chunks", [0, 1, 3, WARM_UP_CHUNKS])
def test_where_a_stream_begins(n_done: int, n_chunks: int) -> None:
    point = ResumePoint.of(n_done, n_chunks)
    i_chunk = next(i for i in range(100) if n_done in plan_chunk(i).emit)
    assert point.first_chunk == max(0, i_chunk - n_chunks)
    # The stream's chunks end where those of the uninterrupted stream end.
    assert point.first_frame + plan_chunk(0).emit.stop == plan_chunk(point.first_chunk).emit.stop
    assert 0 <= point.n_warm_up < plan_chunk(n_chunks).emit.stop
    frames = [np.full((1, 1, 3), i % 256, np.uint8) for i in range(n_done + 3)]
    rest = point.skip(iter(frames))
    assert [id(f) for f in rest] == [id(f) for f in frames[point.first_frame :]]
    assert point.skip(iter(frames[:n_done])) is None


@pytest.mark.parametrize("first_chunk", [0, 1, 2, 3, 9])
def test_the_noise_is_that_of_the_uninterrupted_stream(first_chunk: int) -> None:
    def shape(n_latents: int) -> tuple[int, ...]:
        return (1, 16, n_latents, 2, 2)

    whole = np.concatenate(
        [draw_noise(3, i, shape(len(plan_chunk(i).latents)), i_shot=2).numpy() for i in range(16)], axis=2
    )
    noise = ShotNoise(None, 3, 2, ResumePoint(0, first_chunk))
    for i_chunk in range(4):
        chunk = plan_chunk(i_chunk)
        begin = 2 * first_chunk + chunk.latents.start
        expected = whole[:, :, begin : begin + len(chunk.latents)]
        assert np.array_equal(noise.draw(chunk, shape(len(chunk.latents))).numpy(), expected)
