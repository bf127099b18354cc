"""Presentation times that rise: what is done where a file has none, or contradicts itself.

Times that already rise pass unchanged. A missing time becomes the one before plus the frame's duration. A time
that repeats or goes back becomes a millisecond (at least a tick) after the one before, so that no frame is lost, later
frames keep their own times, and containers that count milliseconds tell them apart; such repairs are counted and
reported.
"""

import heapq
from fractions import Fraction
from math import ceil

SMALLEST_STEP_S = Fraction(1, 1000)
MAX_DECODER_THREADS = 64


class Timestamps:
    """Gives each frame of one stream, in display order, a time and a duration in ticks.

    Args:
        time_base: seconds per tick.
        frame_rate: frames per second, for frames without time or duration; None if unknown.
    """

    def __init__(self, time_base: Fraction, frame_rate: Fraction | None) -> None:
        self._usual_duration = max(1, round(1 / (frame_rate * time_base))) if frame_rate else 1
        self._smallest_step = max(1, ceil(SMALLEST_STEP_S / time_base))
        self._last: int | None = None
        self._last_duration = self._usual_duration
        self.n_repaired = 0

    def assign(self, pts: int | None, duration: int | None) -> tuple[int, int | None]:
        """The frame's time, above that of every frame before it, and its duration (None if unknown)."""
        if pts is None:
            pts = 0 if self._last is None else self._last + self._last_duration
            if self._last is not None:
                self.n_repaired += 1
        elif self._last is not None and pts <= self._last:
            pts = self._last + self._smallest_step
            self.n_repaired += 1
        self._last = pts
        self._last_duration = duration if duration else self._usual_duration
        return pts, duration or None


class DecodeTimes:
    """Presentation times for containers that store only decoding order (AVI).

    The k-th picture shown gets the k-th smallest decoding time handed in, so pictures that the container left out
    (empty chunks) keep their place and the sound stays in step.
    """

    def __init__(self) -> None:
        self._times: list[int] = []

    def put(self, dts: int | None) -> None:
        """Notes the decoding time of a packet that goes to the decoder."""
        if dts is not None:
            heapq.heappush(self._times, dts)

    def take(self) -> int | None:
        """The time of the next picture shown, or None if more pictures than packets came out."""
        return heapq.heappop(self._times) if self._times else None

    def peek(self) -> int | None:
        """The time that the next picture would get."""
        return self._times[0] if self._times else None

    def lose(self, dts: int | None) -> None:
        """Takes back the time of a packet that gave no picture, so that later pictures keep theirs."""
        if dts in self._times:
            self._times.remove(dts)
            heapq.heapify(self._times)


class LostPictures:
    """Which packets' pictures never came: damaged ones, whose place the picture before them takes.

    A packet without a picture is nothing unusual (hidden reference frames, the second field of a frame), so at most as
    many are called lost as the decoder reported errors.
    """

    def __init__(self) -> None:
        self._expected: list[int] = []
        self._n_errors = 0

    def expect(self, pts: int | None) -> None:
        """Notes the time of a packet that goes to the decoder."""
        if pts is not None:
            heapq.heappush(self._expected, pts)

    def report_error(self) -> None:
        """Notes that the decoder gave up one packet."""
        self._n_errors += 1

    def before(self, pts: int | None) -> list[int]:
        """Times of the pictures lost before the one at `pts`, which has come; all that are left if it is None."""
        passed = []
        while self._expected and (pts is None or self._expected[0] <= pts):
            passed.append(heapq.heappop(self._expected))
        # At its end a decoder with threads reports the first error and drops what the other threads had.
        n_most = self._n_errors + (MAX_DECODER_THREADS if pts is None and self._n_errors else 0)
        lost = [time for time in passed if time != pts][:n_most]
        self._n_errors = max(0, self._n_errors - len(lost))
        return lost
