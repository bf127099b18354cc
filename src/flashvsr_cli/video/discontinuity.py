"""Times that jump, as in recordings of broadcasts and in files joined byte by byte: what follows is joined on.

Only containers that allow it (MPEG-TS, MPEG-PS, Ogg) are treated so, and only jumps back or over more than ten seconds;
gaps that are shorter stay what they are.

MPEG's clock begins anew every 26.5 hours. FFmpeg gives what lies within a minute before that negative times, which MP4
would not show: such a file begins at 0.

Source: FFmpeg 8.1, fftools/ffmpeg_demux.c, `ts_discontinuity_detect`, with its defaults; there, all tracks change their
offset at once, so that those which jump a little later are moved twice.
"""

from fractions import Fraction
from typing import cast

import av
from av.format import Flags

LARGEST_GAP_S = 10
LARGEST_STEP_BACK_S = Fraction(1, 10)
LARGEST_LAG_S = 1
"""So far apart may tracks end before a jump, or begin behind it."""
TIMED_KINDS = ("video", "audio")
FORMATS_THAT_WRAP = ("mpegts", "mpeg")


def first_offset(container: av.container.InputContainer) -> Fraction:
    """Seconds to be added to all times so that none is below 0 because the clock begins anew soon."""
    wraps = container.format.name in FORMATS_THAT_WRAP
    return Fraction(max(0, -(container.start_time or 0)) if wraps else 0, av.time_base)


class _Track:
    """Where one track is: its offset, and when its last packet begins and ends."""

    def __init__(self, offset: Fraction, end: Fraction | None) -> None:
        self.offset = offset
        self.begin: Fraction | None = None
        self.end = end

    def jumps_at(self, time: Fraction) -> bool:
        """Whether a packet at that time would not go on where the track is."""
        is_back = self.begin is not None and time + LARGEST_STEP_BACK_S < self.begin
        return is_back or (self.end is not None and abs(time - self.end) > LARGEST_GAP_S)


class Discontinuities:
    """Moves the packets of one file behind those before a jump.

    The track that comes first behind a jump says how far; the others follow when they jump, so that sync holds, and
    what is left of them from before the jump stays where it belongs.

    Args:
        offset: seconds added to all times from the beginning.
    """

    def __init__(self, offset: Fraction = Fraction(0)) -> None:
        self._offset = offset
        self._tracks: dict[int, _Track] = {}
        self._last: Fraction | None = None
        self.n_jumps = 0

    @classmethod
    def of(cls, container: av.container.InputContainer) -> "Discontinuities | None":
        """For a container that is open; None if its format does not allow its clock to be set anew."""
        if not container.format.flags & cast(int, Flags.ts_discont.value):
            return None
        return cls(first_offset(container))

    def mend(self, packet: av.Packet) -> None:
        """Gives a packet its place."""
        base, offset = Fraction(packet.time_base), self._offset
        if packet.stream.type in TIMED_KINDS:
            track = self._tracks.setdefault(packet.stream.index, _Track(self._offset, self._last))
            if packet.dts is not None:
                self._follow(track, packet.dts * base, (packet.duration or 0) * base)
            offset = track.offset
        shift = round(offset / base)
        if packet.pts is not None:
            packet.pts += shift
        if packet.dts is not None:
            packet.dts += shift

    def _follow(self, track: _Track, stated: Fraction, duration: Fraction) -> None:
        if track.jumps_at(stated + track.offset):
            follows = track.end is not None and abs(stated + self._offset - track.end) < LARGEST_LAG_S
            if not follows and track.end is not None:
                self._offset = track.end - stated
                self.n_jumps += 1
            track.offset = self._offset
        track.begin = self._last = stated + track.offset
        track.end = track.begin + duration
