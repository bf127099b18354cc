"""Times for containers that have a frame rate and nothing else, as AVI."""

from dataclasses import replace
from fractions import Fraction

from flashvsr_cli.video.frame import Frame


class SteadyTimes:
    """Moves the times of frames to whole multiples of a frame's length.

    Args:
        time_base: seconds per tick of the frames that come in.
        rate: frames per second.

    Attributes:
        tick: seconds per tick of the frames that are given.
        n_moved: frames whose nearest place was taken.
    """

    def __init__(self, time_base: Fraction, rate: Fraction) -> None:
        self.tick = 1 / rate
        self.n_moved = 0
        self._factor = time_base * rate
        self._next: int | None = None

    def place(self, frame: Frame) -> Frame:
        """The frame at the nearest multiple, or the next one if another frame is there; None stays "the next"."""
        if frame.pts is None:
            return frame
        nearest = round(frame.pts * self._factor)
        pts = nearest if self._next is None else max(nearest, self._next)
        self.n_moved += pts > nearest
        self._next = pts + 1
        duration = frame.duration and max(1, round((frame.pts + frame.duration) * self._factor) - pts)
        return replace(frame, pts=pts, duration=duration)
