"""Decoded pictures to RGB arrays and back, with the right matrix and range and no step below the source's depth.

swscale does the arithmetic with accurate rounding and full chroma interpolation. Its 16-bit RGB does not use the
whole scale: YUV white becomes 65280 (255 * 256), and full-range samples are shifted, not stretched. `Image` arrays
do use the whole scale, so that white is 65535; the two corrections here are exact to one step of 16 bits and are
pinned by tests/video/test_pixels.py.
"""

from typing import cast

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter

from flashvsr_cli.geometry import Size
from flashvsr_cli.video.alpha import with_alpha, write_alpha
from flashvsr_cli.video.frame import Alpha, Image
from flashvsr_cli.video.info import MATRIX_NAMES, MATRIX_RGB, RANGE_FULL, RANGE_LIMITED, ColorTags
from flashvsr_cli.video.pixel_format import describe_pixel_format
from flashvsr_cli.video.siting import Siting, SitingMark, is_subsampled

ACCURATE = (
    Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT | Interpolation.FULL_CHR_H_INP
)
CONVERTIBLE_MATRICES = (1, 4, 5, 6, 7, 9)
NEAREST_MATRIX = {10: 9}
SHIFT_OF_YUV = 8


def read_color(picture: av.VideoFrame) -> ColorTags:
    """The tags that a picture states."""
    return ColorTags(picture.color_range, picture.color_primaries, picture.color_trc, picture.colorspace)


def resolve_color(tags: ColorTags, pix_fmt: str, size: Size) -> ColorTags:
    """The tags by which pixels are converted: nothing left unspecified that the arithmetic needs.

    Range: `yuvj` formats are full; greyscale, like RGB, is full unless tagged; other YUV is limited unless tagged.
    Matrix: `ColorTags.with_known_matrix`; BT.2020 constant luminance is read as non-constant; matrices that swscale
    cannot convert are treated as unspecified (`unconvertible_matrix` names them for a notice).
    """
    described = describe_pixel_format(pix_fmt)
    color_range = tags.range
    if pix_fmt.startswith("yuvj") or (described.is_gray and color_range != RANGE_LIMITED):
        color_range = RANGE_FULL
    elif color_range not in (RANGE_LIMITED, RANGE_FULL):
        color_range = RANGE_FULL if described.is_rgb else RANGE_LIMITED
    matrix = NEAREST_MATRIX.get(tags.matrix, tags.matrix)
    if matrix not in CONVERTIBLE_MATRICES:
        matrix = ColorTags().with_known_matrix(size).matrix
    return ColorTags(color_range, tags.primaries, tags.transfer, matrix)


def unconvertible_matrix(tags: ColorTags, pix_fmt: str) -> str | None:
    """The name of a stated matrix that `resolve_color` has to replace by a guess, or None."""
    if describe_pixel_format(pix_fmt).is_rgb or tags.matrix in (*CONVERTIBLE_MATRICES, *NEAREST_MATRIX, 2, MATRIX_RGB):
        return None
    return MATRIX_NAMES.get(tags.matrix, f"number {tags.matrix}")


class ToRgb:
    """Turns decoded pictures of one stream into RGB arrays.

    Args:
        color: tags with range and matrix resolved.
        n_threads: threads of swscale; 0 takes one per core.
        siting: where subsampled chroma lies; None follows the mark of the decoder.
    """

    def __init__(self, color: ColorTags, n_threads: int = 0, siting: Siting | None = None) -> None:
        self._color = color
        self._mark = SitingMark(siting) if siting else None
        self._n_threads = n_threads
        self._reformatter = VideoReformatter()

    def __call__(self, picture: av.VideoFrame) -> Image:
        """The picture as (height, width, 3): uint8 for 8-bit formats, uint16 (full scale) above.

        The array is a view of FFmpeg's own memory where no correction is needed: rows may be padded.
        """
        pixel_format = describe_pixel_format(picture.format.name)
        is_deep = pixel_format.bits > 8
        picture.colorspace = self._color.matrix
        picture.color_range = self._color.range
        if self._mark is not None and is_subsampled(pixel_format.name):
            picture = self._mark(picture)
        rgb = self._reformatter.reformat(
            picture,
            format="rgb48le" if is_deep else "rgb24",
            interpolation=ACCURATE,
            threads=self._n_threads,
        )
        array = cast(Image, rgb.to_ndarray())
        if not is_deep or pixel_format.is_rgb:
            return array
        if self._color.range == RANGE_LIMITED:
            return _stretch(array, SHIFT_OF_YUV)
        return array if pixel_format.bits >= 16 else _stretch(array, pixel_format.bits)


class FromRgb:
    """Turns RGB arrays into pictures of one pixel format.

    Args:
        pix_fmt: FFmpeg's name of the target.
        color: tags with range and matrix resolved; the pictures carry them.
        n_threads: threads of swscale; 0 takes one per core.
        siting: where subsampled chroma goes.
    """

    def __init__(self, pix_fmt: str, color: ColorTags, n_threads: int = 0, siting: Siting = "left") -> None:
        self._mark = SitingMark(siting) if is_subsampled(pix_fmt) else None
        self._pixel_format = describe_pixel_format(pix_fmt)
        self._color = color
        self._n_threads = n_threads
        self._reformatter = VideoReformatter()

    def __call__(self, image: Image, alpha: Alpha | None = None) -> av.VideoFrame:
        """The (height, width, 3) uint8 or uint16 array as a picture; the array must not change afterwards.

        Args:
            image: RGB.
            alpha: (height, width) of the same size, for formats with alpha; they are opaque without.
        """
        is_deep = image.dtype == np.uint16
        has_own_plane = self._pixel_format.has_alpha_plane
        if is_deep and not self._pixel_format.is_rgb:
            image = image - (image >> SHIFT_OF_YUV)
        if image.strides[1:] != (3 * image.itemsize, image.itemsize) or image.strides[0] < 0:
            image = cast(Image, np.ascontiguousarray(image))
        form = "rgb48le" if is_deep else "rgb24"
        if alpha is not None and not has_own_plane:
            image, form = with_alpha(image, alpha), "rgba64le" if is_deep else "rgba"
        rgb = av.VideoFrame.from_numpy_buffer(image, format=form)
        rgb.colorspace = self._color.matrix
        rgb.color_range = self._color.range
        if self._mark is not None:
            rgb = self._mark(rgb)
        picture = self._reformatter.reformat(
            rgb, format=self._pixel_format.name, interpolation=ACCURATE, threads=self._n_threads
        )
        if alpha is not None and has_own_plane:
            write_alpha(picture, alpha)
        picture.colorspace = MATRIX_RGB if self._pixel_format.is_rgb else self._color.matrix
        picture.color_range = self._color.range
        picture.color_primaries = self._color.primaries
        picture.color_trc = self._color.transfer
        return picture


def _stretch(array: Image, shift: int) -> Image:
    """`array * 65535 / (65536 - 2**(16 - shift))` in integers, saturating at 65535."""
    extra = array >> shift
    return cast(Image, np.add(array, np.minimum(extra, ~array), dtype=np.uint16))
