"""Transparency: read from decoded pictures, enlarged beside the model by a plain bicubic, put into encoded ones.

Alpha means coverage, not light: it is always full range, and no colour matrix applies to it.
"""

from typing import Any, cast

import av
import numpy as np
import numpy.typing as npt
from av.video.reformatter import Interpolation, VideoReformatter

from flashvsr_cli.geometry import Size
from flashvsr_cli.video.frame import Alpha, Image, to_depth
from flashvsr_cli.video.info import RANGE_FULL
from flashvsr_cli.video.pixel_format import describe_pixel_format

ALPHA_PLANE = 3
SMOOTH = Interpolation.BICUBIC | Interpolation.ACCURATE_RND


def read_alpha(picture: av.VideoFrame) -> Alpha | None:
    """The alpha of a decoded picture as (height, width) uint8, or uint16 above 8 bits; None if it has none."""
    pixel_format = describe_pixel_format(picture.format.name)
    if not pixel_format.has_alpha:
        return None
    if not pixel_format.has_alpha_plane:
        form = "rgba" if pixel_format.bits <= 8 else "rgba64le"
        return cast(Alpha, np.ascontiguousarray(picture.reformat(format=form).to_ndarray()[..., 3]))
    stored = _stored_alpha(picture)
    bits = pixel_format.bits
    if bits <= 8:
        return stored.copy()
    values = stored.astype(np.uint16)
    return cast(Alpha, (values << (16 - bits)) | (values >> (2 * bits - 16)))


def write_alpha(picture: av.VideoFrame, alpha: Alpha) -> None:
    """Replaces the alpha plane of a planar picture; `alpha` is (height, width) uint8 or uint16."""
    bits = describe_pixel_format(picture.format.name).bits
    scaled = to_depth(alpha, bits)
    if bits > 8:
        scaled = (scaled.astype(np.uint32) * (2**bits - 1) + 32767) // 65535
    _stored_alpha(picture)[:] = scaled


def with_alpha(image: Image, alpha: Alpha) -> Image:
    """(height, width, 4) of an RGB picture and its alpha, in the picture's type."""
    own = to_depth(alpha, 8 if image.dtype == np.uint8 else 16)
    return cast(Image, np.dstack([image, own]))


class AlphaEnlarger:
    """Brings alpha to the size of the output.

    Args:
        size: (height, width) of the output.
    """

    def __init__(self, size: Size) -> None:
        self._size = size
        self._reformatter = VideoReformatter()

    def __call__(self, alpha: Alpha | None) -> Alpha | None:
        """`alpha` in the output's size; what is wholly opaque or transparent stays exactly so."""
        if alpha is None or alpha.shape == self._size:
            return alpha
        form = "gray" if alpha.dtype == np.uint8 else "gray16le"
        packed = cast(Alpha, np.ascontiguousarray(alpha))
        picture = av.VideoFrame.from_ndarray(packed, form)
        picture.color_range = RANGE_FULL
        enlarged = self._reformatter.reformat(
            picture, width=self._size[1], height=self._size[0], format=form, interpolation=SMOOTH
        )
        return cast(Alpha, enlarged.to_ndarray())


def _stored_alpha(picture: av.VideoFrame) -> npt.NDArray[np.uint8] | npt.NDArray[np.uint16]:
    """The alpha plane's memory, without padding."""
    plane = picture.planes[ALPHA_PLANE]
    is_deep = describe_pixel_format(picture.format.name).bits > 8
    deep_type = ">u2" if picture.format.name.endswith("be") else "<u2"
    # PyAV's planes have the buffer protocol, which typeshed cannot know.
    memory: Any = plane
    samples = np.frombuffer(memory, np.dtype(deep_type if is_deep else np.uint8))
    rows = samples.reshape(-1, plane.line_size // samples.itemsize)
    return rows[: picture.height, : picture.width]
