"""How pixels are stored: the pixel format and the colour tags of an output."""

import itertools

from av.codec.codec import Codec

from flashvsr_cli.errors import OutputError
from flashvsr_cli.geometry import Size
from flashvsr_cli.video.info import MATRIX_RGB, RANGE_FULL, RANGE_LIMITED, ColorTags, SourceInfo
from flashvsr_cli.video.pixel_format import PixelFormat, describe_pixel_format
from flashvsr_cli.video.pixels import resolve_color
from flashvsr_cli.video.stating import storable_color

ENCODER_DEPTHS = (8, 9, 10, 12, 14, 16)
# Listed by the encoder, but opened with `strict=experimental` only, since few players know them.
EXPERIMENTAL_FORMATS = {"libvpx-vp9": ("yuva422p", "yuva444p", "gbrap")}
CARD_SPELLING = {"420": "p0", "422": "p2", "444": "p4"}


def choose_pix_fmt(
    codec: Codec, info: SourceInfo, size: Size, wished: str | None, *, holds_alpha: bool
) -> tuple[str, list[str]]:
    """The encoder's pixel format for a source, and notices.

    Without a wish: the source's depth, chroma and transparency where the encoder has them, transparency first; 4:2:0
    for RGB sources unless the encoder is lossless; 4:4:4 where subsampled chroma does not fit an odd size.

    Args:
        codec: the encoder.
        info: the source.
        size: (height, width) of the output.
        wished: a pixel format that the user asks for.
        holds_alpha: whether the container keeps the encoder's transparency.

    Raises:
        OutputError: if the wish is not possible, or nothing fits.
    """
    available = [f.name for f in codec.video_formats or []]
    if wished is not None:
        return _check_wish(codec.name, available, size, wished), []
    available = [name for name in available if name not in EXPERIMENTAL_FORMATS.get(codec.name, ())]
    source = describe_pixel_format(info.pix_fmt)
    bits = min(source.bits, ENCODER_DEPTHS[-1])
    forms = _preferred_forms(source, codec)
    stored = [(False, form) for form in forms]
    if source.has_alpha and holds_alpha:
        stored[:0] = [(True, form) for form in dict.fromkeys((*forms, "rgb"))]
    for (has_alpha, form), depth in itertools.product(stored, _preferred_depths(bits)):
        for name in _spellings(form, depth, codec.name, has_alpha=has_alpha):
            if (available and name not in available) or not _fits(describe_pixel_format(name), size):
                continue
            notices = []
            if depth < bits:
                notices.append(f"{codec.name} stores {depth} bits; the source has {bits}.")
            if form != forms[0]:
                notices.append(f"The output is stored as {name}: {_reason_for(form, source, codec, size)}.")
            return name, notices
    fallback = next((n for n in available if _fits(describe_pixel_format(n), size)), None)
    if fallback is None:
        raise OutputError(
            f"{codec.name} cannot encode {size[1]}x{size[0]} (odd sides need 4:4:4).",
            "Use --codec libx264, libx265 or ffv1, or another --scale.",
        )
    return fallback, [f"The output is stored as {fallback}, the format that {codec.name} offers."]


def _check_wish(codec: str, available: list[str], size: Size, wished: str) -> str:
    try:
        described = describe_pixel_format(wished)
    except ValueError as error:
        raise OutputError(f"{wished} is no pixel format.", f"{codec} takes: {', '.join(available)}.") from error
    if available and wished not in available:
        raise OutputError(f"{codec} cannot encode {wished}.", f"It takes: {', '.join(available)}.")
    if not _fits(described, size):
        raise OutputError(
            f"{wished} needs even sides, but the output is {size[1]}x{size[0]}.", "Use a 4:4:4 format such as yuv444p."
        )
    return wished


def _fits(described: PixelFormat, size: Size) -> bool:
    return size[0] % described.subsampling[0] == 0 and size[1] % described.subsampling[1] == 0


def _preferred_forms(source: PixelFormat, codec: Codec) -> list[str]:
    if source.is_rgb:
        return ["rgb", "444", "420", "422"] if codec.lossless and not codec.lossy else ["420", "444", "422"]
    if source.is_gray:
        return ["gray", "420", "444", "422"] if codec.lossless and not codec.lossy else ["420", "444", "422", "gray"]
    own = {(1, 1): "444", (1, 2): "422", (2, 2): "420"}.get(source.subsampling, "444")
    if own == "420":
        return ["420", "422", "444"]  # the least that keeps all of the source's chroma
    return [own, *(form for form in ("444", "422", "420") if form != own)]


def _preferred_depths(bits: int) -> list[int]:
    above = [d for d in ENCODER_DEPTHS if d >= bits]
    return above + [d for d in reversed(ENCODER_DEPTHS) if d < bits]


def _spellings(form: str, depth: int, codec: str, *, has_alpha: bool = False) -> tuple[str, ...]:
    suffix = "" if depth == 8 else f"{depth}le"
    if form == "rgb":
        packed = (
            {8: ("bgra", "rgba", "argb"), 16: ("rgba64le",)} if has_alpha else {8: ("bgr0", "rgb24"), 16: ("rgb48le",)}
        )
        return (f"gbr{'a' * has_alpha}p{suffix}", *packed.get(depth, ()))
    if form == "gray":
        return ({8: ("ya8",), 16: ("ya16le",)}.get(depth, ())) if has_alpha else (f"gray{suffix}",)
    if has_alpha:
        return (f"yuva{form}p{suffix}",)
    if depth > 8:
        # The second spelling is that of graphics cards, which interleave chroma.
        return (f"yuv{form}p{suffix}", f"{CARD_SPELLING[form]}{depth}le")
    return (f"yuvj{form}p",) if codec == "mjpeg" else (f"yuv{form}p", f"yuvj{form}p")


def _reason_for(form: str, source: PixelFormat, codec: Codec, size: Size) -> str:
    if form in ("444", "422") and (size[0] % 2 or size[1] % 2):
        return f"an odd size ({size[1]}x{size[0]}) needs it; some players expect 4:2:0"
    return f"{codec.name} does not take the source's {source.name}"


def output_color(info: SourceInfo, pix_fmt: str, size: Size, codec: str, muxer: str) -> ColorTags:
    """The tags that pictures are stored by: those of the source, and a matrix wherever one was needed.

    A source that does not state its matrix was decoded by the rule for its size; the larger output would fall under
    another rule, so the matrix is written down. Primaries and transfer stay as stated: no pixel value depends on them.
    RGB sources stored as YUV get the matrix of the output's size, in limited range. Where the codec and the container
    cannot state the range or the matrix, it is the one that the output is read back with (`storable_color`).
    """
    described = describe_pixel_format(pix_fmt)
    if described.is_rgb:
        return ColorTags(RANGE_FULL, info.color.primaries, info.color.transfer, MATRIX_RGB)
    return storable_color(_wished_color(info, pix_fmt, size), pix_fmt, size, codec, muxer)


def loses_full_range(info: SourceInfo, color: ColorTags, pix_fmt: str) -> bool:
    """Whether YUV in full range is stored in limited range, by these tags of the output."""
    source = describe_pixel_format(info.pix_fmt)
    is_yuv = not source.is_rgb and not source.is_gray
    is_full = resolve_color(info.color, info.pix_fmt, info.size).range == RANGE_FULL
    return is_yuv and is_full and not describe_pixel_format(pix_fmt).is_rgb and color.range == RANGE_LIMITED


def _wished_color(info: SourceInfo, pix_fmt: str, size: Size) -> ColorTags:
    source = describe_pixel_format(info.pix_fmt)
    stated = info.color
    is_full = pix_fmt.startswith("yuvj")
    if source.is_rgb or (source.is_gray and not describe_pixel_format(pix_fmt).is_gray):
        matrix = ColorTags().with_known_matrix(size).matrix
        return ColorTags(RANGE_FULL if is_full else RANGE_LIMITED, stated.primaries, stated.transfer, matrix)
    color_range = RANGE_FULL if is_full or info.pix_fmt.startswith("yuvj") else stated.range
    matrix = resolve_color(stated, info.pix_fmt, info.size).matrix
    return ColorTags(color_range, stated.primaries, stated.transfer, matrix)
