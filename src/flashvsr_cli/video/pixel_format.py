"""What FFmpeg knows about its pixel formats."""

from dataclasses import dataclass
from functools import lru_cache

import av


@dataclass(frozen=True)
class PixelFormat:
    """What matters here about an FFmpeg pixel format.

    Attributes:
        name: FFmpeg's name.
        bits: bits per sample.
        is_rgb: whether it needs no YUV matrix (RGB or palette).
        is_gray: whether it has luma only.
        has_alpha: whether it has an alpha channel.
        has_alpha_plane: whether that is a plane of its own.
        subsampling: (vertical, horizontal) pixels per chroma sample.
    """

    name: str
    bits: int
    is_rgb: bool
    is_gray: bool
    has_alpha: bool
    has_alpha_plane: bool
    subsampling: tuple[int, int]


@lru_cache(maxsize=128)
def describe_pixel_format(name: str) -> PixelFormat:
    """The facts about an FFmpeg pixel format.

    Raises:
        ValueError: if FFmpeg does not know the name.
    """
    side = 64
    video_format = av.VideoFormat(name, side, side)
    components = video_format.components
    colors = [c for c in components if not c.is_alpha]
    return PixelFormat(
        name=name,
        bits=8 if video_format.has_palette else max(c.bits for c in components),
        is_rgb=video_format.is_rgb or video_format.has_palette,
        is_gray=len(colors) == 1 and not video_format.has_palette,
        has_alpha=any(c.is_alpha for c in components),
        has_alpha_plane=any(c.is_alpha and c.plane > 0 for c in components),
        subsampling=(side // video_format.chroma_height(), side // video_format.chroma_width()),
    )
