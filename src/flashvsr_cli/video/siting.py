"""Where subsampled chroma samples lie: swscale follows the mark of a picture, which PyAV cannot set, but a filter can.

Video puts a chroma sample beside the left of its two pixels, JPEG and MPEG-1 between them. Taken for each other,
colours shift by half a source pixel, which a fourfold enlargement makes two. Decoders of H.264, H.265, AV1 and
MPEG mark their pictures; `UNMARKED_DECODERS` do not, and hold video.
"""

from typing import Literal

import av
from av.filter import Graph

from flashvsr_cli.video.filters import TICK_S, picture_filter
from flashvsr_cli.video.pixel_format import describe_pixel_format

Siting = Literal["left", "center"]
UNMARKED_DECODERS = ("ffv1", "prores", "dnxhd", "utvideo", "magicyuv", "rawvideo")


class SitingMark:
    """Marks pictures of one size and format with a siting; the pixels are shared, not copied.

    Args:
        siting: where chroma lies.
    """

    def __init__(self, siting: Siting) -> None:
        self._siting = siting
        self._graph: Graph | None = None
        self._form: tuple[int, int, str] | None = None

    def __call__(self, picture: av.VideoFrame) -> av.VideoFrame:
        """The picture with the mark and its own time."""
        form = (picture.width, picture.height, picture.format.name)
        if self._graph is None or form != self._form:
            graph = picture_filter(picture, "setparams", f"chroma_location={self._siting}")
            self._graph, self._form = graph, form
        pts, time_base = picture.pts, picture.time_base
        picture.pts, picture.time_base = 0, TICK_S
        self._graph.push(picture)
        marked = self._graph.vpull()
        for one in (picture, marked):
            one.pts = pts
            if time_base:
                one.time_base = time_base
        return marked


def is_subsampled(pix_fmt: str) -> bool:
    """Whether siting means anything for a pixel format."""
    described = describe_pixel_format(pix_fmt)
    return not (described.is_rgb or described.is_gray) and described.subsampling != (1, 1)
