"""Text subtitles encoded anew for a container that does not hold them as they are, and the text track of MP4."""

from fractions import Fraction
from typing import Any

import av
from av.error import FFmpegError

# What the containers hold; all others have no text subtitles.
TEXT_CODEC_OF_MUXER = {"mp4": "mov_text", "ipod": "mov_text", "mov": "mov_text", "webm": "webvtt", "matroska": "srt"}
TEXT_CODECS = ("subrip", "srt", "ass", "ssa", "webvtt", "mov_text", "text", "microdvd", "sami", "subviewer", "mpl2")
TICK = Fraction(1, 1000)
MP4_TEXT = "mov_text"
NO_TEXT = b"\0\0"


def end_of_text(end: int, time_base: Fraction, stream: Any) -> av.Packet:
    """What says that nothing is shown from `end`; the muxer would give its own the last line's duration once more."""
    packet = av.Packet(NO_TEXT)
    packet.pts = packet.dts = end
    packet.duration, packet.time_base, packet.stream = 0, time_base, stream
    return packet


class CopiedMp4Text:
    """A text track from MP4 to MP4, where the stretches without text are packets, which the muxer makes itself."""

    def __init__(self, container: av.container.OutputContainer, stream: Any) -> None:
        self.stream: Any = container.add_stream_from_template(stream, opaque=True)
        self._end: tuple[int, Fraction] | None = None

    def convert(self, packet: av.Packet) -> list[av.Packet]:
        """The packet, if it has text."""
        if packet.pts is None or bytes(packet)[: len(NO_TEXT)] == NO_TEXT:
            return []
        self._end = packet.pts + (packet.duration or 0), Fraction(packet.time_base)
        packet.stream = self.stream
        return [packet]

    def flush(self) -> list[av.Packet]:
        """The end of the last line."""
        return [] if self._end is None else [end_of_text(*self._end, self.stream)]


class TranscodedText:
    """One track of text subtitles; what cannot be decoded is left out and counted.

    Args:
        container: output whose header is not written yet.
        stream: the input's track.

    Raises:
        ValueError: if the track is no text, or the container has no text subtitles.
        FFmpegError: if the decoder does not open.
    """

    def __init__(self, container: av.container.OutputContainer, stream: Any) -> None:
        muxer, source = container.format.name, stream.codec_context
        codec = TEXT_CODEC_OF_MUXER.get(muxer)
        if codec is None:
            raise ValueError(f"{muxer} has no text subtitles")
        if source.name not in TEXT_CODECS:
            raise ValueError(f"{source.name} is no text")
        source.open(strict=False)  # Its styles are known from then on; the encoder wants them before the first line.
        untyped: Any = container
        self.stream: Any = untyped.add_stream(codec)
        self.stream.time_base = self.stream.codec_context.time_base = TICK
        self.stream.codec_context.subtitle_header = source.subtitle_header
        self._source = source
        self._last, self._end = -1, -1
        self.n_damaged = 0

    def convert(self, packet: av.Packet) -> list[av.Packet]:
        """The packet as the container wants it; none if nothing is shown."""
        try:
            shown = self._source.decode2(packet)
        except FFmpegError:
            self.n_damaged += 1
            return []
        if shown is None or not len(shown) or packet.pts is None:
            return []
        base = Fraction(packet.time_base)
        encoded: av.Packet = self.stream.codec_context.encode_subtitle(shown)
        begin, end = round(packet.pts * base / TICK), round((packet.pts + (packet.duration or 0)) * base / TICK)
        # Several lines that are shown at once are packets of one time; MP4 wants times that rise.
        self._last = max(begin, self._last + 1)
        encoded.pts = encoded.dts = self._last
        encoded.duration = max(1, end - self._last) if packet.duration else shown.end_display_time
        encoded.time_base, encoded.stream = TICK, self.stream
        self._end = max(self._end, self._last + encoded.duration)
        return [encoded]

    def flush(self) -> list[av.Packet]:
        """The end of the last line, where a container wants it said."""
        is_said = self._end >= 0 and self.stream.codec_context.name == MP4_TEXT
        return [end_of_text(self._end, TICK, self.stream)] if is_said else []
