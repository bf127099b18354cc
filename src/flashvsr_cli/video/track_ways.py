"""How the packets of one track beside the pictures get into an output: as they are, encoded anew, as a file."""

from fractions import Fraction
from io import BytesIO
from math import floor
from typing import Any, cast

import av
from av.audio.resampler import AudioResampler
from av.bitstream import BitStreamFilterContext
from av.error import EOFError as AvEOFError
from av.error import FFmpegError
from av.format import Flags

from flashvsr_cli.video.tracks import read_metadata

ADTS_FILTER = "aac_adtstoasc"
ADTS_MUXERS = ("mpegts",)
CODECS_WITHOUT_BLOCKS = ("aac", "ac3", "dts", "eac3", "mp2", "mp3")
OPUS_MUXERS = ("webm",)
OPUS_RATE = 48_000
AAC_RATES = (96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000, 7350)
BIT_RATE_PER_CHANNEL = 96_000
LAYOUTS = {1: "mono", 2: "stereo", 3: "2.1", 4: "quad", 5: "5.0", 6: "5.1", 7: "6.1", 8: "7.1"}
KNOWN_LAYOUTS = frozenset(LAYOUTS.values())
COVER_TYPES = {"png": "image/png", "mjpeg": "image/jpeg", "webp": "image/webp", "bmp": "image/bmp"}
COVER_NAMES = {"image/jpeg": "cover.jpg"}


class CopiedPackets:
    """Packets as they are, but for times that go back, which no container takes: these begin with the one before.

    Args:
        container: output whose header is not written yet.
        stream: the input's track, with a decoder if it is sound.
        first: its first packet, if that came yet.

    Raises:
        ValueError: if the container does not hold the codec.
        FFmpegError: likewise.
    """

    def __init__(self, container: av.container.OutputContainer, stream: Any, first: av.Packet | None = None) -> None:
        is_strict = not container.format.flags & cast(int, Flags.ts_nonstrict.value) and stream.type != "subtitle"
        self._step = 1 if is_strict else 0
        self._last: int | None = None
        self.n_moved = self.n_damaged = 0
        # AAC that states itself in every packet has to lose these headers; FFmpeg forgets it for fragments of MP4.
        is_adts = stream.type == "audio" and stream.codec_context.name == "aac" and not stream.codec_context.extradata
        has_headers = is_adts and container.format.name not in ADTS_MUXERS
        self._filter = BitStreamFilterContext(ADTS_FILTER, stream) if has_headers else None
        self.stream: Any = _add_like(container, stream, first)
        self._has_config = False
        if stream.type == "audio":
            self._complete_header(stream, first)

    def _complete_header(self, stream: Any, first: av.Packet | None) -> None:
        """States in the header of the sound what containers want there and the input says elsewhere, or not at all."""
        context = self.stream.codec_context
        if context.layout.name not in KNOWN_LAYOUTS and context.channels in LAYOUTS:
            context.layout = LAYOUTS[context.channels]  # MP4 refuses channels of unstated places.
        config = None if self._filter is None or first is None else aac_config(stream, first)
        if config is not None:
            context.extradata = config
        self._has_config = bool(context.extradata)

    def convert(self, packet: av.Packet) -> list[av.Packet]:
        """The packet as the container wants it; none if it is damaged."""
        try:
            packets = [packet] if self._filter is None else self._filter.filter(packet)
        except FFmpegError:
            self.n_damaged += 1
            return []
        if self._has_config:
            packets = [_without_config(out) for out in packets]
        for out in packets:
            if out.dts is not None:
                self._keep_rising(out, out.dts, Fraction(out.time_base) / self.stream.time_base)
            out.stream = self.stream
        return packets

    def _keep_rising(self, packet: av.Packet, stated: int, ratio: Fraction) -> None:
        """Moves a packet of which the decoding time is not above the last one's, in the output's ticks."""
        dts = floor(stated * ratio + Fraction(1, 2))
        if self._last is not None and dts < self._last + self._step:
            dts = self._last + self._step
            pts = dts if packet.pts is None else max(dts, floor(packet.pts * ratio + Fraction(1, 2)))
            packet.pts, packet.dts, packet.duration = pts, dts, round((packet.duration or 0) * ratio)
            packet.time_base = self.stream.time_base
            self.n_moved += 1
        self._last = dts

    def flush(self) -> list[av.Packet]:
        """Nothing: no packet waits."""
        return []


def _add_like(container: av.container.OutputContainer, stream: Any, first: av.Packet | None) -> Any:
    """A track of the output like the input's.

    AVI states a size of blocks, for these codecs a number of no meaning; where an output states it again, the sound is
    read with wrong times. PyAV cannot take it away, but Matroska has no place for it.
    """
    is_block_free = stream.type == "audio" and stream.codec_context.codec.canonical_name in CODECS_WITHOUT_BLOCKS
    if first is None or not is_block_free or container.format.name != "avi":
        return container.add_stream_from_template(stream, opaque=True)
    memory = BytesIO()
    with av.open(memory, "w", format="matroska") as written:
        copy, packet = written.add_stream_from_template(stream, opaque=True), av.Packet(bytes(first))
        packet.pts = packet.dts = 0
        packet.time_base, packet.stream = Fraction(1, 1000), copy
        written.mux(packet)
    with av.open(BytesIO(memory.getvalue())) as opened:
        return container.add_stream_from_template(opened.streams[0], opaque=True)


def aac_config(stream: Any, packet: av.Packet) -> bytes | None:
    """What a header says of AAC that states itself in every packet (ADTS, as in MPEG-TS); None if it is damaged.

    Containers such as Matroska want it in their header, before the first packet.
    """
    try:
        for out in BitStreamFilterContext(ADTS_FILTER, stream).filter(av.Packet(bytes(packet))):
            if out.has_sidedata("new_extradata"):
                return bytes(out.get_sidedata("new_extradata"))
    except FFmpegError:
        return None
    return None


def _without_config(packet: av.Packet) -> av.Packet:
    """The packet without what the header already says: Matroska's writer would put it there again, over its tracks."""
    if not packet.has_sidedata("new_extradata"):
        return packet
    bare = av.Packet(bytes(packet))
    bare.pts, bare.dts, bare.duration, bare.time_base = packet.pts, packet.dts, packet.duration, packet.time_base
    bare.is_keyframe = packet.is_keyframe
    for side_data in packet.iter_sidedata():
        if side_data.data_type != "new_extradata":
            bare.set_sidedata(side_data)
    return bare


class TranscodedSound:
    """Sound decoded and encoded anew; what cannot be decoded is left out and counted.

    Broadcasts change between stereo and 5.1 as they go: everything is brought to the layout and the rate at the start.

    Args:
        container: output whose header is not written yet.
        stream: the input's track, with a decoder.

    Raises:
        ValueError: if the container does not hold what is encoded.
        FFmpegError: if the encoder does not open.
    """

    def __init__(self, container: av.container.OutputContainer, stream: Any) -> None:
        context = stream.codec_context
        codec, rate = "aac", context.sample_rate
        if container.format.name in OPUS_MUXERS:
            codec, rate = "libopus", OPUS_RATE
        elif rate not in AAC_RATES:
            rate = OPUS_RATE
        self._source = stream
        untyped: Any = container
        self.stream: Any = untyped.add_stream(codec, rate=rate)
        self.stream.layout = LAYOUTS.get(context.channels, context.layout)
        self.stream.bit_rate = BIT_RATE_PER_CHANNEL * max(1, context.channels)
        encoder = self.stream.codec_context
        encoder.open()
        self._rate = rate
        self._target = encoder.format.name, encoder.layout.name, rate
        self._form: tuple[str, str, int] | None = None
        self._resampler = AudioResampler(*self._target)
        self._divider = AudioResampler(*self._target, encoder.frame_size or None)
        self.n_damaged = 0

    def convert(self, packet: av.Packet) -> list[av.Packet]:
        """What the encoder gives for a packet."""
        try:
            frames: list[Any] = packet.decode()
        except (AvEOFError, FFmpegError):
            self.n_damaged += 1
            return []
        return [out for frame in frames for out in self._encode(self._adapt(frame))]

    def flush(self) -> list[av.Packet]:
        """What the decoder and the encoder still hold."""
        frames: list[Any] = self._source.codec_context.decode(None)
        rest = [out for frame in frames for out in self._encode(self._adapt(frame))]
        rest += self._encode(self._resampler.resample(None))
        return [*rest, *self._encode([None]), *self.stream.encode(None)]

    def _adapt(self, frame: av.AudioFrame) -> list[av.AudioFrame]:
        """The sound in the encoder's form; what is left of the one before a change comes first."""
        form, rest = (frame.format.name, frame.layout.name, frame.sample_rate), []
        if form != self._form:
            rest = self._resampler.resample(None)
            self._form, self._resampler = form, AudioResampler(*self._target)
        return [*rest, *self._resampler.resample(frame)]

    def _encode(self, frames: list[av.AudioFrame] | list[None]) -> list[av.Packet]:
        """Encodes sound in the encoder's form, divided as it wants it; `[None]` ends it."""
        packets = []
        for frame in frames:
            if frame is not None and frame.pts is not None and frame.time_base is not None:
                frame.pts, frame.time_base = round(frame.pts * frame.time_base * self._rate), Fraction(1, self._rate)
            packets += [out for part in self._divider.resample(frame) for out in self.stream.encode(part)]
        return packets


class AttachedCover:
    """A cover picture, which Matroska keeps among the attached files.

    Args:
        container: output whose header is not written yet.
        stream: the input's track, with a decoder.
        picture: its packet, if that came yet.

    Raises:
        ValueError: if the picture is of no known type, or there is none.
    """

    def __init__(self, container: av.container.OutputContainer, stream: Any, picture: av.Packet | None) -> None:
        mime_type = COVER_TYPES.get(stream.codec_context.name)
        if mime_type is None or picture is None:
            raise ValueError("the cover is of no known type, or comes late")
        metadata = read_metadata(stream)
        name = metadata.get("filename") or COVER_NAMES.get(mime_type, f"cover.{mime_type.partition('/')[2]}")
        container.add_attachment(name, mime_type, bytes(picture)).metadata.update(metadata)

    def convert(self, packet: av.Packet) -> list[av.Packet]:  # noqa: ARG002 - it was written with the header
        """Nothing."""
        return []

    def flush(self) -> list[av.Packet]:
        """Nothing."""
        return []
