"""Video files and Matroska streams, encoded and muxed through PyAV."""

from dataclasses import replace
from fractions import Fraction
from math import lcm
from typing import Any

import av
from av.error import FFmpegError
from av.stream import Disposition

from flashvsr_cli.errors import OutputError
from flashvsr_cli.geometry import Size
from flashvsr_cli.interrupts import held_back
from flashvsr_cli.video.alpha import AlphaEnlarger
from flashvsr_cli.video.encoding import Encoding, extensions_for
from flashvsr_cli.video.faults import output_faults, reason
from flashvsr_cli.video.frame import Frame
from flashvsr_cli.video.info import DEFAULT_RATE
from flashvsr_cli.video.languages import UNDETERMINED, to_container
from flashvsr_cli.video.mp4 import MOV_MUXERS, hide_empty_videos
from flashvsr_cli.video.pixel_format import describe_pixel_format
from flashvsr_cli.video.pixels import FromRgb, resolve_color
from flashvsr_cli.video.sink import SinkBase
from flashvsr_cli.video.siting import Siting, is_subsampled
from flashvsr_cli.video.sound_times import MUXERS_WITHOUT_TIMES
from flashvsr_cli.video.source import Source
from flashvsr_cli.video.stating import COLR_FLAG, lost_light, needs_colr, states_aspect
from flashvsr_cli.video.steady import CODECS_OF_ONE_RATE, USUAL_RATES, find_grid
from flashvsr_cli.video.storage import loses_full_range, output_color
from flashvsr_cli.video.tags import MUXERS_WITHOUT_TRACK_TITLES, describe_tags, plan_tags
from flashvsr_cli.video.targets import ByteTarget, PartFile
from flashvsr_cli.video.track_writer import TrackChoices, TrackWriter
from flashvsr_cli.video.tracks import is_cover

MUX_BUFFER_BYTES = 2**18
MAX_TIMESCALE = 2**31 - 1
# Until it is complete, the file is a row of fragments, readable up to the last one whatever happens; the trailer then
# turns it into a regular file in place. `delay_moov` keeps the edit list of pictures that reorder.
MOV_FLAGS = "+hybrid_fragmented+delay_moov"
FRAGMENT_S, CLUSTER_S = 1, 1
MAX_REORDERED_FRAMES = 64
MUXERS_WITHOUT_CHAPTERS = ("mpegts", "avi", "flv")
# Apple's players show HEVC in MP4 and MOV only under this name, which says that its headers are where they belong.
MOV_TAGS = {"hevc": "hvc1"}
CARD_SUFFIXES = ("_nvenc", "_qsv", "_amf", "_vaapi", "_videotoolbox", "_v4l2m2m", "_vulkan")
# Written by the muxer itself, or true of the input file only.
CONTAINER_ONLY_METADATA = ("major_brand", "minor_version", "compatible_brands", "encoder", "duration")
KEPT_VIDEO_METADATA = ("language", "title", "timecode", "handler_name", "reel_name", "comment")


class ContainerSink(SinkBase):
    """Encodes frames and copies the source's other tracks into one container.

    The encoder is opened and the header written by the constructor, so that what cannot work fails before any frame
    is computed.

    Args:
        name: what messages call the output.
        target: where the bytes go; removed again if the constructor fails.
        muxer: FFmpeg's name of the container.
        source: gives times, colours and tracks.
        size: (height, width) of the frames.
        encoding: how to encode.
        choices: what becomes of the other tracks.

    Raises:
        OutputError: if the encoder or the container refuses.
    """

    def __init__(
        self,
        name: str,
        target: ByteTarget,
        muxer: str,
        source: Source,
        size: Size,
        encoding: Encoding,
        choices: TrackChoices,
    ) -> None:
        super().__init__(size, is_deep=source.info.bit_depth > 8)
        self._name = name
        self._target = target
        self._encoding = encoding
        self._grid = find_grid(muxer, encoding.codec, source.info)
        self._source_tick = source.info.time_base
        self._time_base = self._grid.tick if self._grid else self._source_tick
        self._durations: dict[int, int] = {}
        self._n_next = 0
        self._first_pts: int | None = None
        # Where there are no times to state, everything counts from the first picture: that one's time in the source.
        self._is_untimed = muxer in MUXERS_WITHOUT_TIMES
        self._start: int | None = None
        self._longest = 1
        self.notices.extend(encoding.notices)
        self.color = output_color(source.info, encoding.pix_fmt, size, encoding.codec, muxer)
        self._siting: Siting = "center" if encoding.pix_fmt.startswith("yuvj") else "left"
        color = resolve_color(self.color, encoding.pix_fmt, size)
        self._from_rgb = FromRgb(encoding.pix_fmt, color, siting=self._siting)
        self._has_alpha = source.info.has_alpha and describe_pixel_format(encoding.pix_fmt).has_alpha
        self._enlarge_alpha = AlphaEnlarger(size)
        self._has_cover = muxer in MOV_MUXERS and any(is_cover(s) for s in source.tracks.streams)
        self._metadata = {k: v for k, v in source.info.metadata if k.lower() not in CONTAINER_ONLY_METADATA}
        try:
            # A signal's exception would be lost in the callbacks of the muxer.
            with held_back(), output_faults(name):
                flags, self._lost_tags = plan_tags(muxer, self._metadata, has_cover=self._has_cover)
                flags += COLR_FLAG if needs_colr(self.color, encoding.codec, muxer) else ""
                self._container = av.open(
                    target,
                    "w",
                    format=muxer,
                    buffer_size=MUX_BUFFER_BYTES,
                    container_options=_muxer_options(muxer, source, flags),
                )
                self._stream = self._add_video(source, size)
                title = f"{name} ({muxer})"
                self._tracks = TrackWriter(self._container, source.tracks, title, choices, self.notices)
                self._copy_metadata(source)
                self._write_header(source, size)
        except BaseException:
            target.abort()
            raise

    def write(self, frame: Frame) -> None:
        """Encodes a frame and moves the other tracks up to its time."""
        if frame.pts is not None:
            self._tracks.begin(frame.pts * self._source_tick)
            if self._is_untimed:
                self._start = frame.pts if self._start is None else self._start
                frame = replace(frame, pts=frame.pts - self._start)
        self._write(self._grid.place(frame) if self._grid else frame)

    def _write(self, frame: Frame) -> None:
        with output_faults(self._name):
            picture = self._from_rgb(frame.image, self._enlarge_alpha(frame.alpha) if self._has_alpha else None)
            picture.pts = self._n_next if frame.pts is None else frame.pts
            picture.time_base = self._time_base
            self._first_pts = picture.pts if self._first_pts is None else self._first_pts
            self._longest = max(self._longest, frame.duration or 1)
            self._n_next = picture.pts + (frame.duration or 1)
            if frame.duration:
                self._durations[picture.pts] = frame.duration
            self._mux(self._stream.encode(picture))
            self._copy_tracks(picture.pts)
        self.n_frames += 1

    def _copy_tracks(self, pts: int) -> None:
        """Moves the other tracks up to the picture at `pts`."""
        self._tracks.copy(pts * self._time_base + (self._start or 0) * self._source_tick)

    def commit(self) -> None:
        """Flushes the encoder, moves what is left of the other tracks, writes the trailer, renames."""
        if not self.n_frames:
            raise OutputError(f"{self._name} would have no frames.", "Check the input.")
        with output_faults(self._name):
            self._mux(self._stream.encode(None))
            self.notices.extend(self._tracks.finish())
            if self._grid and self._grid.n_moved:
                self.notices.append(f"{self._name} has one frame rate: {self._grid.n_moved} frames come later.")
            self._container.close()
            if self._has_cover and isinstance(self._target, PartFile):
                hide_empty_videos(self._target.path)
            self._target.commit()

    def abort(self) -> None:
        """Removes the temporary unless it was committed."""
        self._target.abort()

    def interrupt(self) -> None:
        """Makes a write that waits for a pipe give up."""
        self._target.interrupt()

    def facts(self) -> dict[str, Any]:
        """What was written."""
        return {
            "name": self._name,
            "codec": self._encoding.codec,
            "pix_fmt": self._encoding.pix_fmt,
            "encoder_options": dict(self._encoding.options),
            "color": self.color.names(),
            "frames": self.n_frames,
            "bytes": self._target.n_bytes,
            "copied_tracks": self._tracks.n_tracks,
            "copied_packets": self._tracks.n_packets,
        }

    def _add_video(self, source: Source, size: Size) -> av.VideoStream:
        info = source.info
        options = dict(self._encoding.options)
        if is_subsampled(self._encoding.pix_fmt):
            options.setdefault("chroma_sample_location", self._siting)
        try:
            stream: Any = self._container.add_stream(
                self._encoding.codec, rate=_encoder_rate(info.frame_rate), options=options
            )
        except ValueError as error:
            holders = " or ".join(f".{extension}" for extension in extensions_for(self._encoding.codec))
            raise OutputError(
                f"{self._name} cannot hold video encoded by {self._encoding.codec}.",
                f"Use another --codec{f', or give the output the extension {holders}' if holders else ''}.",
            ) from error
        context = stream.codec_context
        stream.width, stream.height = size[1], size[0]
        stream.pix_fmt = self._encoding.pix_fmt
        stream.time_base = context.time_base = self._time_base
        stream.thread_type = "AUTO"
        tag = MOV_TAGS.get(context.codec.canonical_name)
        if tag and self._container.format.name in MOV_MUXERS:
            context.codec_tag = tag
        stream.disposition = Disposition.default
        if info.sample_aspect_ratio:
            context.sample_aspect_ratio = info.sample_aspect_ratio
        context.color_range, context.colorspace = self.color.range, self.color.matrix
        context.color_primaries, context.color_trc = self.color.primaries, self.color.transfer
        return stream

    def _copy_metadata(self, source: Source) -> None:
        own = {k: v for k, v in source.info.video_metadata if k.lower() in KEPT_VIDEO_METADATA}
        language = own.pop("language", UNDETERMINED)
        code = to_container(self._container.format.name, language)
        self._stream.metadata.update(own if code is None else {**own, "language": code})
        self._container.metadata.update(self._metadata)
        if source.chapters:
            self._container.set_chapters(source.chapters)
        muxer, lost = self._container.format.name, []
        lost += ["language of the pictures"] if code is None and language != UNDETERMINED else []
        lost += ["title of the pictures"] if own.get("title") and muxer in MUXERS_WITHOUT_TRACK_TITLES else []
        lost += ["chapters"] if source.chapters and muxer in MUXERS_WITHOUT_CHAPTERS else []
        codec, aspect = self._encoding.codec, source.info.sample_aspect_ratio
        has_aspect = states_aspect(aspect, (self._stream.height, self._stream.width), codec, muxer)
        lost += [] if has_aspect else ["shape of its pixels"]
        lost += lost_light(self.color, codec, muxer)
        self.notices.extend(f"{self._name} ({muxer}) does not state the {what}: left out." for what in lost)
        if loses_full_range(source.info, self.color, self._encoding.pix_fmt):
            self.notices.append(
                f"{self._name} ({muxer}, {codec}) cannot state full range: it is stored in limited range."
            )
        if self._lost_tags:
            tags, those = describe_tags(self._lost_tags), "it" if len(self._lost_tags) == 1 else "them"
            self.notices.append(
                f"{self._name} ({muxer}) has no field for {tags}: left out. An .mkv output keeps {those}."
            )

    def _write_header(self, source: Source, size: Size) -> None:
        try:
            self._stream.codec_context.open()
        except (FFmpegError, ValueError) as error:
            if self._encoding.codec.endswith(CARD_SUFFIXES):
                raise OutputError(
                    f"{self._encoding.codec} does not work on this machine: {reason(error)}.",
                    "It needs a graphics card that has it, and its driver; libx264, libx265 and libsvtav1 need none.",
                ) from error
            if self._encoding.codec in CODECS_OF_ONE_RATE and 1 / self._time_base not in USUAL_RATES:
                rate = source.info.frame_rate
                is_steady = rate is not None and rate * self._time_base == 1
                raise OutputError(
                    f"{self._encoding.codec} cannot encode {rate if is_steady else 'a varying number of'} "
                    "frames a second: it knows the usual frame rates only.",
                    "Use another --codec, for instance libx264.",
                ) from error
            raise OutputError(
                f"{self._encoding.codec} cannot encode {size[1]}x{size[0]} {self._encoding.pix_fmt} "
                f"with {self._encoding.options}: {reason(error)}.",
                "Check --preset, --crf, --pix-fmt and --encoder-option, or use another --codec.",
            ) from error
        try:
            self._container.start_encoding()
        except FFmpegError as error:
            self._tracks.refuse_sound(error)
            raise

    def _decoding_time(self, packet: av.Packet) -> int | None:
        """When the encoder's `packet` is decoded, in ticks, where that can be: see `plausible_dts`."""
        if packet.pts is None or self._first_pts is None:
            return packet.dts
        return plausible_dts(packet.pts, packet.dts, self._first_pts - MAX_REORDERED_FRAMES * self._longest)

    def _mux(self, packets: list[av.Packet]) -> None:
        for packet in packets:
            packet.dts = self._decoding_time(packet)
            duration = None if packet.pts is None else self._durations.pop(packet.pts, None)
            if duration:
                packet.duration = duration
            self._container.mux_one(packet)


def plausible_dts(pts: int, dts: int | None, earliest: int) -> int | None:
    """`dts`, or `pts` in place of a decoding time that cannot be: after `pts`, or before `earliest` (all in ticks).

    libx265 subtracts a delay that it measures at the third frame: of a clip of one or two frames its decoding times
    are whatever its memory held. Those packets come in the order of their pts.
    """
    return pts if dts is not None and not earliest <= dts <= pts else dts


def _encoder_rate(rate: Fraction | None) -> Fraction:
    return (rate or DEFAULT_RATE).limit_denominator(2**20)


def _muxer_options(muxer: str, source: Source, flags: str) -> dict[str, str]:
    """How the container is written so that a file cut short can be read, and with exact times.

    MP4 states start offsets in the movie's own timescale, by default milliseconds: make it hold every track's.
    """
    if muxer == "matroska":
        return {"cluster_time_limit": str(CLUSTER_S * 1000)}
    if muxer not in MOV_MUXERS:
        return {}
    timescale = source.info.time_base.denominator
    for stream in source.tracks.streams:
        common = lcm(timescale, stream.time_base.denominator) if stream.time_base else timescale
        timescale = common if common <= MAX_TIMESCALE else timescale
    return {
        "movie_timescale": str(min(max(timescale, 1000), MAX_TIMESCALE)),
        "movflags": MOV_FLAGS + flags,
        "frag_duration": str(FRAGMENT_S * 1_000_000),
    }
