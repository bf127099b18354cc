"""Tracks beside the pictures, into an output container: copied packet for packet, or sound encoded anew."""

from dataclasses import dataclass
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

from flashvsr_cli.errors import OutputError
from flashvsr_cli.options import AudioChoice, SubtitleChoice
from flashvsr_cli.video.faults import reason
from flashvsr_cli.video.subtitles import MP4_TEXT, TEXT_CODEC_OF_MUXER, TEXT_CODECS, CopiedMp4Text, TranscodedText
from flashvsr_cli.video.tracks import CopiedTracks, aac_config, describe_track, is_cover, read_metadata

MUXER_OF_EVERYTHING = "matroska"
ADTS_MUXERS = ("mpegts",)
KINDS_OF_MUXER = {"attachment": (MUXER_OF_EVERYTHING,), "cover": (MUXER_OF_EVERYTHING, "mp4", "ipod")}
COVER_TYPES = {"png": "image/png", "mjpeg": "image/jpeg", "webp": "image/webp", "bmp": "image/bmp"}
OPUS_MUXERS = ("webm",)
# MPEG-TS takes any codec, but readers recognise only these.
CODECS_OF_MUXER = {
    "mpegts": (
        *("aac", "aac_latm", "mp1", "mp2", "mp3", "mp3float", "ac3", "eac3", "dca", "truehd", "opus", "libopus"),
        *("dvbsub", "dvb_subtitle", "dvb_teletext", "libzvbi_teletextdec"),
    )
}
LAYOUTS = {1: "mono", 2: "stereo", 3: "2.1", 4: "quad", 5: "5.0", 6: "5.1", 7: "6.1", 8: "7.1"}
KNOWN_LAYOUTS = frozenset(LAYOUTS.values())
# QuickTime knows languages by their bibliographic codes.
QUICKTIME_LANGUAGES = {
    **{"deu": "ger", "fra": "fre", "nld": "dut", "ces": "cze", "ell": "gre", "zho": "chi", "ron": "rum", "slk": "slo"},
    **{"isl": "ice", "fas": "per", "msa": "may", "sqi": "alb", "hye": "arm", "eus": "baq", "kat": "geo", "cym": "wel"},
}
MUXERS_WITHOUT_LANGUAGES = ("avi", "flv")
OPUS_RATE = 48_000
BIT_RATE_PER_CHANNEL = 96_000
AAC_RATES = (96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000, 7350)


@dataclass(frozen=True)
class TrackChoices:
    """What the user wants of the other tracks.

    Attributes:
        audio: copied, left out, or encoded anew.
        subtitles: copied, left out, or copied where that can be and else encoded anew.
    """

    audio: AudioChoice = "copy"
    subtitles: SubtitleChoice = "copy"


class _Copy:
    """Packets as they are, but for times that go back, which no container takes: these begin with the one before."""

    def __init__(self, container: av.container.OutputContainer, stream: Any) -> None:
        is_strict = not container.format.flags & cast(int, Flags.ts_nonstrict.value) and stream.type != "subtitle"
        self._step = 1 if is_strict else 0
        self._last: int | None = None
        self.n_moved = self.n_damaged = 0
        # AAC that states itself in every packet has to lose these headers; FFmpeg forgets it for fragments of MP4.
        is_adts = stream.type == "audio" and stream.codec_context.name == "aac" and not stream.codec_context.extradata
        has_headers = is_adts and container.format.name not in ADTS_MUXERS
        self._filter = BitStreamFilterContext("aac_adtstoasc", stream) if has_headers else None
        self.stream: Any = container.add_stream_from_template(stream, opaque=True)
        context = self.stream.codec_context
        if stream.type == "audio" and context.layout.name not in KNOWN_LAYOUTS and context.channels in LAYOUTS:
            context.layout = LAYOUTS[context.channels]  # MP4 refuses channels of unstated places.

    def convert(self, packet: av.Packet) -> list[av.Packet]:
        try:
            packets = [packet] if self._filter is None else self._filter.filter(packet)
        except FFmpegError:
            self.n_damaged += 1
            return []
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
        return []


class _Transcode:
    """Sound decoded and encoded anew; what cannot be decoded is left out and counted."""

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
        self._resampler = AudioResampler(encoder.format.name, encoder.layout, rate, encoder.frame_size or None)
        self.n_damaged = 0

    def convert(self, packet: av.Packet) -> list[av.Packet]:
        try:
            frames: list[Any] = packet.decode()
        except (AvEOFError, FFmpegError):
            self.n_damaged += 1
            return []
        return [out for frame in frames for out in self._encode(frame)]

    def flush(self) -> list[av.Packet]:
        frames: list[Any] = self._source.codec_context.decode(None)
        rest = [out for frame in frames for out in self._encode(frame)]
        return [*rest, *self._encode(None), *self.stream.encode(None)]

    def _encode(self, frame: av.AudioFrame | None) -> list[av.Packet]:
        return [packet for part in self._resampler.resample(frame) for packet in self.stream.encode(part)]


class _Attachment:
    """A cover picture, which Matroska keeps among the attached files."""

    def __init__(self, container: av.container.OutputContainer, stream: Any, picture: av.Packet | None) -> None:
        mime_type = COVER_TYPES.get(stream.codec_context.name)
        if mime_type is None or picture is None:
            raise ValueError("the cover is of no known type, or comes late")
        container.add_attachment(f"cover.{mime_type.partition('/')[2]}", mime_type, bytes(picture))

    def convert(self, packet: av.Packet) -> list[av.Packet]:  # noqa: ARG002 - it was written with the header
        return []

    def flush(self) -> list[av.Packet]:
        return []


_Way = _Copy | _Transcode | _Attachment | CopiedMp4Text | TranscodedText


class TrackWriter:
    """Adds the other tracks to an output container and moves their packets there.

    Args:
        container: output whose header is not written yet.
        tracks: where the packets come from.
        container_name: what messages call the output's format.
        choices: what the user wants.
        notices: receives a sentence for every track that the output cannot hold and the user can do without.

    Raises:
        OutputError: if the container cannot hold an audio track.
    """

    def __init__(
        self,
        container: av.container.OutputContainer,
        tracks: CopiedTracks,
        container_name: str,
        choices: TrackChoices,
        notices: list[str],
    ) -> None:
        self._container = container
        self._muxer = container.format.name
        self._name = container_name
        self._tracks = tracks
        self._choices = choices
        self._ways: dict[int, _Way] = {}
        self.n_packets = 0
        for stream in tracks.streams:
            self._add(stream, notices)

    @property
    def n_tracks(self) -> int:
        """Tracks that the output holds beside the pictures."""
        return len(self._ways)

    def _add(self, stream: Any, notices: list[str]) -> None:
        kind = "cover" if is_cover(stream) else stream.type
        if (kind == "audio" and self._choices.audio == "none") or (
            kind == "subtitle" and self._choices.subtitles == "none"
        ):
            return
        try:
            way = self._find_way(stream, kind)
        except (ValueError, FFmpegError) as error:
            self._refuse(stream, kind, error, notices)
            return
        self._ways[stream.index] = way
        if isinstance(way, _Attachment):
            return
        added = way.stream
        if kind == "audio" and isinstance(way, _Copy) and added.codec_context and not added.codec_context.extradata:
            config = aac_config(self._tracks.first_packet(stream.index))
            if config is not None and self._muxer not in ADTS_MUXERS:
                added.codec_context.extradata = config
        added.metadata.update(read_metadata(stream))
        language = stream.metadata.get("language")
        if language and self._muxer == "mov":
            added.metadata["language"] = QUICKTIME_LANGUAGES.get(language, language)
        if language and self._muxer in MUXERS_WITHOUT_LANGUAGES:
            notices.append(f"{self._name} has no field for the language of {describe_track(stream).describe()}.")
        added.disposition = stream.disposition

    def _find_way(self, stream: Any, kind: str) -> _Way:
        """How a track gets into the output. Raises `ValueError` or `FFmpegError` if there is none."""
        if self._muxer not in KINDS_OF_MUXER.get(kind, (self._muxer,)):
            raise ValueError(f"{self._muxer} has no {kind}")
        if kind == "audio" and self._choices.audio == "transcode":
            return _Transcode(self._container, stream)
        if kind == "cover" and self._muxer == MUXER_OF_EVERYTHING:
            return _Attachment(self._container, stream, self._tracks.first_packet(stream.index))
        codecs = CODECS_OF_MUXER.get(self._muxer)
        try:
            if codecs is not None and stream.codec_context.name not in codecs:
                raise ValueError(f"{self._muxer} has no {stream.codec_context.name}")
            is_mp4_text = stream.type == "subtitle" and stream.codec_context.name == MP4_TEXT
            return (CopiedMp4Text if is_mp4_text else _Copy)(self._container, stream)
        except (ValueError, FFmpegError):
            if kind == "subtitle" and self._choices.subtitles == "transcode":
                return TranscodedText(self._container, stream)
            raise

    def _refuse(self, stream: Any, kind: str, error: Exception, notices: list[str]) -> None:
        track = describe_track(stream).describe()
        is_everything = self._muxer == MUXER_OF_EVERYTHING
        if kind == "audio" and self._choices.audio == "transcode":
            raise OutputError(
                f"{track} of the input cannot be encoded anew for {self._name}: {reason(error)}.",
                "Use --audio copy, or --audio none to leave the sound out.",
            ) from error
        if kind == "audio":
            advice = "" if is_everything else " or give the output the extension .mkv"
            raise OutputError(
                f"{self._name} cannot hold {track} of the input.",
                f"Use --audio transcode, or --audio none to leave the sound out,{advice}.".replace(",.", "."),
            ) from error
        ways = [] if is_everything else ["An .mkv output keeps it."]
        is_text = kind == "subtitle" and stream.codec_context.name in TEXT_CODECS
        if is_text and self._choices.subtitles == "copy" and self._muxer in TEXT_CODEC_OF_MUXER:
            ways.append("--subs transcode encodes it anew.")
        advice = "".join(f" {way}" for way in ways)
        notices.append(f"{self._name} cannot hold {track}: left out.{advice}")

    def refuse_sound(self, error: Exception) -> None:
        """Raises `OutputError` if sound was to be copied: what a container does not say of a codec until it begins."""
        copied = [s for s in self._tracks.streams if s.type == "audio" and isinstance(self._ways.get(s.index), _Copy)]
        if copied:
            self._refuse(next((s for s in copied if self._is_refused(s)), copied[0]), "audio", error, [])

    def _is_refused(self, stream: Any) -> bool:
        """Whether the container does not begin with that track alone."""
        with av.open(BytesIO(), "w", format=self._muxer) as trial:
            try:
                _Copy(trial, stream)
                trial.start_encoding()
            except (ValueError, FFmpegError):
                return True
        return False

    def copy(self, until: Fraction | None = None) -> None:
        """Moves the packets up to a time in seconds, or all that are left."""
        for index, packet in self._tracks.take(until):
            way = self._ways.get(index)
            if way is not None:
                self._mux(way.convert(packet))

    def finish(self) -> list[str]:
        """Moves all that is left; gives sentences about what could not be."""
        self.copy()
        notices = []
        for index, way in self._ways.items():
            self._mux(way.flush())
            if isinstance(way, _Copy | _Transcode | TranscodedText) and way.n_damaged:
                notices.append(f"{way.n_damaged} packets of {way.stream.type} track {index} are damaged: left out.")
            if isinstance(way, _Copy) and way.n_moved:
                notices.append(
                    f"{way.n_moved} packets of {way.stream.type} track {index} have times that go back: moved to the "
                    "one before."
                )
        return notices

    def _mux(self, packets: list[av.Packet]) -> None:
        for packet in packets:
            self._container.mux_one(packet)
            self.n_packets += 1
