"""Every frame once, in order, whatever the length."""

from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flashvsr_cli.schedule import LOOKAHEAD, Chunk, count_chunks, iter_chunks, plan_chunk

LENGTHS = st.integers(1, 20_000)
INDICES = st.integers(0, 10**9)


@given(LENGTHS)
def test_every_frame_is_emitted_once_and_in_order(n_frames: int) -> None:
    emitted = [i_frame for chunk in iter_chunks(n_frames) for i_frame in chunk.emit]
    assert emitted[:n_frames] == list(range(n_frames))
    assert emitted == list(range(len(emitted)))


@given(LENGTHS)
def test_no_chunk_is_only_surplus(n_frames: int) -> None:
    chunks = list(iter_chunks(n_frames))
    assert len(chunks) == count_chunks(n_frames)
    assert chunks[-1].emit.start < n_frames <= chunks[-1].emit.stop


@given(LENGTHS)
def test_chunks_are_those_of_the_padded_official_clip(n_frames: int) -> None:
    # model.md section 1: k = max(3, ceil((N + 3) / 8)), n = k - 2 chunks, 8k+1 frames in, 8k-3 out.
    k = max(3, -(-(n_frames + 3) // 8))
    last = list(iter_chunks(n_frames))[-1]
    assert (last.index + 1, last.read.stop, last.emit.stop) == (k - 2, 8 * k + 1, 8 * k - 3)


@given(INDICES)
def test_reads_latents_and_emits_continue_where_the_last_chunk_ended(index: int) -> None:
    before, after = plan_chunk(index), plan_chunk(index + 1)
    for name in ("read", "emit", "latents"):
        assert getattr(before, name).stop == getattr(after, name).start
    assert (before.index, after.index) == (index, index + 1)


@given(INDICES)
def test_lookahead_is_four_frames_past_the_last_emitted(index: int) -> None:
    chunk = plan_chunk(index)
    assert chunk.read.stop - chunk.emit.stop == LOOKAHEAD == 4


@given(INDICES)
def test_a_latent_stands_for_four_emitted_frames_but_the_first_for_one(index: int) -> None:
    chunk = plan_chunk(index)
    assert len(chunk.emit) == 4 * len(chunk.latents) - (3 if chunk.is_first else 0)


def test_first_row_of_the_table() -> None:
    assert plan_chunk(0) == Chunk(0, read=range(0, 25), emit=range(0, 21), latents=range(0, 6))


@given(st.integers(1, 10**9))
def test_later_rows_of_the_table(i: int) -> None:
    assert plan_chunk(i) == Chunk(
        i,
        read=range(8 * i + 17, 8 * i + 25),
        emit=range(8 * i + 13, 8 * i + 21),
        latents=range(4 + 2 * i, 6 + 2 * i),
    )


def test_only_the_first_chunk_is_first() -> None:
    assert [chunk.is_first for chunk in islice(iter_chunks(), 4)] == [True, False, False, False]


@pytest.mark.parametrize(
    ("n_frames", "n_chunks"), [(1, 1), (2, 1), (20, 1), (21, 1), (22, 2), (25, 2), (29, 2), (30, 3), (100, 11)]
)
def test_chunk_counts(n_frames: int, n_chunks: int) -> None:
    assert count_chunks(n_frames) == n_chunks


@pytest.mark.parametrize("n_frames", [0, -1])
def test_a_clip_without_frames_is_refused(n_frames: int) -> None:
    with pytest.raises(ValueError, match="at least one frame"):
        count_chunks(n_frames)


def test_chunks_of_unknown_length_have_no_end() -> None:
    assert list(islice(iter_chunks(), 5_000))[-1] == plan_chunk(4_999)
