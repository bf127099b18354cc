"""What an output can state of its pictures: range, matrix, primaries, transfer, and the shape of its pixels.

Found by writing with each encoder into each container and reading back, but where a line says otherwise; 68 of the
pairs are written and read again by tests/video/test_stating.py.
A picture says what its codec's stream says, whatever the container says; where the stream is silent, the container
does, where it can. What is stated nowhere is read by the rule for untagged pictures (`resolve_color`), so that the
picture has to be stored by that rule, or its colours would change.
"""

from dataclasses import dataclass
from fractions import Fraction

from flashvsr_cli.geometry import Size
from flashvsr_cli.video.info import (
    MATRIX_BT470BG,
    MATRIX_BT709,
    MATRIX_RGB,
    MATRIX_SMPTE170M,
    PRIMARIES_NAMES,
    RANGE_FULL,
    RANGE_LIMITED,
    TRANSFER_NAMES,
    UNSPECIFIED,
    ColorTags,
)
from flashvsr_cli.video.mp4 import MOV_MUXERS
from flashvsr_cli.video.pixels import resolve_color

LIMITED_ONLY, FULL_ONLY, BOTH = (RANGE_LIMITED,), (RANGE_FULL,), (RANGE_LIMITED, RANGE_FULL)
ALL_MATRICES = (1, 4, 5, 6, 7, 9, 10)
BT601_TWINS = {MATRIX_BT470BG: MATRIX_SMPTE170M, MATRIX_SMPTE170M: MATRIX_BT470BG}
"""Two names of the same numbers, of which some codecs know one."""


@dataclass(frozen=True)
class StreamStatement:
    """What a codec's own stream says, as FFmpeg writes and reads it.

    Attributes:
        ranges: those that it can say; one means that it says nothing, and is always read so. None: the container's.
        matrices: likewise.
        primaries, transfers: likewise, but what it cannot say is lost.
    """

    ranges: tuple[int, ...] | None = None
    matrices: tuple[int, ...] | None = None
    primaries: tuple[int, ...] | None = None
    transfers: tuple[int, ...] | None = None


ALL_PRIMARIES, ALL_TRANSFERS = tuple(PRIMARIES_NAMES), tuple(TRANSFER_NAMES)
EVERYTHING = StreamStatement(BOTH, ALL_MATRICES, ALL_PRIMARIES, ALL_TRANSFERS)
PLAIN_PRORES = StreamStatement(LIMITED_ONLY, (1, 6, 9), (1, 5, 6, 9, 11, 12), (1, 16, 18))
SILENT = StreamStatement()
STREAM_STATEMENTS = {
    **dict.fromkeys(("libx264", "libx264rgb", "libx265", "libsvtav1"), EVERYTHING),
    # By their standards; not tried.
    **dict.fromkeys(("libaom-av1", "h264_nvenc", "hevc_nvenc", "av1_nvenc"), EVERYTHING),
    "libvpx-vp9": StreamStatement(BOTH, (1, 5, 6, 7, 9)),
    "libvpx": StreamStatement(LIMITED_ONLY, (MATRIX_BT470BG,)),  # VP8 knows nothing else
    # Decoders of MPEG and ProRes take every picture for limited, also where the container says full.
    "mpeg2video": StreamStatement(LIMITED_ONLY, (1, 4, 5, 6, 7, 9), ALL_PRIMARIES, ALL_TRANSFERS),
    "mpeg1video": StreamStatement(LIMITED_ONLY),
    "prores_ks": StreamStatement(LIMITED_ONLY, (1, 5, 6, 7, 9), ALL_PRIMARIES, ALL_TRANSFERS),
    "prores": PLAIN_PRORES,
    "prores_aw": PLAIN_PRORES,
    "dnxhd": StreamStatement(BOTH, (MATRIX_BT709,)),  # the encoder writes no other, and the stream's counts
    "magicyuv": StreamStatement(LIMITED_ONLY),
    "mjpeg": StreamStatement(FULL_ONLY, (MATRIX_BT470BG,)),  # JFIF knows nothing else
    "ljpeg": StreamStatement(FULL_ONLY, (MATRIX_BT470BG,)),
    "speedhq": StreamStatement(matrices=(MATRIX_BT470BG,)),
    "utvideo": StreamStatement(matrices=(MATRIX_BT709, MATRIX_BT470BG)),  # two names of the format, no tag
}
"""By encoder. One that is not here (FFV1, MPEG-4, v210, HuffYUV, JPEG 2000 and the like) is silent."""

MUXER_STATEMENTS = {
    "matroska": ("range", "matrix", "light"),
    "webm": ("range", "matrix", "light"),
    "mp4": ("range", "matrix", "light"),
    "mov": ("matrix", "light"),  # its box of colours, `nclc`, has no room for the range
    "flv": ("light",),  # as it holds the newer codecs, all of which but VP9 state everything themselves
}
"""By container. MPEG-TS, AVI and M4V, which FFmpeg gives no box of colours, state nothing."""
MUXERS_WITH_COLR = ("mp4", "mov")
COLR_FLAG = "+write_colr"
"""Makes FFmpeg write MP4's and MOV's box of colours if not all of primaries, transfer and matrix are known, too."""

# Read as what untagged pictures are taken for, or too near to it to be seen: BT.709, and BT.601 of both kinds.
USUAL_PRIMARIES = (0, UNSPECIFIED, 1, 5, 6)
USUAL_TRANSFERS = (0, UNSPECIFIED, 1, 6, 14, 15)

# PyAV gives the pixel aspect to encoders and to these containers; Matroska, AVI and the others get it by the stream.
MUXERS_WITH_ASPECT = MOV_MUXERS
CODECS_WITH_ASPECT = (
    *("libx264", "libx264rgb", "libx265", "h264_nvenc", "hevc_nvenc"),
    *("mpeg4", "h263p", "mjpeg", "png"),
)
# MPEG-2 states the shape of the whole picture, one of three, or that pixels are square.
MPEG2_PICTURE_ASPECTS = (Fraction(4, 3), Fraction(16, 9), Fraction(221, 100))


def storable_color(wished: ColorTags, pix_fmt: str, size: Size, codec: str, muxer: str) -> ColorTags:
    """`wished`, with the nearest range and matrix that the output is read back with.

    Args:
        wished: the tags that the picture would be stored by.
        pix_fmt: of the output, not RGB.
        size: (height, width) of the output.
        codec: FFmpeg encoder.
        muxer: FFmpeg's name of the container.
    """
    stream, holds = STREAM_STATEMENTS.get(codec, SILENT), MUXER_STATEMENTS.get(muxer, ())
    untagged = resolve_color(ColorTags(), pix_fmt, size)
    resolved = resolve_color(wished, pix_fmt, size)
    ranges = stream.ranges or (BOTH if "range" in holds else (untagged.range,))
    matrices = stream.matrices or (ALL_MATRICES if "matrix" in holds else (untagged.matrix,))
    color_range = wished.range if resolved.range in ranges else ranges[0]
    likely = (wished.matrix, BT601_TWINS.get(wished.matrix), untagged.matrix, BT601_TWINS.get(untagged.matrix))
    matrix = next((m for m in likely if m in matrices), matrices[0])
    return ColorTags(color_range, wished.primaries, wished.transfer, matrix)


def needs_colr(color: ColorTags, codec: str, muxer: str) -> bool:
    """Whether MP4 or MOV has to be told to write its box of colours, since the stream does not say what is known."""
    stream, light = STREAM_STATEMENTS.get(codec, SILENT), (color.primaries, color.transfer)
    if muxer not in MUXERS_WITH_COLR or UNSPECIFIED not in light:
        return False
    is_silent = None in (stream.ranges, stream.matrices) and color.matrix != MATRIX_RGB
    return is_silent or (None in (stream.primaries, stream.transfers) and light != (UNSPECIFIED, UNSPECIFIED))


def lost_light(color: ColorTags, codec: str, muxer: str) -> list[str]:
    """The primaries and the transfer that an output does not state, if a player would take them for others."""
    stream, in_container = STREAM_STATEMENTS.get(codec, SILENT), "light" in MUXER_STATEMENTS.get(muxer, ())
    lost = []
    for what, value, names, usual, stated in (
        ("primaries", color.primaries, PRIMARIES_NAMES, USUAL_PRIMARIES, stream.primaries),
        ("transfer", color.transfer, TRANSFER_NAMES, USUAL_TRANSFERS, stream.transfers),
    ):
        is_stated = in_container if stated is None else value in stated
        if not is_stated and value not in usual:
            lost.append(f"{what} of its colours ({names.get(value, value)})")
    return lost


def states_aspect(aspect: Fraction | None, size: Size, codec: str, muxer: str) -> bool:
    """Whether an output of this (height, width) is read back with the shape of its pixels."""
    if aspect is None or aspect == 1 or muxer in MUXERS_WITH_ASPECT or codec in CODECS_WITH_ASPECT:
        return True
    return codec == "mpeg2video" and aspect * Fraction(size[1], size[0]) in MPEG2_PICTURE_ASPECTS
