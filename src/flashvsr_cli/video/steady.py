"""Times for containers and encoders that have a frame rate and nothing else, as AVI, or that count coarsely."""

from dataclasses import replace
from fractions import Fraction

from flashvsr_cli.video.frame import Frame
from flashvsr_cli.video.info import SourceInfo

MUXERS_OF_ONE_RATE = ("avi",)
CODECS_OF_ONE_RATE = ("mpeg1video", "mpeg2video")
USUAL_RATES = (*(Fraction(n) for n in (24, 25, 30, 50, 60)), *(Fraction(n, 1001) for n in (24000, 30000, 60000)))
# MPEG-4 counts in at most so many ticks a second.
MOST_TICKS = {"mpeg4": 65535}


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


def find_grid(muxer: str, codec: str, info: SourceInfo) -> SteadyTimes | None:
    """Where the frames of a source go in a container or encoder that does not know all of its times.

    Whole frames where there is nothing else (in ticks of the source AVI would claim a huge rate), a fine grid where an
    encoder counts coarsely; None where the source's times can stay, or where it has no one rate.
    """
    rate, most = info.steady_rate, MOST_TICKS.get(codec)
    if rate and (muxer in MUXERS_OF_ONE_RATE or codec in CODECS_OF_ONE_RATE):
        return SteadyTimes(info.time_base, rate)
    if most is None or info.time_base.denominator <= most:
        return None
    per_frame = most // rate.numerator if rate else 0
    return SteadyTimes(info.time_base, rate * per_frame if rate and per_frame else Fraction(most))
