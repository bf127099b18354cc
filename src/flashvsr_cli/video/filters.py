"""One of libavfilter's filters between pictures of one form that go in and pictures that come out."""

from fractions import Fraction

import av
from av.filter import Graph

TICK_S = Fraction(1, 25)
"""Of the times that pictures have on their way through; nothing depends on it."""


def picture_filter(picture: av.VideoFrame, name: str, arguments: str) -> Graph:
    """A graph with one filter for pictures of this one's size, format and colours.

    Raises:
        FFmpegError: if the filter does not take such pictures.
    """
    graph = Graph()
    source = graph.add(
        "buffer",
        video_size=f"{picture.width}x{picture.height}",
        pix_fmt=picture.format.name,
        time_base=str(TICK_S),
        pixel_aspect="1/1",
        colorspace=str(int(picture.colorspace)),
        range=str(int(picture.color_range)),
    )
    graph.link_nodes(source, graph.add(name, arguments), graph.add("buffersink")).configure()
    return graph
