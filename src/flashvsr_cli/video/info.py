"""What is known about an input before its frames are read."""

from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any, Literal

from flashvsr_cli.geometry import Size
from flashvsr_cli.video.hdr import HdrMetadata

SourceKind = Literal["video", "image", "images", "y4m", "rgb24"]

DEFAULT_RATE = Fraction(25)
"""Frames per second where neither the input nor the user says."""
UNSPECIFIED = 2
RANGE_UNSPECIFIED, RANGE_LIMITED, RANGE_FULL = 0, 1, 2
MATRIX_RGB, MATRIX_BT709, MATRIX_BT470BG, MATRIX_SMPTE170M = 0, 1, 5, 6
HD_MIN_WIDTH, HD_MIN_HEIGHT = 1280, 577

RANGE_NAMES = {RANGE_UNSPECIFIED: "unspecified", RANGE_LIMITED: "limited", RANGE_FULL: "full"}
MATRIX_NAMES = {
    MATRIX_RGB: "rgb",
    MATRIX_BT709: "bt709",
    UNSPECIFIED: "unspecified",
    4: "fcc",
    MATRIX_BT470BG: "bt470bg",
    MATRIX_SMPTE170M: "smpte170m",
    7: "smpte240m",
    8: "ycgco",
    9: "bt2020nc",
    10: "bt2020c",
    14: "ictcp",
}
PRIMARIES_NAMES = {
    1: "bt709",
    UNSPECIFIED: "unspecified",
    4: "bt470m",
    5: "bt470bg",
    6: "smpte170m",
    7: "smpte240m",
    8: "film",
    9: "bt2020",
    10: "smpte428",
    11: "smpte431",
    12: "smpte432",
    22: "ebu3213",
}
TRANSFER_NAMES = {
    1: "bt709",
    UNSPECIFIED: "unspecified",
    4: "gamma22",
    5: "gamma28",
    6: "smpte170m",
    7: "smpte240m",
    8: "linear",
    11: "iec61966-2-4",
    13: "iec61966-2-1",
    14: "bt2020-10",
    15: "bt2020-12",
    16: "smpte2084",
    17: "smpte428",
    18: "arib-std-b67",
}


@dataclass(frozen=True)
class ColorTags:
    """How pixel values mean colours, as the code points of ISO/IEC 23091-2 that FFmpeg uses.

    Attributes:
        range: 0 unspecified, 1 limited, 2 full (FFmpeg's numbers).
        primaries, transfer, matrix: code points; 2 is unspecified.
    """

    range: int = RANGE_UNSPECIFIED
    primaries: int = UNSPECIFIED
    transfer: int = UNSPECIFIED
    matrix: int = UNSPECIFIED

    def names(self) -> dict[str, str]:
        """The four tags by FFmpeg's names."""
        return {
            "range": RANGE_NAMES.get(self.range, str(self.range)),
            "primaries": PRIMARIES_NAMES.get(self.primaries, str(self.primaries)),
            "transfer": TRANSFER_NAMES.get(self.transfer, str(self.transfer)),
            "matrix": MATRIX_NAMES.get(self.matrix, str(self.matrix)),
        }

    def with_known_matrix(self, size: Size) -> "ColorTags":
        """These tags with a matrix that is not unspecified: BT.709 for HD sizes, BT.601 below.

        The rule is the one players follow: HD begins at 1280 columns or above 576 rows.
        """
        if self.matrix not in (UNSPECIFIED, MATRIX_RGB):
            return self
        is_hd = size[1] >= HD_MIN_WIDTH or size[0] >= HD_MIN_HEIGHT
        return replace(self, matrix=MATRIX_BT709 if is_hd else MATRIX_SMPTE170M)


@dataclass(frozen=True)
class TrackInfo:
    """A track beside the pictures: audio, subtitles, data, attachment.

    Attributes:
        index: position among all tracks of the file, from 0.
        kind: FFmpeg's media type.
        codec: FFmpeg's codec name, or "unknown".
        language: ISO 639 code if the file names one.
        title: the track's title if it has one.
    """

    index: int
    kind: str
    codec: str
    language: str | None = None
    title: str | None = None

    def describe(self) -> str:
        """The track in a few words, for messages."""
        extra = ", ".join(part for part in (self.language, self.title) if part)
        return f"{self.kind} track {self.index} ({self.codec}{', ' + extra if extra else ''})"


@dataclass(frozen=True)
class SourceInfo:
    """Facts about an input.

    Attributes:
        name: path as the user gave it, or "standard input".
        kind: what sort of input it is.
        size: (height, width) of the frames as they come out of the reader, after rotation.
        n_frames: frames that the input promises; None if it does not say.
        n_frames_is_exact: whether `n_frames` was counted (an index, a folder) and not estimated from the duration.
        frame_rate: average frames per second; None if unknown.
        steady_rate: frames per second where they come at equal distances, as far as FFmpeg looked; None otherwise.
        time_base: seconds per tick of `Frame.pts`.
        duration: seconds; None if unknown.
        bit_depth: bits per sample of the decoded pictures; above 8 the frames are uint16.
        color: tags as the input states them.
        hdr: mastering display and light level as the first picture states them.
        sample_aspect_ratio: width to height of a pixel after rotation; None if the input does not say.
        rotation: degrees clockwise by which the reader turned the pictures; `is_mirrored` if it also mirrored them.
        is_interlaced: whether the first picture is marked as two fields.
        codec: FFmpeg decoder name ("rawvideo" for raw and Y4M).
        pix_fmt: FFmpeg pixel format of the decoded pictures.
        container: FFmpeg demuxer name, "" where there is none.
        tracks: the other tracks of the file.
        frame_names: file name stems of the pictures, from the first that is shown on.
        first_number: number of the first of them in a numbered sequence.
        profile: the ICC profile of pictures.
        chroma_tag: the `C` token of a Y4M header.
        metadata: container metadata (title and the like).
        video_metadata: metadata of the video track (language, timecode and the like).
    """

    name: str
    kind: SourceKind
    size: Size
    time_base: Fraction
    pix_fmt: str
    bit_depth: int = 8
    codec: str = "rawvideo"
    container: str = ""
    n_frames: int | None = None
    n_frames_is_exact: bool = False
    frame_rate: Fraction | None = None
    steady_rate: Fraction | None = None
    duration: Fraction | None = None
    color: ColorTags = field(default_factory=ColorTags)
    hdr: HdrMetadata = field(default_factory=HdrMetadata)
    sample_aspect_ratio: Fraction | None = None
    rotation: int = 0
    is_mirrored: bool = False
    is_interlaced: bool = False
    has_alpha: bool = False
    tracks: tuple[TrackInfo, ...] = ()
    frame_names: tuple[str, ...] = ()
    first_number: int | None = None
    profile: bytes | None = None
    chroma_tag: str | None = None
    metadata: tuple[tuple[str, str], ...] = ()
    video_metadata: tuple[tuple[str, str], ...] = ()

    def facts(self) -> dict[str, Any]:
        """The facts as a JSON object for reports; rates, ratios and seconds as strings of exact fractions."""
        return {
            "name": self.name,
            "kind": self.kind,
            "size": list(self.size),
            "frames": self.n_frames,
            "frames_exact": self.n_frames_is_exact,
            "frame_rate": _fraction_text(self.frame_rate),
            "time_base": str(self.time_base),
            "duration_s": None if self.duration is None else float(self.duration),
            "codec": self.codec,
            "container": self.container,
            "pix_fmt": self.pix_fmt,
            "bit_depth": self.bit_depth,
            "color": self.color.names(),
            "hdr": self.hdr.facts(),
            "sample_aspect_ratio": _fraction_text(self.sample_aspect_ratio),
            "rotation": self.rotation,
            "mirrored": self.is_mirrored,
            "interlaced": self.is_interlaced,
            "alpha": self.has_alpha,
            "tracks": [
                {"index": t.index, "kind": t.kind, "codec": t.codec, "language": t.language, "title": t.title}
                for t in self.tracks
            ],
        }


def _fraction_text(value: Fraction | None) -> str | None:
    return None if value is None else str(value)
