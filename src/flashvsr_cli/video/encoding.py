"""Which encoder, with which pixel format and options."""

import os
from dataclasses import dataclass
from io import BytesIO

import av
from av.codec.codec import Codec, UnknownCodecError, codecs_available

from flashvsr_cli.errors import OutputError, UsageError
from flashvsr_cli.geometry import Size
from flashvsr_cli.options import EncodeOptions
from flashvsr_cli.video.card_encoders import replace_missing_card
from flashvsr_cli.video.hdr import PARAMETERS, encoder_parameters
from flashvsr_cli.video.info import SourceInfo
from flashvsr_cli.video.pixel_format import describe_pixel_format
from flashvsr_cli.video.purposes import apply_purpose
from flashvsr_cli.video.storage import choose_pix_fmt

MUXERS = {
    "mp4": "mp4",
    "m4v": "ipod",
    "mov": "mov",
    "mkv": "matroska",
    "webm": "webm",
    "avi": "avi",
    "ts": "mpegts",
    "m2ts": "mpegts",
    "flv": "flv",
}
DEFAULT_CODECS = {
    "mp4": "libx264",
    "m4v": "libx264",
    "mov": "libx264",
    "mkv": "libx264",
    "ts": "libx264",
    "m2ts": "libx264",
    "flv": "libx264",
    "avi": "ffv1",
    "webm": "libvpx-vp9",
}
SUGGESTED_CODECS = ("libx264", "libx265", "libsvtav1", "libvpx-vp9", "ffv1", "prores_ks")
QUALITY_OPTIONS = ("crf", "cq")
PRESET_OPTIONS = ("preset", "cpu-used")
# Near transparent for a result that took minutes to compute; each number is in its encoder's own scale.
DEFAULT_QUALITY = {
    "libx264": 16,
    "libx265": 18,
    "libsvtav1": 22,
    "libvpx-vp9": 20,
    "libvpx": 6,
    "libaom-av1": 20,
    "h264_nvenc": 19,
    "hevc_nvenc": 19,
    "av1_nvenc": 23,
}
FIXED_OPTIONS: dict[str, dict[str, str]] = {
    "libx265": {"x265-params": "log-level=error"},
    "libvpx-vp9": {"b": "0", "row-mt": "1", "deadline": "good"},
    "libvpx": {"b": "100M", "deadline": "good"},
    "libaom-av1": {"b": "0", "row-mt": "1"},
    "mpeg4": {"flags": "+qscale", "global_quality": "236"},
    "mjpeg": {"flags": "+qscale", "global_quality": "236"},
    "ffv1": {"level": "3", "slices": "16", "slicecrc": "1"},
}
# libx264's own default takes half as much time again for a twentieth fewer bytes at this quality (docs/performance.md):
# beside a fast GPU it is what everything else waits for, beside a CPU's model it takes that model's cores.
DEFAULT_PRESETS = {"libx264": "faster", "libvpx-vp9": "3", "libaom-av1": "6"}
SVT_LOG_ERRORS_ONLY = "1"
ALPHA_ADVICE = "Kept by ffv1 in .mkv, prores_ks in .mov, VP9 in .webm, and by PNG, TIFF and WebP."
# Parameter lists: what several sources say is joined by colons.
JOINED_OPTIONS = ("x264-params", "x265-params", "svtav1-params", "aom-params")
RIVALS_OF_CRF = ("qp", "crf", "cq", "lossless")
OWN_QUALITY = ("qp", "crf", "cq", "b", "lossless", "global_quality", "rc")
# Containers that hand transparency through, by encoder; the others refuse the codec or show it as opaque.
ALPHA_EXTENSIONS = {
    "ffv1": ("mkv", "avi", "mp4"),
    "prores_ks": ("mov", "mkv"),
    "prores_aw": ("mov", "mkv"),
    "qtrle": ("mov",),
    "png": ("mov", "avi", "mp4"),
    "utvideo": ("avi",),
    "magicyuv": ("avi", "mov"),
    "ffvhuff": ("avi",),
    "libvpx-vp9": ("webm", "mkv"),
}


@dataclass(frozen=True)
class Encoding:
    """A decision about how to encode.

    Attributes:
        codec: FFmpeg encoder.
        pix_fmt: FFmpeg pixel format.
        options: encoder options.
        notices: sentences that the user should see.
    """

    codec: str
    pix_fmt: str
    options: dict[str, str]
    notices: tuple[str, ...] = ()


def plan_encoding(info: SourceInfo, size: Size, extension: str, options: EncodeOptions) -> Encoding:
    """Chooses encoder, pixel format and options.

    Args:
        info: the source.
        size: (height, width) of the output.
        extension: of the output file, without the dot.
        options: the user's wishes.

    Raises:
        OutputError: if the encoder is not available or cannot take the pixel format or size.
        UsageError: if an option has no meaning for the encoder.
    """
    asked_crf = options.crf
    options, card_notices = replace_missing_card(apply_purpose(options, extension))
    name = options.codec or DEFAULT_CODECS.get(extension)
    if name is None:
        raise OutputError(f"There is no default encoder for .{extension}.", "Choose one with --codec.")
    codec = _find_encoder(name)
    holds_alpha = extension in ALPHA_EXTENSIONS.get(name, ())
    pix_fmt, notices = choose_pix_fmt(codec, info, size, options.pix_fmt, holds_alpha=holds_alpha)
    notices[:0] = card_notices
    if info.has_alpha and not describe_pixel_format(pix_fmt).has_alpha:
        notices.append(f"{name} in .{extension} has no transparency: it is left out. {ALPHA_ADVICE}")
    own = dict(options.encoder_options)
    chosen = dict(FIXED_OPTIONS.get(name, {}))
    supported = av.CodecContext.create(codec, "w").supported_options
    known = {option.name for option in supported.private}
    unknown = [option for option in own if option not in known and option not in {o.name for o in supported.generic}]
    if unknown:
        raise UsageError(
            f"The encoder {name} has no option {unknown[0]!r}.", f"It has, among others: {', '.join(sorted(known))}."
        )
    _check_quality(asked_crf, own, options)
    _set_quality(chosen, name, known, options.crf, has_own=any(option in own for option in OWN_QUALITY))
    _set_preset(chosen, name, known, options.preset)
    notices.extend(_set_hdr(chosen, name, info))
    for option, value in options.encoder_options:
        is_joined = option in JOINED_OPTIONS and option in chosen
        chosen[option] = f"{chosen[option]}:{value}" if is_joined else value
    if name == "libsvtav1":
        # SVT-AV1 prints to stderr on its own; this is its only switch. A user's own setting stays.
        os.environ.setdefault("SVT_LOG", SVT_LOG_ERRORS_ONLY)
    return Encoding(name, pix_fmt, chosen, tuple(notices))


def _set_hdr(chosen: dict[str, str], name: str, info: SourceInfo) -> list[str]:
    """Adds the source's HDR metadata to the options; the notices say what the encoder cannot take."""
    notices = []
    parameters = encoder_parameters(name, info.hdr)
    if parameters is not None:
        option, text = parameters
        chosen[option] = f"{chosen[option]}:{text}" if option in chosen else text
    elif not info.hdr.is_empty:
        notices.append(
            f"{name} does not store mastering display and content light level, which {info.name} has: "
            f"use --codec {', '.join(PARAMETERS)} to keep them."
        )
    if info.hdr.dynamic:
        notices.append(
            f"The {' and '.join(info.hdr.dynamic)} metadata of {info.name} belongs to its own frames: left out."
        )
    return notices


def find_muxer(location: str) -> str:
    """FFmpeg's name of the container for a file name.

    Raises:
        OutputError: if no container has the extension.
    """
    extension = location.rsplit(".", 1)[-1].lower()
    known = MUXERS.get(extension)
    if known is None:
        raise OutputError(
            f"{location} has an extension that is no video container.", f"Use one of: .{', .'.join(MUXERS)}."
        )
    return known


def extensions_for(encoder: str) -> list[str]:
    """Extensions of the containers that hold what an encoder makes; only `mkv` if that is one of them."""
    codec = Codec(encoder, "w").canonical_name
    holders = []
    for extension, muxer in MUXERS.items():
        with av.open(BytesIO(), "w", format=muxer) as trial:
            if codec in trial.supported_codecs:
                holders.append(extension)
    return ["mkv"] if "mkv" in holders else holders


def _find_encoder(name: str) -> Codec:
    try:
        codec = Codec(name, "w")
    except UnknownCodecError as error:
        present = ", ".join(c for c in SUGGESTED_CODECS if c in codecs_available)
        raise OutputError(f"This FFmpeg has no encoder {name!r}.", f"Use one of: {present}.") from error
    if codec.type != "video":
        raise UsageError(f"{name} does not encode video.", f"Use one of: {', '.join(SUGGESTED_CODECS)}.")
    return codec


def _check_quality(crf: float | None, own: dict[str, str], options: EncodeOptions) -> None:
    """Refuses a quality that the encoder's own settings, the user's or a purpose's, would override unsaid."""
    other = next((option for option in RIVALS_OF_CRF if option in own), None)
    if crf is None or other is None:
        return
    of_purpose = f", which --preset-for {options.purpose} sets" if options.purpose else ""
    raise UsageError(
        f"--crf {crf:g} contradicts the encoder's {other}={own[other]}{of_purpose}.", "Leave one of them out."
    )


def _set_quality(chosen: dict[str, str], name: str, known: set[str], crf: float | None, *, has_own: bool) -> None:
    option = next((o for o in QUALITY_OPTIONS if o in known), None)
    if crf is not None and option is None:
        raise UsageError(f"The encoder {name} has no constant-quality setting.", "Leave out --crf.")
    value = crf if crf is not None or has_own else DEFAULT_QUALITY.get(name)
    if option is not None and value is not None:
        chosen[option] = f"{value:g}"


def _set_preset(chosen: dict[str, str], name: str, known: set[str], preset: str | None) -> None:
    option = next((o for o in PRESET_OPTIONS if o in known), None)
    if preset is not None and option is None:
        raise UsageError(f"The encoder {name} has no presets.", "Leave out --preset.")
    value = preset if preset is not None else DEFAULT_PRESETS.get(name)
    if option is not None and value is not None:
        chosen[option] = value
