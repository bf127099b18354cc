"""A stretch of a clip, cut by presentation time.

Times count in seconds from the first frame. A frame belongs to the stretch if it begins in [start, end); the last one
is shortened to end there. Everything is shifted by `start`, so that it plays from where the clip began.

Copied sound is cut between packets: a packet belongs if it begins in the stretch, so sound starts at most one packet
late (21 ms for AAC at 48 kHz) and ends at most one packet after the pictures. Subtitles that are on show at the start
are shown from there.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from math import ceil
from typing import TYPE_CHECKING, cast

from flashvsr_cli.errors import InputError
from flashvsr_cli.options import InputOptions
from flashvsr_cli.video.frame import Frame

if TYPE_CHECKING:
    from av.container.core import Chapter  # a name of PyAV's type stubs only


def is_cut(options: InputOptions) -> bool:
    """Whether options ask for less than the whole clip."""
    return options.start is not None or options.end is not None or options.max_frames is not None


@dataclass(frozen=True)
class Cut:
    """The stretch wanted, in ticks of one stream.

    Attributes:
        start: first tick of the stretch; None where nothing is cut off in front.
        end: first tick after it; None is the clip's end.
        max_frames: frames at most.
        shift: what is taken off every time.
    """

    start: int | None = None
    end: int | None = None
    max_frames: int | None = None
    shift: int = 0

    @classmethod
    def of(cls, options: InputOptions, first: int, time_base: Fraction) -> "Cut":
        """The stretch that options ask for, of a clip whose first frame is at `first`."""
        start = (options.start or Fraction(0)) / time_base
        end = None if options.end is None else first + ceil(options.end / time_base)
        shift = round(start)
        return cls(first + ceil(start) if start else None, end, options.max_frames, shift)

    @property
    def is_whole(self) -> bool:
        """Whether nothing is cut off."""
        return not self.shift and self.end is None and self.max_frames is None

    def begins_after(self, pts: int) -> bool:
        """Whether a frame of that time lies in front of the stretch."""
        return self.start is not None and pts < self.start

    def ends_before(self, pts: int, n_frames: int) -> bool:
        """Whether the stretch is over at a frame of that time, after so many frames of it."""
        return (self.end is not None and pts >= self.end) or n_frames == self.max_frames

    def cut_chapters(self, chapters: list["Chapter"], time_base: Fraction) -> list["Chapter"]:
        """The chapters that overlap the stretch, with their new times; `time_base` is that of the ticks."""
        if self.is_whole:
            return chapters
        kept: list[Chapter] = []
        low = 0 if self.start is None else self.start * time_base
        high = None if self.end is None else self.end * time_base
        for chapter in chapters:
            base = chapter["time_base"]
            if base is None:
                continue
            start, end = max(chapter["start"] * base, low), chapter["end"] * base
            end = end if high is None else min(end, high)
            if start < end:
                off = self.shift * time_base
                times = {"start": round((start - off) / base), "end": round((end - off) / base)}
                kept.append(cast("Chapter", {**chapter, **times}))
        return kept

    def clip(self, pts: int, duration: int | None) -> int | None:
        """The duration, shortened to the stretch's end."""
        if self.end is None:
            return duration
        rest = self.end - pts
        return rest if duration is None else min(duration, rest)


def cut_frames(frames: Iterable[Frame], options: InputOptions, time_base: Fraction, name: str) -> Iterator[Frame]:
    """The frames of the stretch that options ask for, with their new times; reads no further than its end.

    Raises:
        InputError: if the clip ends before the stretch begins.
    """
    if not is_cut(options):
        yield from frames
        return
    cut: Cut | None = None
    n_frames = 0
    for frame in frames:
        pts = frame.pts or 0
        cut = cut or Cut.of(options, pts, time_base)
        if cut.begins_after(pts):
            continue
        if cut.ends_before(pts, n_frames):
            break
        yield replace(frame, pts=pts - cut.shift, duration=cut.clip(pts, frame.duration))
        n_frames += 1
        if n_frames == cut.max_frames:
            break
    if not n_frames:
        raise nothing_left(name, options)


def nothing_left(name: str, options: InputOptions) -> InputError:
    """The error for a clip that has no frame in the stretch."""
    end = "its end" if options.end is None else f"{float(options.end):g} s"
    return InputError(
        f"{name} has no frame between {float(options.start or 0):g} s and {end}.", "Give times within the clip."
    )


def count_within(options: InputOptions, n_frames: int | None, rate: Fraction | None) -> tuple[int | None, bool]:
    """(How many of `n_frames` the stretch has, as far as a constant rate tells; whether that is certain)."""
    if options.start is None and options.end is None:
        if n_frames is None or options.max_frames is None:
            return options.max_frames if n_frames is None else n_frames, False
        return min(n_frames, options.max_frames), True
    if rate is None or (n_frames is None and options.end is None):
        return options.max_frames, False
    start = options.start or Fraction(0)
    clip_end = None if n_frames is None else n_frames / rate
    until = min(bound for bound in (options.end, clip_end) if bound is not None)
    count = max(1, -int((start - until) * rate // 1))
    return min(count, options.max_frames or count), False
