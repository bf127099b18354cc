"""YUV4MPEG2 (Y4M), the uncompressed stream that video tools exchange through pipes: header and planes.

The parser is strict: what it does not know it refuses by name, so that no byte is ever taken for a picture that it
is not. Chroma formats are those of FFmpeg and mjpegtools.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import av
import numpy as np

from flashvsr_cli.errors import InputError
from flashvsr_cli.geometry import Size
from flashvsr_cli.video.info import RANGE_FULL, RANGE_LIMITED, RANGE_UNSPECIFIED
from flashvsr_cli.video.pixel_format import describe_pixel_format
from flashvsr_cli.video.siting import Siting

MAGIC = b"YUV4MPEG2"
FRAME_MAGIC = b"FRAME"
MAX_LINE_BYTES = 1024
MAX_SIDE = 65535
PROGRESSIVE_MARKS = ("p", "?")
FIELD_MARKS = ("t", "b")
NEXT_STEP = "Send a Y4M stream as `ffmpeg -f yuv4mpegpipe` writes it."

CHROMA_FORMATS = {
    "420jpeg": "yuv420p",
    "420mpeg2": "yuv420p",
    "420paldv": "yuv420p",
    "420": "yuv420p",
    "411": "yuv411p",
    "422": "yuv422p",
    "444": "yuv444p",
    "444alpha": "yuva444p",
    "mono": "gray",
    **{f"mono{bits}": f"gray{bits}le" for bits in (9, 10, 12, 16)},
    **{f"{form}p{bits}": f"yuv{form}p{bits}le" for form in ("420", "422", "444") for bits in (9, 10, 12, 14, 16)},
}
DEFAULT_CHROMA = "420jpeg"
CENTERED_CHROMA = ("420jpeg", "420")


@dataclass(frozen=True)
class Y4mHeader:
    """The first line of a Y4M stream.

    Attributes:
        size: (height, width).
        rate: frames per second; None if the stream says it is unknown.
        interlacing: "p", "t", "b" or "?".
        pixel_aspect: width to height of a pixel; None if unknown.
        chroma: the `C` token.
        color_range: 0 unspecified, 1 limited, 2 full.
    """

    size: Size
    rate: Fraction | None
    interlacing: str = "p"
    pixel_aspect: Fraction | None = None
    chroma: str = DEFAULT_CHROMA
    color_range: int = RANGE_UNSPECIFIED

    def line(self) -> bytes:
        """The header as bytes, newline included."""
        ratio, aspect = self.rate or Fraction(0), self.pixel_aspect
        tokens = [
            MAGIC.decode(),
            f"W{self.size[1]}",
            f"H{self.size[0]}",
            f"F{ratio.numerator}:{ratio.denominator if ratio else 0}",
            f"I{self.interlacing}",
            f"A{aspect.numerator}:{aspect.denominator}" if aspect else "A0:0",
            f"C{self.chroma}",
        ]
        if self.color_range:
            tokens.append("XCOLORRANGE=" + ("FULL" if self.color_range == RANGE_FULL else "LIMITED"))
        return " ".join(tokens).encode() + b"\n"


def parse_header(line: bytes, name: str = "standard input") -> Y4mHeader:
    """The header in `line` (without its newline).

    Raises:
        InputError: if a token is malformed, unknown, or missing.
    """
    try:
        tokens = line.decode("ascii").split(" ")
    except UnicodeDecodeError as error:
        raise InputError(f"The Y4M header of {name} is not text.", NEXT_STEP) from error
    if tokens[0].encode() != MAGIC:
        raise InputError(f"{name} does not begin with a Y4M header.", NEXT_STEP)
    header = Y4mHeader((0, 0), None)
    for token in filter(None, tokens[1:]):
        parser = _TOKENS.get(token[0])
        parsed = parser(header, token[1:]) if parser else None
        if parsed is None:
            raise InputError(f"The Y4M header of {name} has a token that is not understood: {token!r}.", NEXT_STEP)
        header = parsed
    if not 0 < min(header.size) <= max(header.size) <= MAX_SIDE:
        raise InputError(
            f"The Y4M header of {name} gives no usable size ({header.size[1]}x{header.size[0]}).", NEXT_STEP
        )
    if header.interlacing == "m":
        raise InputError(f"{name} mixes interlaced and progressive frames.", "Deinterlace it first.")
    return header


def chroma_siting(chroma: str) -> Siting:
    """Where a chroma format's samples lie."""
    return "center" if chroma in CENTERED_CHROMA else "left"


def _integer(text: str) -> int | None:
    return int(text) if re.fullmatch(r"[0-9]{1,9}", text) else None


def _ratio(text: str) -> tuple[bool, Fraction | None]:
    """(is well formed, value or None for the 0:0 that means unknown)."""
    match = re.fullmatch(r"([0-9]{1,9}):([0-9]{1,9})", text)
    if match is None:
        return False, None
    top, bottom = int(match[1]), int(match[2])
    if top == 0 or bottom == 0:
        return top == 0, None
    return True, Fraction(top, bottom)


def _parse_width(header: Y4mHeader, text: str) -> Y4mHeader | None:
    value = _integer(text)
    return None if value is None else replace(header, size=(header.size[0], value))


def _parse_height(header: Y4mHeader, text: str) -> Y4mHeader | None:
    value = _integer(text)
    return None if value is None else replace(header, size=(value, header.size[1]))


def _parse_rate(header: Y4mHeader, text: str) -> Y4mHeader | None:
    is_valid, rate = _ratio(text)
    return replace(header, rate=rate) if is_valid else None


def _parse_aspect(header: Y4mHeader, text: str) -> Y4mHeader | None:
    is_valid, aspect = _ratio(text)
    return replace(header, pixel_aspect=aspect) if is_valid else None


def _parse_interlacing(header: Y4mHeader, text: str) -> Y4mHeader | None:
    known = (*PROGRESSIVE_MARKS, *FIELD_MARKS, "m")
    return replace(header, interlacing=text) if text in known else None


def _parse_chroma(header: Y4mHeader, text: str) -> Y4mHeader | None:
    return replace(header, chroma=text) if text in CHROMA_FORMATS else None


def _parse_extension(header: Y4mHeader, text: str) -> Y4mHeader | None:
    ranges = {"COLORRANGE=FULL": RANGE_FULL, "COLORRANGE=LIMITED": RANGE_LIMITED}
    return replace(header, color_range=ranges.get(text, header.color_range))


_TOKENS: dict[str, Callable[[Y4mHeader, str], Y4mHeader | None]] = {
    "W": _parse_width,
    "H": _parse_height,
    "F": _parse_rate,
    "A": _parse_aspect,
    "I": _parse_interlacing,
    "C": _parse_chroma,
    "X": _parse_extension,
}


@dataclass(frozen=True)
class PlaneLayout:
    """How one frame's bytes divide into planes: (rows, bytes per row) of each."""

    planes: tuple[tuple[int, int], ...]

    @property
    def n_bytes(self) -> int:
        """Bytes of one frame."""
        return sum(rows * row_bytes for rows, row_bytes in self.planes)


def plane_layout(pix_fmt: str, size: Size) -> PlaneLayout:
    """The packed planes of a planar pixel format."""
    described = describe_pixel_format(pix_fmt)
    sample_bytes = 1 if described.bits <= 8 else 2
    luma = (size[0], size[1] * sample_bytes)
    if described.is_gray:
        return PlaneLayout((luma,))
    vertical, horizontal = described.subsampling
    chroma = (-(-size[0] // vertical), -(-size[1] // horizontal) * sample_bytes)
    return PlaneLayout((luma, chroma, chroma, luma) if described.has_alpha else (luma, chroma, chroma))


def _stored_rows(plane: Any, rows: int) -> np.ndarray:
    """A plane's memory as (rows, bytes per row with padding)."""
    return np.frombuffer(plane, np.uint8)[: rows * plane.line_size].reshape(rows, plane.line_size)


def unpack_picture(data: bytes, pix_fmt: str, size: Size, layout: PlaneLayout) -> av.VideoFrame:
    """The packed planes in `data` as a picture."""
    picture = av.VideoFrame(size[1], size[0], pix_fmt)
    offset = 0
    for plane, (rows, row_bytes) in zip(picture.planes, layout.planes, strict=True):
        stored = _stored_rows(plane, rows)
        packed = np.frombuffer(data, np.uint8, rows * row_bytes, offset)
        stored[:, :row_bytes] = packed.reshape(rows, row_bytes)
        offset += rows * row_bytes
    return picture


def pack_picture(picture: av.VideoFrame, layout: PlaneLayout) -> list[np.ndarray]:
    """The planes of a picture without padding, ready to be written one after the other."""
    packed = []
    for plane, (rows, row_bytes) in zip(picture.planes, layout.planes, strict=True):
        stored = _stored_rows(plane, rows)
        packed.append(np.ascontiguousarray(stored[:, :row_bytes]))
    return packed
