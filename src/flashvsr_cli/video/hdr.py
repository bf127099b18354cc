"""Static HDR metadata: the mastering display (SMPTE ST 2086) and the content light level (CTA-861.3).

FFmpeg hands them out as side data of decoded pictures. PyAV cannot attach side data to an encoder, so they travel as
parameters of the encoders that write them into their own bitstream; every container then holds them.
"""

import struct
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av

Point = tuple[Fraction, Fraction]

# AVMasteringDisplayMetadata: primaries R G B, white point, darkest and brightest (rationals), two flags.
MASTERING_STRUCT = struct.Struct("=20i2i")
LIGHT_STRUCT = struct.Struct("=2I")
CHROMATICITY_STEPS, LUMINANCE_STEPS = 50_000, 10_000
DYNAMIC_KINDS = {
    "DYNAMIC_HDR_PLUS": "HDR10+",
    "DOVI_RPU_BUFFER": "Dolby Vision",
    "DOVI_METADATA": "Dolby Vision",
    "DYNAMIC_HDR_VIVID": "HDR Vivid",
}
CAPTIONS_KIND = "A53_CC"
# Encoder: (its option that takes parameters, key of the display, key of the light level, whether it takes integers)
PARAMETERS = {
    "libx265": ("x265-params", "master-display", "max-cll", True),
    "libx264": ("x264-params", "mastering-display", "cll", True),
    "libsvtav1": ("svtav1-params", "mastering-display", "content-light", False),
}


@dataclass(frozen=True)
class MasteringDisplay:
    """The display on which a film was graded.

    Attributes:
        red, green, blue, white: CIE 1931 (x, y).
        darkest, brightest: candela per square metre.
    """

    red: Point
    green: Point
    blue: Point
    white: Point
    darkest: Fraction
    brightest: Fraction


@dataclass(frozen=True)
class HdrMetadata:
    """What a stream says once about its light.

    Attributes:
        display: the mastering display; None if not stated.
        light: (brightest pixel, brightest frame average) in candela per square metre; None if not stated.
        dynamic: names of metadata that changes from frame to frame.
    """

    display: MasteringDisplay | None = None
    light: tuple[int, int] | None = None
    dynamic: tuple[str, ...] = ()

    @property
    def is_empty(self) -> bool:
        """Whether nothing static is stated."""
        return self.display is None and self.light is None

    def facts(self) -> dict[str, Any]:
        """As a JSON object: chromaticities and luminances as numbers."""
        display = self.display
        points = {name: getattr(display, name) for name in ("red", "green", "blue", "white")} if display else {}
        return {
            "display": display
            and {
                **{name: [float(x), float(y)] for name, (x, y) in points.items()},
                "luminance": [float(display.darkest), float(display.brightest)],
            },
            "light_level": self.light and list(self.light),
            "dynamic": list(self.dynamic),
        }


def read_hdr(picture: av.VideoFrame) -> HdrMetadata:
    """The metadata of a decoded picture."""
    side_data = _side_data(picture)
    if side_data is None:
        return HdrMetadata()
    display = side_data.get("MASTERING_DISPLAY_METADATA")
    light = side_data.get("CONTENT_LIGHT_LEVEL")
    present = {entry.type.name for entry in side_data}
    dynamic = sorted({name for kind, name in DYNAMIC_KINDS.items() if kind in present})
    return HdrMetadata(
        None if display is None else parse_mastering_display(bytes(display)),
        None if light is None else parse_light_level(bytes(light)),
        tuple(dynamic),
    )


def has_captions(picture: av.VideoFrame) -> bool:
    """Whether a decoded picture carries closed captions (CTA-608, CTA-708)."""
    side_data = _side_data(picture)
    return side_data is not None and any(entry.type.name == CAPTIONS_KIND for entry in side_data)


def _side_data(picture: av.VideoFrame) -> Any:
    """What lies beside a picture; None if PyAV does not know one kind of it: it lists all or none."""
    try:
        return picture.side_data
    except ValueError:
        return None


def parse_mastering_display(data: bytes) -> MasteringDisplay | None:
    """FFmpeg's structure; None if it states only a part, which no encoder takes."""
    if len(data) < MASTERING_STRUCT.size:
        return None
    *numbers, has_primaries, has_luminance = MASTERING_STRUCT.unpack_from(data)
    bottoms = numbers[1::2]
    if not (has_primaries and has_luminance and all(bottoms)):
        return None
    values = [Fraction(top, bottom) for top, bottom in zip(numbers[::2], bottoms, strict=True)]
    red, green, blue, white = ((values[i], values[i + 1]) for i in range(0, 8, 2))
    return MasteringDisplay(red, green, blue, white, values[8], values[9])


def parse_light_level(data: bytes) -> tuple[int, int] | None:
    """FFmpeg's structure; None if both numbers are zero, which means unknown."""
    if len(data) < LIGHT_STRUCT.size:
        return None
    peak, average = LIGHT_STRUCT.unpack_from(data)
    return (peak, average) if peak or average else None


def encoder_parameters(codec: str, hdr: HdrMetadata) -> tuple[str, str] | None:
    """(option, colon-separated parameters) that make an encoder write the metadata; None if it cannot or need not."""
    if hdr.is_empty or codec not in PARAMETERS:
        return None
    option, display_key, light_key, is_integer = PARAMETERS[codec]
    parts = []
    if hdr.display is not None:
        parts.append(f"{display_key}={_display_text(hdr.display, is_integer)}")
    if hdr.light is not None:
        parts.append(f"{light_key}={hdr.light[0]},{hdr.light[1]}")
    return option, ":".join(parts)


def _display_text(display: MasteringDisplay, is_integer: bool) -> str:
    def number(value: Fraction, steps: int) -> str:
        return str(round(value * steps)) if is_integer else f"{float(value):.6f}"

    points = {"G": display.green, "B": display.blue, "R": display.red, "WP": display.white}
    text = "".join(
        f"{name}({number(x, CHROMATICITY_STEPS)},{number(y, CHROMATICITY_STEPS)})" for name, (x, y) in points.items()
    )
    brightest, darkest = number(display.brightest, LUMINANCE_STEPS), number(display.darkest, LUMINANCE_STEPS)
    return f"{text}L({brightest},{darkest})"
