"""Encoders of graphics cards: whether they work here, and what encodes in their place."""

from dataclasses import replace
from fractions import Fraction
from typing import Any

import av
from av.codec.codec import UnknownCodecError
from av.error import FFmpegError

from flashvsr_cli.errors import OutputError
from flashvsr_cli.options import EncodeOptions
from flashvsr_cli.video.faults import reason

ON_THE_CPU = {"h264_nvenc": "libx264", "hevc_nvenc": "libx265", "av1_nvenc": "libsvtav1"}
"""NVIDIA's encoders, and the ones that make the same kind of stream without a card."""
TRIAL_SIZE = (256, 256)


def why_not(name: str) -> str | None:
    """Why an encoder does not open on this machine, in a few words; None if it does."""
    try:
        encoder: Any = av.CodecContext.create(name, "w")
        encoder.height, encoder.width = TRIAL_SIZE
        encoder.pix_fmt, encoder.time_base = "yuv420p", Fraction(1, 25)
        encoder.open()
    except UnknownCodecError:
        return "not in this FFmpeg"
    except (FFmpegError, ValueError) as error:
        return reason(error)
    return None


def replace_missing_card(options: EncodeOptions) -> tuple[EncodeOptions, list[str]]:
    """The options with an encoder for the CPU where they name one of a card that does not work here, and a notice.

    Raises:
        OutputError: the options speak to the card's encoder in words that the other does not know.
    """
    name = options.codec or ""
    cause = why_not(name) if name in ON_THE_CPU else None
    if cause is None:
        return options, []
    instead = ON_THE_CPU[name]
    if options.preset is not None or options.encoder_options:
        raise OutputError(
            f"{name} does not work on this machine: {cause}.",
            f"Use --codec {instead}, or leave out --preset and --encoder-option, which only {name} knows.",
        )
    return replace(options, codec=instead), [f"{name} does not work on this machine ({cause}): {instead} encodes."]
