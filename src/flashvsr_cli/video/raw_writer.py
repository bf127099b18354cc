"""Uncompressed streams, Y4M and raw rgb24, as sinks."""

from fractions import Fraction
from typing import Any

import numpy as np

from flashvsr_cli.errors import OutputError
from flashvsr_cli.geometry import Size
from flashvsr_cli.video.alpha import AlphaEnlarger
from flashvsr_cli.video.faults import output_faults
from flashvsr_cli.video.frame import Frame, to_depth
from flashvsr_cli.video.info import DEFAULT_RATE, RANGE_FULL, RANGE_LIMITED, ColorTags, SourceInfo
from flashvsr_cli.video.pixel_format import describe_pixel_format
from flashvsr_cli.video.pixels import FromRgb, resolve_color
from flashvsr_cli.video.sink import SinkBase
from flashvsr_cli.video.source import Source
from flashvsr_cli.video.targets import ByteTarget
from flashvsr_cli.video.y4m import CHROMA_FORMATS, FRAME_MAGIC, Y4mHeader, chroma_siting, pack_picture, plane_layout

STEADY_SHARE = Fraction(1, 10)
"""Of a frame's length: by how much lengths may differ in a clip whose frames come at equal distances."""
CHROMA_OF_SUBSAMPLING = {(1, 1): "444", (1, 2): "422", (2, 2): "420"}


class _StreamSink(SinkBase):
    """What both share: a target that receives bytes in order, and no times."""

    def __init__(self, name: str, target: ByteTarget, source: Source, size: Size) -> None:
        super().__init__(size, is_deep=source.info.bit_depth > 8)
        self._name = name
        self._target = target
        self._rate = source.info.frame_rate or DEFAULT_RATE
        self._time_base = source.info.time_base
        self._last_pts: int | None = None
        self._is_steady = True
        if source.tracks.streams:
            self.notices.append(f"{name} holds pictures only: the other tracks are left out.")

    def _notice_time(self, frame: Frame) -> None:
        """Says once that the times of the input are lost, when the first frame comes early or late for its rate."""
        last, self._last_pts = self._last_pts, frame.pts
        if last is None or frame.pts is None or not self._is_steady:
            return
        length, usual = (frame.pts - last) * self._time_base, 1 / self._rate
        self._is_steady = abs(length - usual) <= max(self._time_base, usual * STEADY_SHARE)
        if not self._is_steady:
            self.notices.append(
                f"{self._name} has one frame rate, {self._rate}: the times of the input, which differ from frame "
                f"{self.n_frames} on, are lost. Matroska (.mkv) keeps them."
            )

    def commit(self) -> None:
        """Ends the stream."""
        if not self.n_frames:
            raise OutputError(f"{self._name} would have no frames.", "Check the input.")
        with output_faults(self._name):
            self._target.commit()

    def abort(self) -> None:
        """Removes the temporary if the target is a file."""
        self._target.abort()

    def interrupt(self) -> None:
        """Makes a waiting write give up."""
        self._target.interrupt()

    def _facts(self, pix_fmt: str) -> dict[str, Any]:
        return {
            "name": self._name,
            "codec": "rawvideo",
            "pix_fmt": pix_fmt,
            "frames": self.n_frames,
            "bytes": self._target.n_bytes,
        }


class Y4mSink(_StreamSink):
    """Writes a Y4M stream with the source's chroma format, depth, rate, aspect and colour range.

    Y4M has no colour matrix. The pictures keep that of the input, as every scaler does; where players would guess
    another for the larger size, a notice names it.
    """

    def __init__(self, name: str, target: ByteTarget, source: Source, size: Size) -> None:
        super().__init__(name, target, source, size)
        info = source.info
        chroma = choose_chroma(info)
        self._pix_fmt = CHROMA_FORMATS[chroma]
        color = resolve_color(_stored_color(info, self._pix_fmt), self._pix_fmt, info.size)
        self._from_rgb = FromRgb(self._pix_fmt, color, siting=chroma_siting(chroma))
        self._layout = plane_layout(self._pix_fmt, size)
        color_range = color.range if info.kind != "y4m" or info.color.range else 0
        if info.kind == "y4m" and describe_pixel_format(info.pix_fmt).is_gray:
            color_range = 0 if info.color.range == RANGE_LIMITED else RANGE_FULL
        self._keeps_alpha = describe_pixel_format(self._pix_fmt).has_alpha
        self._enlarge_alpha = AlphaEnlarger(size)
        if info.has_alpha and not self._keeps_alpha:
            self.notices.append(f"{name} has no transparency: it is left out.")
        self._header = Y4mHeader(
            size=size,
            rate=self._rate,
            interlacing="p",
            pixel_aspect=info.sample_aspect_ratio,
            chroma=chroma,
            color_range=color_range,
        )
        guessed = ColorTags().with_known_matrix(size)
        if color.matrix != guessed.matrix and not describe_pixel_format(self._pix_fmt).is_gray:
            self.notices.append(
                f"Y4M does not say which colour matrix it uses: the output uses {color.names()['matrix']}, like the "
                f"input, though its size suggests {guessed.names()['matrix']}. Tell the next program."
            )

    def write(self, frame: Frame) -> None:
        """Writes a frame; its time is not written, Y4M counts frames."""
        self._notice_time(frame)
        picture = self._from_rgb(frame.image, self._enlarge_alpha(frame.alpha) if self._keeps_alpha else None)
        with output_faults(self._name):
            if not self.n_frames:
                self._target.write(self._header.line())
            self._target.write(FRAME_MAGIC + b"\n")
            for plane in pack_picture(picture, self._layout):
                self._target.write(plane.data)
        self.n_frames += 1

    def facts(self) -> dict[str, Any]:
        """What was written."""
        return self._facts(self._pix_fmt)


class RawSink(_StreamSink):
    """Writes raw rgb24."""

    def __init__(self, name: str, target: ByteTarget, source: Source, size: Size) -> None:
        super().__init__(name, target, source, size)
        if source.info.bit_depth > 8:
            self.notices.append(f"rgb24 stores 8 bits; the source has {source.info.bit_depth}.")
        if source.info.has_alpha:
            self.notices.append(f"{name} has no transparency: it is left out.")

    def write(self, frame: Frame) -> None:
        """Writes a frame."""
        self._notice_time(frame)
        with output_faults(self._name):
            self._target.write(np.ascontiguousarray(to_depth(frame.image, 8)).data)
        self.n_frames += 1

    def facts(self) -> dict[str, Any]:
        """What was written."""
        return self._facts("rgb24")


def choose_chroma(info: SourceInfo) -> str:
    """The `C` token of the output: that of a Y4M input, or the nearest to the source's pixel format."""
    if info.chroma_tag is not None:
        return info.chroma_tag
    described = describe_pixel_format(info.pix_fmt)
    depth = next((d for d in (8, 9, 10, 12, 14, 16) if d >= described.bits), 16)
    if described.is_gray:
        return "mono" if depth == 8 else f"mono{depth if depth != 14 else 16}"
    form = "444" if described.is_rgb else CHROMA_OF_SUBSAMPLING.get(described.subsampling, "444")
    if depth > 8:
        return f"{form}p{depth}"
    return "420mpeg2" if form == "420" else form


def _stored_color(info: SourceInfo, pix_fmt: str) -> ColorTags:
    """The source's tags, with limited range for what was RGB before."""
    was_rgb = describe_pixel_format(info.pix_fmt).is_rgb
    if was_rgb and not describe_pixel_format(pix_fmt).is_rgb:
        return ColorTags(range=RANGE_LIMITED)
    full = info.pix_fmt.startswith("yuvj")
    return ColorTags(RANGE_FULL if full else info.color.range, matrix=info.color.matrix)
