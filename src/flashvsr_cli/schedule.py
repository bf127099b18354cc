"""The streaming schedule as integers: what each chunk reads, denoises and emits.

Source: FlashVSR, section 3.1, and the released pipeline's frame arithmetic. The released code asks for 8k+1
frames and emits 8k-3; here any N >= 1 works by repeating the last frame and dropping the surplus.
"""

from collections.abc import Iterator
from dataclasses import dataclass

FRAMES_PER_LATENT = 4
LATENTS_PER_PAIR = 2
FIRST_CHUNK_LATENTS = 6
NEXT_CHUNK_LATENTS = 2
FIRST_CHUNK_READS = 25
NEXT_CHUNK_READS = 8
FIRST_CHUNK_EMITS = 21
NEXT_CHUNK_EMITS = 8
LOOKAHEAD = FIRST_CHUNK_READS - FIRST_CHUNK_EMITS


@dataclass(frozen=True)
class Chunk:
    """One step of the stream. All ranges are half-open and count frames or latent frames of the whole stream.

    Attributes:
        index: 0 for the first chunk.
        read: input frames new to this chunk.
        emit: output frames of this chunk; input frames of the same numbers condition the decoder.
        latents: latent frames denoised; also their positions in time for RoPE.
    """

    index: int
    read: range
    emit: range
    latents: range

    @property
    def is_first(self) -> bool:
        """Whether the chunk opens a stream (no cache in front of it)."""
        return self.index == 0

    def split_read(self) -> list[range]:
        """The frames to read in the groups in which they are projected: 8 at a time, a stream's first one alone."""
        first_alone = [range(1)] if self.index == 0 else []
        starts = range(self.read.start + len(first_alone), self.read.stop, NEXT_CHUNK_READS)
        return first_alone + [range(start, start + NEXT_CHUNK_READS) for start in starts]


def plan_chunk(index: int) -> Chunk:
    """The chunk of that index; chunk 0 reads 25 frames and emits 21, every later one reads and emits 8."""
    if index == 0:
        return Chunk(0, range(FIRST_CHUNK_READS), range(FIRST_CHUNK_EMITS), range(FIRST_CHUNK_LATENTS))
    first_read = FIRST_CHUNK_READS + NEXT_CHUNK_READS * (index - 1)
    first_emit = FIRST_CHUNK_EMITS + NEXT_CHUNK_EMITS * (index - 1)
    first_latent = FIRST_CHUNK_LATENTS + NEXT_CHUNK_LATENTS * (index - 1)
    return Chunk(
        index,
        range(first_read, first_read + NEXT_CHUNK_READS),
        range(first_emit, first_emit + NEXT_CHUNK_EMITS),
        range(first_latent, first_latent + NEXT_CHUNK_LATENTS),
    )


def count_chunks(n_frames: int) -> int:
    """Chunks that emit at least `n_frames` frames.

    Raises:
        ValueError: if `n_frames` < 1.
    """
    if n_frames < 1:
        raise ValueError(f"a clip has at least one frame, not {n_frames}")
    surplus = max(0, n_frames - FIRST_CHUNK_EMITS)
    return 1 + -(-surplus // NEXT_CHUNK_EMITS)


def iter_chunks(n_frames: int | None = None) -> Iterator[Chunk]:
    """The chunks of a clip of `n_frames` frames, or without end if the length is not known."""
    index = 0
    while n_frames is None or index < count_chunks(n_frames):
        yield plan_chunk(index)
        index += 1
