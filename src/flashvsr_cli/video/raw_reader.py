"""Uncompressed streams, Y4M and raw rgb24, as sources."""

from collections.abc import Iterator

import av
import numpy as np

from flashvsr_cli.errors import InputError, UsageError
from flashvsr_cli.options import InputOptions
from flashvsr_cli.video.alpha import read_alpha
from flashvsr_cli.video.cut import cut_frames
from flashvsr_cli.video.deinterlacer import Deinterlacer, FieldOrder, note_interlacing
from flashvsr_cli.video.frame import Frame
from flashvsr_cli.video.info import DEFAULT_RATE, RANGE_FULL, RANGE_LIMITED, ColorTags, SourceInfo
from flashvsr_cli.video.opening import check_size
from flashvsr_cli.video.pipes import PipeInput
from flashvsr_cli.video.pixel_format import describe_pixel_format
from flashvsr_cli.video.pixels import ToRgb, resolve_color
from flashvsr_cli.video.source import SourceBase
from flashvsr_cli.video.y4m import (
    CHROMA_FORMATS,
    FIELD_MARKS,
    FRAME_MAGIC,
    MAX_LINE_BYTES,
    NEXT_STEP,
    chroma_siting,
    parse_header,
    plane_layout,
    unpack_picture,
)

RGB_CHANNELS = 3


class _StreamSource(SourceBase):
    """What both share: a stream of frames of known size, one after the other."""

    def __init__(self, name: str, stream: PipeInput, options: InputOptions) -> None:
        super().__init__()
        self._name = name
        self._stream = stream
        self._options = options

    def __iter__(self) -> Iterator[Frame]:
        return cut_frames(self._iter_frames(), self._options, self.info.time_base, self._name)

    def _iter_frames(self) -> Iterator[Frame]:
        raise NotImplementedError

    def interrupt(self) -> None:
        """Makes a waiting read give up."""
        self._stream.interrupt()

    def close(self) -> None:
        """Closes the stream if it is a file."""
        self._stream.close()


class Y4mSource(_StreamSource):
    """Frames of a Y4M stream.

    Args:
        name: what messages call the stream.
        stream: positioned at the header.
        options: `frame_rate` supplies a rate that the header leaves unknown.

    Raises:
        InputError: if the header is not understood.
    """

    def __init__(self, name: str, stream: PipeInput, options: InputOptions) -> None:
        super().__init__(name, stream, options)
        header = parse_header(self._read_line(), name)
        check_size(name, header.size, options)
        self._pix_fmt = CHROMA_FORMATS[header.chroma]
        rate = options.frame_rate or header.rate or DEFAULT_RATE
        described = describe_pixel_format(self._pix_fmt)
        color = ColorTags(range=header.color_range)
        if described.is_gray and not header.color_range:
            color = ColorTags(range=RANGE_LIMITED)
        self.info = SourceInfo(
            name=name,
            kind="y4m",
            size=header.size,
            time_base=1 / rate,
            pix_fmt=self._pix_fmt,
            bit_depth=described.bits,
            container="yuv4mpegpipe",
            frame_rate=rate,
            color=color,
            sample_aspect_ratio=header.pixel_aspect,
            is_interlaced=header.interlacing in FIELD_MARKS,
            has_alpha=described.has_alpha,
            chroma_tag=header.chroma,
        )
        self.header = header
        order: dict[str, FieldOrder] = {"t": "tff", "b": "bff"}
        has_fields = note_interlacing(name, self.info.is_interlaced, options, self.notices)
        self._deinterlacer = Deinterlacer("on" if has_fields else "off", order.get(header.interlacing, "auto"))
        if header.rate is None and options.frame_rate is None:
            self.notices.append(f"{name} gives no frame rate; {DEFAULT_RATE} is taken (--fps sets another).")
        self._layout = plane_layout(self._pix_fmt, header.size)
        self._to_rgb = ToRgb(resolve_color(color, self._pix_fmt, header.size), siting=chroma_siting(header.chroma))

    def _iter_frames(self) -> Iterator[Frame]:
        for i_frame, picture in enumerate(self._iter_deinterlaced()):
            yield Frame(self._to_rgb(picture), i_frame, 1, read_alpha(picture))

    def _iter_deinterlaced(self) -> Iterator[av.VideoFrame]:
        for picture in self._iter_pictures():
            yield from self._deinterlacer.push(picture)
        yield from self._deinterlacer.flush()

    def _iter_pictures(self) -> Iterator[av.VideoFrame]:
        while self._stream.peek(1):
            self._read_frame_line()
            data = self._stream.read_exactly(self._layout.n_bytes)
            if len(data) < self._layout.n_bytes:
                raise InputError(
                    f"{self._name} ends in the middle of frame {self.counters.frames}: "
                    f"{len(data)} of {self._layout.n_bytes} bytes.",
                    "Look at the messages of the program that sends it.",
                )
            picture = unpack_picture(data, self._pix_fmt, self.info.size, self._layout)
            self.counters.frames += 1
            yield picture
        if not self.counters.frames:
            raise InputError(f"{self._name} has a Y4M header but no frames.", "Check the program that sends it.")

    def _read_line(self) -> bytes:
        line = self._stream.read_line(MAX_LINE_BYTES)
        if line is None:
            raise InputError(f"{self._name} has a Y4M header line that does not end.", NEXT_STEP)
        return line

    def _read_frame_line(self) -> None:
        mark = self._stream.peek(len(FRAME_MAGIC) + 1)
        if mark[: len(FRAME_MAGIC)] != FRAME_MAGIC or mark[len(FRAME_MAGIC) :] not in (b"\n", b" "):
            raise InputError(
                f"{self._name} has {mark!r} where frame {self.counters.frames} of the Y4M stream should begin.",
                NEXT_STEP,
            )
        if mark[len(FRAME_MAGIC) :] == b"\n":
            self._stream.read_exactly(len(mark))
        else:
            self._read_line()


class RawSource(_StreamSource):
    """Frames of raw rgb24: rows of red, green, blue bytes, no header, no padding.

    Args:
        name: what messages call the stream.
        stream: positioned at the first frame.
        options: `raw_size` is required; `frame_rate` defaults to 25.
    """

    def __init__(self, name: str, stream: PipeInput, options: InputOptions) -> None:
        super().__init__(name, stream, options)
        if options.raw_size is None:
            raise UsageError(f"{name} is raw video of unknown size.", "Give --input-size WIDTHxHEIGHT.")
        check_size(name, options.raw_size, options)
        rate = options.frame_rate or DEFAULT_RATE
        if options.frame_rate is None:
            self.notices.append(
                f"{name} is raw video; {DEFAULT_RATE} frames per second are taken (--fps sets another)."
            )
        self.info = SourceInfo(
            name=name,
            kind="rgb24",
            size=options.raw_size,
            time_base=1 / rate,
            pix_fmt="rgb24",
            container="rawvideo",
            frame_rate=rate,
            color=ColorTags(range=RANGE_FULL),
        )

    def _iter_frames(self) -> Iterator[Frame]:
        height, width = self.info.size
        n_bytes = height * width * RGB_CHANNELS
        while data := self._stream.read_exactly(n_bytes):
            if len(data) < n_bytes:
                raise InputError(
                    f"{self._name} ends in the middle of frame {self.counters.frames}: {len(data)} of {n_bytes} bytes.",
                    "Check --input-size, and the program that sends the frames.",
                )
            self.counters.frames += 1
            image = np.frombuffer(data, np.uint8).reshape(height, width, RGB_CHANNELS)
            yield Frame(image, self.counters.frames - 1, 1)
        if not self.counters.frames:
            raise InputError(f"{self._name} has no frames.", "Check the program that sends it.")
