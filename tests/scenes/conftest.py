"""Shots: pictures of soft random shapes, and what a camera does with them."""

from collections.abc import Callable

import numpy as np
import pytest

SIZE = (72, 96)
MARGIN = 4


def paint(seed: int, size: tuple[int, int], darkness: float = 0) -> np.ndarray:
    """(H, W, 3) float in 0 to 255: coloured ellipses on a coloured ground."""
    rng = np.random.default_rng(seed)
    y, x = np.indices(size)
    picture = np.ones((*size, 3)) * rng.uniform(30, 220, 3)
    for _ in range(25):
        center, radius = rng.uniform((0, 0), size), rng.uniform(0.05, 0.3, 2) * min(size)
        inside = ((y - center[0]) / radius[0]) ** 2 + ((x - center[1]) / radius[1]) ** 2 < 1
        picture[inside] = rng.uniform(0, 255, 3)
    return picture * (1 - darkness)


@pytest.fixture(scope="session")
def make_shot() -> Callable[..., list[np.ndarray]]:
    """`make_shot(seed, n_frames, speed=, noise=, darkness=, size=)`: a pan over a picture, `speed` pixels a frame."""

    def make(
        seed: int,
        n_frames: int,
        speed: float = 1,
        noise: float = 2,
        darkness: float = 0,
        size: tuple[int, int] = SIZE,
    ) -> list[np.ndarray]:
        rng = np.random.default_rng(seed + 1000)
        height, width = size
        wide = paint(seed, (height, width + int(speed * n_frames) + 1), darkness)
        frames = []
        for i_frame in range(n_frames):
            left = int(i_frame * speed)
            noisy = wide[:, left : left + width] + rng.normal(0, noise, (*size, 3))
            frames.append(np.clip(noisy, 0, 255).astype(np.uint8))
        return frames

    return make
