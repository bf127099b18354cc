"""Where sound begins in containers that cannot hide what lies in front of the pictures, or know no times of sound."""

from fractions import Fraction
from math import floor
from typing import Any

import av

MUXERS_WITH_EDIT_LISTS = ("mp4", "mov", "ipod")
MUXERS_WITH_DELAYS = ("matroska", "webm")
MUXERS_WITHOUT_TIMES = ("avi",)


class SoundTimes:
    """Places the packets of one track of sound in the output.

    Muxers without edit lists move everything when a packet has a time below 0: what MP4 hides (the encoder's run-up,
    the part in front of a cut) would then be heard, and the pictures would come late. Here it is left out; the packet
    across the start is moved there if the larger part of it lies behind. Where sound has no times, it is counted from
    the first picture, as the pictures are.

    Args:
        muxer: FFmpeg's name of the container.
        stream: the output's track.
        is_new: whether the sound is encoded anew.
    """

    def __init__(self, muxer: str, stream: Any, *, is_new: bool) -> None:
        self._is_untimed = muxer in MUXERS_WITHOUT_TIMES
        self._is_hidden = muxer in MUXERS_WITH_EDIT_LISTS or (muxer in MUXERS_WITH_DELAYS and is_new)
        context = stream.codec_context
        self._stream = stream
        self._next = 0
        self._delay = Fraction(0)
        if muxer in MUXERS_WITH_DELAYS and context.sample_rate:
            self._delay = Fraction(context.delay, context.sample_rate)
        self._end: Fraction | None = None
        self.missing_s = Fraction(0)
        """Seconds without sound that the container does not state: what follows is heard so much too early."""

    def place(self, packet: av.Packet, first_picture: Fraction) -> bool:
        """Whether a packet belongs into the output, the pictures of which start at that time in seconds."""
        if self._is_hidden or packet.pts is None:
            return True
        base = Fraction(packet.time_base)
        start = first_picture if self._is_untimed else min(first_picture, Fraction(0)) - self._delay
        begin, duration = packet.pts * base, (packet.duration or 0) * base
        if begin <= start - base:
            if begin + duration / 2 < start:
                return False
            packet.pts = packet.dts = round(start / base)
            packet.duration = round((begin + duration - start) / base)
        if self._is_untimed:
            end = start if self._end is None else self._end
            self.missing_s += begin - end if begin - end > duration else 0
            self._end = begin + duration
            self._count(packet, start)
        return True

    def _count(self, packet: av.Packet, start: Fraction) -> None:
        """Gives a packet its time after `start` in ticks of the output, which may be as long as a packet."""
        base, tick = Fraction(packet.time_base), Fraction(self._stream.time_base)
        nearest = floor(((packet.pts or 0) * base - start) / tick + Fraction(1, 2))
        packet.pts = packet.dts = max(nearest, self._next)
        packet.duration, packet.time_base = round((packet.duration or 0) * base / tick), tick
        self._next = packet.pts + 1
