"""Where a stream takes up a shot of which the first frames are done, so that the join does not show.

A fresh stream is started a few chunks before the first missing frame, on the input frames that belong there and with
the noise of the uninterrupted run; what it gives up to the join is thrown away. It opens like every stream with the
model's long first chunk, so the weights see nothing they were not trained on.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice

import torch
from torch import Tensor

from flashvsr_cli.errors import UsageError
from flashvsr_cli.model.stream import draw_noise
from flashvsr_cli.schedule import NEXT_CHUNK_EMITS, NEXT_CHUNK_LATENTS, Chunk, count_chunks, plan_chunk
from flashvsr_cli.video.frame import Image

NoiseSource = Callable[[int, tuple[int, ...]], Tensor]

WARM_UP_CHUNKS = 6
"""Chunks computed again before a join, the first of them 25 frames long; measured in docs/resume.md."""


class Counted:
    """An iterator that knows how many images have been taken from it."""

    def __init__(self, images: Iterable[Image]) -> None:
        self._images = iter(images)
        self.n_read = 0

    def __iter__(self) -> Iterator[Image]:
        return self

    def __next__(self) -> Image:
        image = next(self._images)
        self.n_read += 1
        return image


@dataclass(frozen=True)
class ResumePoint:
    """Where the stream for the rest of a shot begins.

    Attributes:
        n_done: output frames of the shot that exist.
        first_chunk: chunk of the uninterrupted stream that ends where this stream's first chunk ends.
    """

    n_done: int
    first_chunk: int

    @classmethod
    def of(cls, n_done: int, n_chunks: int = WARM_UP_CHUNKS) -> "ResumePoint":
        """The point for a shot of which `n_done` frames exist, after warming up on `n_chunks` chunks."""
        return cls(n_done, max(0, count_chunks(n_done + 1) - 1 - n_chunks))

    @property
    def first_frame(self) -> int:
        """Number in the shot of the first frame the stream reads."""
        return NEXT_CHUNK_EMITS * self.first_chunk

    @property
    def n_warm_up(self) -> int:
        """Output frames of the stream that exist already."""
        return self.n_done - self.first_frame

    def skip(self, frames: Iterator[Image]) -> Iterator[Image] | None:
        """The frames for the stream, or None (and all frames used up) if the shot has no frame past `n_done`."""
        for _ in islice(frames, self.first_frame):
            pass
        head = list(islice(frames, self.n_warm_up + 1))
        return chain(head, frames) if len(head) > self.n_warm_up else None


class ShotNoise:
    """The noise of a shot's chunks: from (seed, chunk) for the first shot, from (seed, chunk, shot) for others.

    Args:
        given: the caller's own noise, or None.
        seed: seeds what is drawn.
        i_shot: number of the shot.
        point: where in the shot the stream begins.
    """

    def __init__(self, given: NoiseSource | None, seed: int, i_shot: int, point: ResumePoint) -> None:
        self._given, self._seed, self._i_shot, self._point = given, seed, i_shot, point

    def draw(self, chunk: Chunk, shape: tuple[int, ...]) -> Tensor:
        """The noise (1, C, F, H/8, W/8) float32 that the uninterrupted stream has at a chunk's place.

        Raises:
            UsageError: the caller's noise has another shape.
        """
        if not chunk.is_first or not self._point.first_chunk:
            return self._of_chunk(self._point.first_chunk + chunk.index, shape)
        begin = NEXT_CHUNK_LATENTS * self._point.first_chunk
        wanted = range(begin, begin + shape[2])
        parts = []
        for i_chunk in range(self._point.first_chunk + 1):
            latents = plan_chunk(i_chunk).latents
            overlap = range(max(latents.start, wanted.start), min(latents.stop, wanted.stop))
            if overlap:
                noise = self._of_chunk(i_chunk, (*shape[:2], len(latents), *shape[3:]))
                parts.append(noise[:, :, overlap.start - latents.start : overlap.stop - latents.start])
        return torch.cat(parts, dim=2)

    def _of_chunk(self, i_chunk: int, shape: tuple[int, ...]) -> Tensor:
        if self._given is None:
            return draw_noise(self._seed, i_chunk, shape, i_shot=self._i_shot)
        noise = self._given(i_chunk, shape)
        if noise.shape != shape:
            raise UsageError(f"Noise of shape {tuple(noise.shape)} was given.", f"Give it as {shape}.")
        return noise.float()
