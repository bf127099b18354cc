"""What `--preset-for` means: codec, quality, speed and pixel format together, by container, as one table."""

from dataclasses import dataclass, replace

from flashvsr_cli.errors import UsageError
from flashvsr_cli.options import EncodeOptions, Purpose


@dataclass(frozen=True)
class Recipe:
    """How a purpose is met in one container.

    Attributes:
        codec: FFmpeg encoder.
        crf: constant quality; None where the encoder has none or is lossless.
        preset: speed preset; None is this tool's default for the encoder.
        pix_fmt: pixel format; None keeps the source's depth and chroma.
        options: the encoder's own options.
    """

    codec: str
    crf: float | None = None
    preset: str | None = None
    pix_fmt: str | None = None
    options: tuple[tuple[str, str], ...] = ()


_LOSSLESS_H264 = Recipe("libx264", preset="medium", options=(("qp", "0"),))
_SHARED_H264 = Recipe("libx264", crf=20, preset="medium", pix_fmt="yuv420p")
_PRORES = Recipe("prores_ks")  # its profile follows the pixel format: 4:2:2 is HQ, with transparency 4444
_INTRA_H264 = Recipe("libx264", crf=12, preset="fast", options=(("g", "1"), ("bf", "0")))

RECIPES: dict[Purpose, dict[str, Recipe]] = {
    "archive": {
        "mkv": Recipe("ffv1"),
        "avi": Recipe("ffv1"),
        "mov": _LOSSLESS_H264,
        "mp4": _LOSSLESS_H264,
        "webm": Recipe("libvpx-vp9", options=(("lossless", "1"),)),
    },
    "share": {
        "mp4": _SHARED_H264,
        "m4v": _SHARED_H264,
        "mov": _SHARED_H264,
        "mkv": _SHARED_H264,
        "webm": Recipe("libvpx-vp9", crf=28, pix_fmt="yuv420p"),
    },
    "edit": {"mov": _PRORES, "mkv": _PRORES, "mp4": _INTRA_H264},
}


def apply_purpose(options: EncodeOptions, extension: str) -> EncodeOptions:
    """The options with what a purpose sets, where the user said nothing; another codec keeps only its own settings.

    Raises:
        UsageError: if the purpose has no recipe for the container.
    """
    if options.purpose is None:
        return options
    recipes = RECIPES[options.purpose]
    recipe = recipes.get(extension)
    if recipe is None:
        raise UsageError(
            f"There is no encoding for the purpose {options.purpose} in .{extension}.",
            f"Use one of: .{', .'.join(recipes)}.",
        )
    if options.codec not in (None, recipe.codec):
        return options
    return replace(
        options,
        codec=recipe.codec,
        crf=recipe.crf if options.crf is None else options.crf,
        preset=options.preset or recipe.preset,
        pix_fmt=options.pix_fmt or recipe.pix_fmt,
        encoder_options=(*recipe.options, *options.encoder_options),
    )
