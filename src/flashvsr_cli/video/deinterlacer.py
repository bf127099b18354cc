"""Two fields into one frame, through libavfilter's bwdif: one frame out for every frame in.

bwdif rebuilds the missing lines of the first field from the frames around it. Its output keeps the input's count and
times, so sound, subtitles and resume need not know about it.
"""

from collections.abc import Iterator
from typing import Literal

import av
from av.error import BlockingIOError as AvBlockingIOError
from av.error import EOFError as AvEOFError
from av.error import FFmpegError
from av.filter import Graph

from flashvsr_cli.errors import InputError
from flashvsr_cli.options import Deinterlace, InputOptions
from flashvsr_cli.video.filters import TICK_S, picture_filter

FILTER = "bwdif"
FieldOrder = Literal["auto", "tff", "bff"]


class Deinterlacer:
    """Passes pictures on, deinterlaced if need be; pictures come out in order, some of them late.

    The filter comes up with the first picture that needs it; "auto" leaves pictures that are not marked as interlaced
    as they are, even between marked ones.

    Args:
        mode: which pictures to work on.
        field_order: which field is first; "auto" follows the pictures' marks.
    """

    def __init__(self, mode: Deinterlace, field_order: FieldOrder = "auto") -> None:
        self._mode = mode
        self._field_order = field_order
        self._graph: Graph | None = None
        self._n_pushed = 0

    def push(self, picture: av.VideoFrame) -> Iterator[av.VideoFrame]:
        """The pictures that are ready once `picture` is in; their own times are meaningless.

        Raises:
            InputError: if the filter cannot take pictures of that size or format.
        """
        if self._graph is None:
            if not self._is_wanted(picture):
                yield picture
                return
            self._graph = self._build(picture)
        picture.pts, picture.time_base = self._n_pushed, TICK_S
        self._n_pushed += 1
        self._graph.push(picture)
        yield from self._pull()

    def flush(self) -> Iterator[av.VideoFrame]:
        """The pictures that are left."""
        if self._graph is not None:
            self._graph.push(None)
            yield from self._pull()

    def _is_wanted(self, picture: av.VideoFrame) -> bool:
        return self._mode == "on" or (self._mode == "auto" and picture.interlaced_frame)

    def _build(self, picture: av.VideoFrame) -> Graph:
        which = "interlaced" if self._mode == "auto" else "all"
        try:
            return picture_filter(picture, FILTER, f"mode=send_frame:parity={self._field_order}:deint={which}")
        except FFmpegError as error:
            raise InputError(
                f"Pictures of {picture.width}x{picture.height} {picture.format.name} cannot be deinterlaced.",
                "Use --deinterlace off to leave their fields as they are.",
            ) from error

    def _pull(self) -> Iterator[av.VideoFrame]:
        assert self._graph is not None
        while True:
            try:
                yield self._graph.vpull()
            except (AvBlockingIOError, AvEOFError):
                return


def note_interlacing(name: str, is_interlaced: bool, options: InputOptions, notices: list[str]) -> bool:
    """Whether pictures are deinterlaced; tells what happens to fields, or what would help."""
    is_rebuilt = options.deinterlace == "on" or (is_interlaced and options.deinterlace == "auto")
    if is_rebuilt:
        notices.append(f"{name} is deinterlaced by {FILTER}, one frame for each; --deinterlace off leaves the fields.")
    elif is_interlaced:
        notices.append(f"{name} is interlaced and its fields are left as they are; --deinterlace auto rebuilds frames.")
    return is_rebuilt
