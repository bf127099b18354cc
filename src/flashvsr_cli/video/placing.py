"""Decoded pictures with the times they get: lost ones are replaced, fields are woven, times rise."""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import av

from flashvsr_cli.video.deinterlacer import Deinterlacer
from flashvsr_cli.video.source import SourceCounters
from flashvsr_cli.video.timestamps import DecodeTimes, LostPictures, Timestamps


@dataclass(frozen=True)
class PlacedPicture:
    """A decoded picture whose successor is not known yet; times in ticks."""

    picture: av.VideoFrame
    pts: int
    stated_duration: int | None


class PicturePlacer:
    """Pictures as a decoder gives them to pictures as they are shown.

    Args:
        timestamps: makes times rise.
        deinterlacer: makes one picture of two fields.
        lost: knows which pictures never came.
        decode_times: where times come from in containers without presentation times; else None.
        counters: told about repairs.
    """

    def __init__(
        self,
        timestamps: Timestamps,
        deinterlacer: Deinterlacer,
        lost: LostPictures,
        decode_times: DecodeTimes | None,
        counters: SourceCounters,
    ) -> None:
        self._timestamps = timestamps
        self._deinterlacer = deinterlacer
        self._lost = lost
        self._decode_times = decode_times
        self._counters = counters
        self._places: deque[tuple[int, int | None]] = deque()  # times and durations of what the deinterlacer has

    def place(self, pictures: Iterable[av.VideoFrame]) -> Iterator[PlacedPicture]:
        """The pictures in display order; lost ones are replaced by the one before."""
        before: av.VideoFrame | None = None
        for picture in pictures:
            lost = self._lost.before(picture.pts) if picture.pts is not None else []
            stated = self._decode_times.take() if self._decode_times is not None else picture.pts
            duration = picture.duration
            if before is not None:  # Before the first picture there is nothing to repeat: the clip begins later.
                yield from self._repeat(before, lost)
            before = picture
            yield from self._push(picture, stated, duration)
        if before is not None:
            yield from self._repeat(before, self._lost.before(None))
        for done in self._deinterlacer.flush():
            yield PlacedPicture(done, *self._places.popleft())

    def _repeat(self, picture: av.VideoFrame, times: list[int]) -> Iterator[PlacedPicture]:
        """A picture once more for each of the times."""
        for pts in times:
            self._counters.repeated_frames += 1
            yield from self._push(picture, pts, None)

    def _push(self, picture: av.VideoFrame, pts: int | None, duration: int | None) -> Iterator[PlacedPicture]:
        self._places.append(self._timestamps.assign(pts, duration))
        self._counters.repaired_timestamps = self._timestamps.n_repaired
        for done in self._deinterlacer.push(picture):
            yield PlacedPicture(done, *self._places.popleft())
