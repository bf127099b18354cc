"""Tracks beside the pictures, into an output container: copied packet for packet, or sound encoded anew."""

from dataclasses import dataclass
from fractions import Fraction
from io import BytesIO
from typing import Any

import av
from av.error import FFmpegError

from flashvsr_cli.errors import OutputError
from flashvsr_cli.options import AudioChoice, EncodeOptions, SubtitleChoice
from flashvsr_cli.video.faults import reason
from flashvsr_cli.video.languages import UNDETERMINED, to_container
from flashvsr_cli.video.sound_times import SoundTimes
from flashvsr_cli.video.subtitles import MP4_TEXT, TEXT_CODEC_OF_MUXER, TEXT_CODECS, CopiedMp4Text, TranscodedText
from flashvsr_cli.video.tags import MUXERS_WITHOUT_TRACK_TITLES
from flashvsr_cli.video.track_ways import AttachedCover, CopiedPackets, TranscodedSound
from flashvsr_cli.video.tracks import CopiedTracks, describe_track, is_cover, read_metadata

MUXER_OF_EVERYTHING = "matroska"
KINDS_OF_MUXER = {"attachment": (MUXER_OF_EVERYTHING,), "cover": (MUXER_OF_EVERYTHING, "mp4")}
# MPEG-TS takes any codec, but readers recognise only these.
CODECS_OF_MUXER = {
    "mpegts": (*("aac", "aac_latm", "mp1", "mp2", "mp3", "ac3", "eac3", "dts", "truehd", "opus", "dvb_subtitle"),)
}
# Where to keep what a container does not hold, by kind or codec; all else .mkv keeps.
KEEPERS = {"cover": (".mp4", ".mkv"), MP4_TEXT: (".mp4",)}
OWN = {"mp4": ".mp4", MUXER_OF_EVERYTHING: ".mkv"}


@dataclass(frozen=True)
class TrackChoices:
    """What the user wants of the other tracks.

    Attributes:
        audio: copied, left out, or encoded anew.
        subtitles: copied, left out, or copied where that can be and else encoded anew.
    """

    audio: AudioChoice = "copy"
    subtitles: SubtitleChoice = "copy"

    @classmethod
    def of(cls, options: EncodeOptions) -> "TrackChoices":
        """Those among a user's options."""
        return cls(options.audio, options.subtitles)


_Way = CopiedPackets | TranscodedSound | AttachedCover | CopiedMp4Text | TranscodedText


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
        self._times: dict[int, SoundTimes] = {}
        self._first_picture: Fraction | None = None
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
        if isinstance(way, AttachedCover):
            return
        if kind == "audio":
            self._times[stream.index] = SoundTimes(self._muxer, way.stream, is_new=isinstance(way, TranscodedSound))
        way.stream.metadata.update(read_metadata(stream))
        self._state_language(stream, way.stream, notices)
        if way.stream.metadata.get("title") and self._muxer in MUXERS_WITHOUT_TRACK_TITLES:
            track = describe_track(stream).describe()
            notices.append(f"{self._name} cannot state the title of {track}. An .mkv output keeps it.")
        way.stream.disposition = stream.disposition

    def _state_language(self, stream: Any, added: Any, notices: list[str]) -> None:
        language = added.metadata.pop("language", UNDETERMINED)
        code = to_container(self._muxer, language)
        if code is not None:
            added.metadata["language"] = code
        elif language != UNDETERMINED:
            track = describe_track(stream).describe()
            notices.append(f"{self._name} cannot state the language of {track}. An .mkv output keeps it.")

    def _find_way(self, stream: Any, kind: str) -> _Way:
        """How a track gets into the output. Raises `ValueError` or `FFmpegError` if there is none."""
        if self._muxer not in KINDS_OF_MUXER.get(kind, (self._muxer,)):
            raise ValueError(f"{self._muxer} has no {kind}")
        if kind == "attachment":
            return CopiedPackets(self._container, stream)
        if stream.codec_context is None:
            raise ValueError("its codec is unknown")
        first = self._tracks.first_packet(stream.index)
        if kind == "audio" and self._choices.audio == "transcode":
            return TranscodedSound(self._container, stream)
        if kind == "cover" and self._muxer == MUXER_OF_EVERYTHING:
            return AttachedCover(self._container, stream, first)
        codecs, codec = CODECS_OF_MUXER.get(self._muxer), stream.codec_context.codec.canonical_name
        try:
            if codecs is not None and codec not in codecs:
                raise ValueError(f"{self._muxer} has no {codec}")
            if kind == "subtitle" and codec == MP4_TEXT:
                return CopiedMp4Text(self._container, stream)
            return CopiedPackets(self._container, stream, first)
        except (ValueError, FFmpegError):
            if kind == "subtitle" and self._choices.subtitles == "transcode":
                return TranscodedText(self._container, stream)
            raise

    def _refuse(self, stream: Any, kind: str, error: Exception, notices: list[str]) -> None:
        """Raises `OutputError` if the user has to choose; else leaves the track out, and says so."""
        track = describe_track(stream).describe()
        if stream.codec_context is None and kind != "attachment":
            self._refuse_unknown(stream, track, notices)
            return
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
        codec = None if kind == "attachment" else stream.codec_context.name
        keepers = [k for k in KEEPERS.get(codec if codec == MP4_TEXT else kind, (".mkv",)) if k != OWN.get(self._muxer)]
        ways = [f"An {' or '.join(keepers)} output keeps it."] if keepers else []
        if codec in TEXT_CODECS and self._choices.subtitles == "copy" and self._muxer in TEXT_CODEC_OF_MUXER:
            ways.append("--subs transcode encodes it anew.")
        advice = "".join(f" {way}" for way in ways)
        notices.append(f"{self._name} cannot hold {track}: left out.{advice}")

    def _refuse_unknown(self, stream: Any, track: str, notices: list[str]) -> None:
        """Leaves out what this FFmpeg has no decoder for, unless it is all the sound there is."""
        sounds = [s for s in self._tracks.streams if s.type == "audio"]
        if stream in sounds and all(s.codec_context is None for s in sounds):
            raise OutputError(
                f"FFmpeg does not know the codec of {track} of the input, and cannot copy it to {self._name}.",
                "Use --audio none to leave the sound out, or convert it first.",
            )
        notices.append(f"FFmpeg does not know the codec of {track}: left out.")

    def refuse_sound(self, error: Exception) -> None:
        """Raises `OutputError` if sound was to be copied: what a container does not say of a codec until it begins."""
        copied = [
            s for s in self._tracks.streams if s.type == "audio" and isinstance(self._ways.get(s.index), CopiedPackets)
        ]
        if copied:
            self._refuse(next((s for s in copied if self._is_refused(s)), copied[0]), "audio", error, [])

    def _is_refused(self, stream: Any) -> bool:
        """Whether the container does not begin with that track alone."""
        with av.open(BytesIO(), "w", format=self._muxer) as trial:
            try:
                CopiedPackets(trial, stream, self._tracks.first_packet(stream.index))
                trial.start_encoding()
            except (ValueError, FFmpegError):
                return True
        return False

    def begin(self, first_picture: Fraction) -> None:
        """Says when the first picture is shown, in seconds; of several times the first counts."""
        if self._first_picture is None:
            self._first_picture = first_picture

    def copy(self, until: Fraction | None = None) -> None:
        """Moves the packets up to the time of a picture in seconds, or all that are left."""
        if until is not None:
            self.begin(until)
        for index, packet in self._tracks.take(until):
            way = self._ways.get(index)
            if way is not None:
                self._mux(index, way.convert(packet))

    def finish(self) -> list[str]:
        """Moves all that is left; gives sentences about what could not be."""
        self.copy()
        notices = []
        for index, way in self._ways.items():
            self._mux(index, way.flush())
            if isinstance(way, CopiedPackets | TranscodedSound | TranscodedText) and way.n_damaged:
                notices.append(f"{way.n_damaged} packets of {way.stream.type} track {index} are damaged: left out.")
            if isinstance(way, CopiedPackets) and way.n_moved:
                notices.append(
                    f"{way.n_moved} packets of {way.stream.type} track {index} have times that go back: moved to the "
                    "one before."
                )
        for index, times in self._times.items():
            if times.missing_s:
                notices.append(
                    f"{self._name} knows no times of sound: audio track {index} has {float(times.missing_s):.2f} s of "
                    "gaps, and gets so much ahead of the pictures. An .mkv output keeps them together."
                )
        return notices

    def _mux(self, index: int, packets: list[av.Packet]) -> None:
        times, first_picture = self._times.get(index), self._first_picture or Fraction(0)
        for packet in packets:
            if times is None or times.place(packet, first_picture):
                self._container.mux_one(packet)
                self.n_packets += 1
