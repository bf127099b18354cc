"""Times that rise, whatever a file says."""

import itertools
from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from flashvsr_cli.video.timestamps import DecodeTimes, Timestamps


def assign_all(pairs, time_base=Fraction(1, 1000), rate=Fraction(25)):
    timestamps = Timestamps(time_base, rate)
    return [timestamps.assign(*pair) for pair in pairs], timestamps.n_repaired


@given(st.sets(st.integers(-(2**40), 2**40), min_size=1))
def test_rising_times_pass_unchanged(times):
    pairs = [(t, 7) for t in sorted(times)]
    assert assign_all(pairs) == (pairs, 0)


@given(st.lists(st.tuples(st.none() | st.integers(-1000, 1000), st.none() | st.integers(0, 50)), min_size=1))
def test_any_times_become_rising_ones(pairs):
    assigned, _ = assign_all(pairs)
    assert len(assigned) == len(pairs)
    assert all(a < b for (a, _), (b, _) in itertools.pairwise(assigned))


def test_missing_times_follow_from_durations_and_rate():
    assert assign_all([(None, None)] * 3) == ([(0, None), (40, None), (80, None)], 2)
    assert assign_all([(100, 25), (None, None), (None, 10), (None, None)])[0] == [
        (100, 25),
        (125, None),
        (165, 10),
        (175, None),
    ]


def test_repeated_and_backward_times_move_by_one_tick_and_later_ones_stay():
    assert assign_all([(0, 40), (40, 40), (40, 40), (10, 40), (120, 40)]) == (
        [(0, 40), (40, 40), (41, 40), (42, 40), (120, 40)],
        2,
    )


def test_unknown_rate_counts_ticks():
    assert assign_all([(None, None)] * 3, rate=None)[0] == [(0, None), (1, None), (2, None)]


@given(st.permutations(range(20)))
def test_decoding_times_come_back_sorted(order):
    times = DecodeTimes()
    for dts in order:
        times.put(dts)
    assert [times.take() for _ in range(21)] == [*range(20), None]
