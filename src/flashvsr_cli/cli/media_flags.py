"""The options about files: what is read of an input, and how an output is encoded."""

from dataclasses import dataclass, replace
from enum import StrEnum
from fractions import Fraction
from typing import Annotated

import typer

from flashvsr_cli.options import MAX_OUTPUT_PIXELS, EncodeOptions, InputOptions

INPUT, ENCODING = "Input", "Encoding"
SECONDS_PER_PART = (1, 60, 3600)


class DeinterlaceChoice(StrEnum):
    """Which pictures are deinterlaced."""

    AUTO = "auto"
    ON = "on"
    OFF = "off"


class PurposeChoice(StrEnum):
    """What the output is for."""

    ARCHIVE = "archive"
    SHARE = "share"
    EDIT = "edit"


class AudioChoice(StrEnum):
    """What becomes of the sound."""

    COPY = "copy"
    NONE = "none"
    TRANSCODE = "transcode"


class SubtitleChoice(StrEnum):
    """What becomes of the subtitles."""

    COPY = "copy"
    NONE = "none"
    TRANSCODE = "transcode"


@dataclass(frozen=True)
class PixelSize:
    """A size as one value: Typer takes a tuple for an option with two arguments."""

    height: int
    width: int


def parse_size(text: str) -> PixelSize:
    """WIDTHxHEIGHT, as everybody writes it."""
    width, _, height = text.lower().partition("x")
    if not (width.isdecimal() and height.isdecimal() and int(width) and int(height)):
        raise typer.BadParameter(f"{text!r} is not a size such as 320x240.")
    return PixelSize(int(height), int(width))


def _parse_rate(text: str) -> Fraction:
    """25, 29.97 or 30000/1001 to an exact fraction."""
    try:
        rate = Fraction(text)
    except (ValueError, ZeroDivisionError) as error:
        raise typer.BadParameter(f"{text!r} is not a frame rate such as 25 or 30000/1001.") from error
    if rate <= 0:
        raise typer.BadParameter(f"{text!r} is not above 0.")
    return rate


def _parse_time(text: str) -> Fraction:
    """12.5, 1:02.5 or 1:00:02.5 to exact seconds."""
    parts = text.split(":")[::-1]
    try:
        values = [Fraction(part) for part in parts]
    except (ValueError, ZeroDivisionError) as error:
        raise typer.BadParameter(f"{text!r} is not a time such as 12.5 or 1:02:30.") from error
    if len(values) > len(SECONDS_PER_PART) or min(values) < 0:
        raise typer.BadParameter(f"{text!r} is not a time such as 12.5 or 1:02:30.")
    return sum((value * unit for value, unit in zip(values, SECONDS_PER_PART, strict=False)), Fraction(0))


def _parse_pair(text: str) -> tuple[str, str]:
    """NAME=VALUE; a flag may stand alone and means 1."""
    name, is_given, value = text.partition("=")
    if not name:
        raise typer.BadParameter(f"{text!r} is not NAME=VALUE.", param_hint="--encoder-option")
    return name, value if is_given else "1"


InputArgument = Annotated[
    str, typer.Argument(metavar="INPUT", help="Video, image, folder or pattern of numbered images, or - for stdin.")
]


@dataclass(frozen=True)
class PartFlags:
    """How much of a video is read, and how its pictures are put together."""

    start: Annotated[
        Fraction | None,
        typer.Option(
            parser=_parse_time,
            metavar="TIME",
            help="Begin here: seconds or [H:]MM:SS[.s] after the first frame.",
            rich_help_panel=INPUT,
        ),
    ] = None
    end: Annotated[
        Fraction | None,
        typer.Option(parser=_parse_time, metavar="TIME", help="Stop before this time.", rich_help_panel=INPUT),
    ] = None
    frames: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Read N frames at most.", rich_help_panel=INPUT)
    ] = None
    deinterlace: Annotated[
        DeinterlaceChoice,
        typer.Option(help="auto rebuilds pictures marked as two fields, on rebuilds all.", rich_help_panel=INPUT),
    ] = DeinterlaceChoice.AUTO

    def part_options(self) -> InputOptions:
        """How much is read."""
        return InputOptions(deinterlace=self.deinterlace.value, start=self.start, end=self.end, max_frames=self.frames)


@dataclass(frozen=True)
class InputFlags(PartFlags):
    """What the input cannot say about itself, too."""

    input_size: Annotated[
        PixelSize | None,
        typer.Option(parser=parse_size, metavar="WxH", help="Size of raw rgb24 frames.", rich_help_panel=INPUT),
    ] = None
    fps: Annotated[
        Fraction | None,
        typer.Option(
            parser=_parse_rate,
            metavar="RATE",
            help="Frame rate of raw frames, raw streams or numbered images, e.g. 25 or 30000/1001. Default: 25.",
            rich_help_panel=INPUT,
        ),
    ] = None

    allow_playlists: Annotated[
        bool,
        typer.Option(
            "--allow-playlists",
            help="Follow HLS, DASH and concat lists, to other files and over the network.",
            rich_help_panel=INPUT,
        ),
    ] = False

    def input_options(self) -> InputOptions:
        """What the input cannot say about itself, and how much of it is wanted."""
        size = (self.input_size.height, self.input_size.width) if self.input_size else None
        return replace(self.part_options(), raw_size=size, frame_rate=self.fps, allow_playlists=self.allow_playlists)


@dataclass(frozen=True)
class EncodingFlags:
    """How videos are encoded."""

    codec: Annotated[
        str | None,
        typer.Option(
            "--codec",
            "-c",
            metavar="ENCODER",
            help="libx264, libx265, libsvtav1, ffv1 or another encoder of FFmpeg. Default: by container.",
            rich_help_panel=ENCODING,
        ),
    ] = None
    crf: Annotated[
        float | None,
        typer.Option(
            metavar="N",
            help="Constant quality on the encoder's own scale; lower is better. Default: near transparent.",
            rich_help_panel=ENCODING,
        ),
    ] = None
    preset: Annotated[
        str | None, typer.Option(metavar="NAME", help="The encoder's speed preset.", rich_help_panel=ENCODING)
    ] = None
    pix_fmt: Annotated[
        str | None,
        typer.Option(
            metavar="FORMAT",
            help="FFmpeg pixel format. Default: the source's depth and chroma where the encoder has them.",
            rich_help_panel=ENCODING,
        ),
    ] = None

    preset_for: Annotated[
        PurposeChoice | None,
        typer.Option(
            help="Codec and quality together: archive is lossless, share plays everywhere, edit suits editors.",
            rich_help_panel=ENCODING,
        ),
    ] = None
    encoder_option: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="An option of the encoder; repeatable.", rich_help_panel=ENCODING),
    ] = None
    audio: Annotated[
        AudioChoice, typer.Option(help="transcode encodes all sound as AAC, or Opus in WebM.", rich_help_panel=ENCODING)
    ] = AudioChoice.COPY
    subs: Annotated[SubtitleChoice, typer.Option(help="Subtitle tracks.", rich_help_panel=ENCODING)] = (
        SubtitleChoice.COPY
    )
    max_pixels: Annotated[
        int,
        typer.Option(min=1, metavar="N", help="Refuse to make pictures of more pixels.", rich_help_panel=ENCODING),
    ] = MAX_OUTPUT_PIXELS

    def encode_options(self) -> EncodeOptions:
        """How to encode."""
        return EncodeOptions(
            codec=self.codec,
            crf=self.crf,
            preset=self.preset,
            pix_fmt=self.pix_fmt,
            purpose=self.preset_for.value if self.preset_for else None,
            encoder_options=tuple(_parse_pair(text) for text in self.encoder_option or ()),
            audio=self.audio.value,
            subtitles=self.subs.value,
            max_pixels=self.max_pixels,
        )
