"""Single pictures: files recognised by their first bytes, decoded and encoded one at a time."""

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
from av.codec.codec import Codec
from av.error import FFmpegError

from flashvsr_cli.errors import InputError
from flashvsr_cli.options import InputOptions
from flashvsr_cli.video.alpha import read_alpha
from flashvsr_cli.video.exif import read_exif_orientation
from flashvsr_cli.video.faults import input_error, reason
from flashvsr_cli.video.frame import Alpha, Image
from flashvsr_cli.video.info import RANGE_FULL, ColorTags
from flashvsr_cli.video.orientation import Orientation
from flashvsr_cli.video.pixel_format import PixelFormat, describe_pixel_format
from flashvsr_cli.video.pixels import ToRgb, read_color, resolve_color
from flashvsr_cli.video.profiles import find_profile
from flashvsr_cli.video.tiff import plain_tiff

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
ANIMATION_CHUNK = b"acTL"
WEBP_ANIMATION_CHUNK = b"ANMF"
ANIMATION_SEARCH_BYTES = 4096


def recognise_image(head: bytes) -> str | None:
    """The FFmpeg decoder for a still picture that begins with `head`, or None if it is none."""
    if head.startswith(PNG_SIGNATURE):
        return None if ANIMATION_CHUNK in head[:ANIMATION_SEARCH_BYTES] else "png"
    if head.startswith(b"\xff\xd8\xff"):
        return "mjpeg"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "webp"
    if head.startswith((b"II*\0", b"MM\0*")):
        return "tiff"
    return "bmp" if head.startswith(b"BM") else None


@dataclass(frozen=True)
class Picture:
    """A decoded picture file.

    Attributes:
        image: (height, width, 3) uint8 or uint16, turned as its metadata asks.
        alpha: (height, width), turned likewise; None if it is opaque.
        codec: FFmpeg decoder.
        pixel_format: what it was stored as.
        color: tags as stored.
        orientation: how it was turned.
        profile: its ICC profile; None if it has none, empty if it is damaged.
    """

    image: Image
    alpha: Alpha | None
    codec: str
    pixel_format: PixelFormat
    color: ColorTags
    orientation: Orientation
    profile: bytes | None = None


def read_image(path: Path, options: InputOptions | None = None) -> Picture:
    """Reads a PNG, JPEG, WebP, TIFF or BMP file, of at most `options.max_pixels`.

    Raises:
        InputError: if it cannot be read, is none of these, or is damaged.
    """
    name, options = str(path), options or InputOptions()
    try:
        data = path.read_bytes()
    except OSError as error:
        raise input_error(name, error) from error
    codec = recognise_image(data[:ANIMATION_SEARCH_BYTES])
    if codec is None:
        raise InputError(f"{name} is not a PNG, JPEG, WebP, TIFF or BMP picture.", "Convert it to PNG first.")
    plain = plain_tiff(name, data) if codec == "tiff" else data
    try:
        picture = _decode(data if plain is None else plain, codec, options.max_pixels, is_strict=plain is not None)
    except av.error.ArgumentError as error:
        raise InputError(
            f"{name} is damaged, or has more than {options.max_pixels:,} pixels.",
            "Get a complete copy of the picture, or raise the limit with --max-pixels.",
        ) from error
    except (av.error.NotImplementedError, av.error.PatchWelcomeError) as error:
        raise InputError(f"{name} is of a kind that this FFmpeg cannot read.", "Convert it to PNG first.") from error
    except FFmpegError as error:
        if codec == "webp" and WEBP_ANIMATION_CHUNK in data[:ANIMATION_SEARCH_BYTES]:
            raise InputError(
                f"{name} is an animated WebP picture, which this FFmpeg cannot read.",
                "Convert it to GIF, APNG or a video first.",
            ) from error
        raise InputError(f"{name} is damaged: {reason(error)}.", "Get a complete copy of the picture.") from error
    if picture is None or picture.is_corrupt:
        raise InputError(f"{name} is damaged or cut short.", "Get a complete copy of the picture.")
    described = describe_pixel_format(picture.format.name)
    color = read_color(picture)
    orientation = read_exif_orientation(data)
    size = (picture.height, picture.width)
    image = ToRgb(resolve_color(color, picture.format.name, size))(picture)
    alpha = read_alpha(picture)
    turned = None if alpha is None else orientation.apply(alpha)
    profile = find_profile(data, codec)
    return Picture(orientation.apply(image), turned, codec, described, color, orientation, profile)


def _decode(data: bytes, codec: str, max_pixels: int, is_strict: bool) -> av.VideoFrame | None:
    decoder = Codec(codec, "r").create("video")
    decoder.thread_count = 1
    decoder.options = {"max_pixels": str(max_pixels), **({"err_detect": "explode"} if is_strict else {})}
    pictures = [*decoder.decode(av.Packet(data)), *decoder.decode(None)]
    return _unfolded(pictures[0]) if pictures else None


def _unfolded(picture: av.VideoFrame) -> av.VideoFrame:
    """The picture; with an alpha channel if it is one whose palette has transparent colours."""
    if picture.format.name != "pal8":
        return picture
    unfolded = picture.reformat(format="rgba")
    return picture if (unfolded.to_ndarray()[..., 3] == 255).all() else unfolded


@dataclass(frozen=True)
class ImageFormat:
    """How pictures of one file extension are written.

    Attributes:
        codec: FFmpeg encoder.
        pix_fmt: pixel format for 8-bit pictures.
        deep_pix_fmt: pixel format for 16-bit pictures; None if the format has 8 bits only.
        alpha_pix_fmts: the same two for pictures with transparency; None if the format has none.
        options: encoder options.
    """

    codec: str
    pix_fmt: str
    deep_pix_fmt: str | None
    alpha_pix_fmts: tuple[str, str | None] | None = None
    options: tuple[tuple[str, str], ...] = ()


BEST_JPEG_QUALITY = (("flags", "+qscale"), ("global_quality", "236"))
IMAGE_FORMATS = {
    ".png": ImageFormat("png", "rgb24", "rgb48be", ("rgba", "rgba64be")),
    ".jpg": ImageFormat("mjpeg", "yuvj444p", None, None, BEST_JPEG_QUALITY),
    ".jpeg": ImageFormat("mjpeg", "yuvj444p", None, None, BEST_JPEG_QUALITY),
    ".webp": ImageFormat("libwebp", "bgra", None, ("bgra", None), (("lossless", "1"),)),
    ".tif": ImageFormat("tiff", "rgb24", "rgb48le", ("rgba", "rgba64le"), (("compression_algo", "deflate"),)),
    ".tiff": ImageFormat("tiff", "rgb24", "rgb48le", ("rgba", "rgba64le"), (("compression_algo", "deflate"),)),
    ".bmp": ImageFormat("bmp", "bgr24", None),
}
BT601_FULL = ColorTags(range=RANGE_FULL, matrix=6)


def open_image_encoder(image_format: ImageFormat, pix_fmt: str, width: int, height: int) -> av.VideoCodecContext:
    """An encoder that makes one picture file per packet; packets may come out some frames late.

    Raises:
        FFmpegError: if the encoder refuses the size or format.
    """
    encoder = Codec(image_format.codec, "w").create("video")
    encoder.width, encoder.height, encoder.pix_fmt = width, height, pix_fmt
    encoder.time_base = Fraction(1)
    encoder.framerate = Fraction(1)
    encoder.color_range = RANGE_FULL
    encoder.options = dict(image_format.options)
    encoder.open()
    return encoder
