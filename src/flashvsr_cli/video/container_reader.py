"""Video files and streams that FFmpeg can demux, through PyAV."""

from collections.abc import Generator, Iterator
from fractions import Fraction
from pathlib import Path

import av
from av.error import EOFError as AvEOFError
from av.error import FFmpegError

from flashvsr_cli.errors import InputError
from flashvsr_cli.options import InputOptions
from flashvsr_cli.video import truncation
from flashvsr_cli.video.alpha import read_alpha
from flashvsr_cli.video.cut import Cut, nothing_left
from flashvsr_cli.video.deinterlacer import Deinterlacer, note_interlacing
from flashvsr_cli.video.describing import describe_video
from flashvsr_cli.video.discontinuity import Discontinuities
from flashvsr_cli.video.faults import reason
from flashvsr_cli.video.frame import Frame
from flashvsr_cli.video.hdr import has_captions
from flashvsr_cli.video.info import SourceInfo
from flashvsr_cli.video.mp4 import movie_duration
from flashvsr_cli.video.opening import (
    has_times,
    not_streamable,
    open_container,
    pick_decoder,
    pick_stream,
    pick_tracks,
)
from flashvsr_cli.video.orientation import find_orientation
from flashvsr_cli.video.pipes import InterruptedPipeError, PipeInput
from flashvsr_cli.video.pixels import ToRgb, read_color, resolve_color, unconvertible_matrix
from flashvsr_cli.video.placing import PicturePlacer, PlacedPicture
from flashvsr_cli.video.seeking import INTERLEAVING_S, WORTH_IT_S, Entry, find_entry
from flashvsr_cli.video.siting import UNMARKED_DECODERS, Siting
from flashvsr_cli.video.source import SourceBase
from flashvsr_cli.video.timestamps import DecodeTimes, LostPictures, Timestamps
from flashvsr_cli.video.tracks import CopiedTracks

DECODE_ORDER_CONTAINERS = ("avi",)
MAX_READ_ERRORS_IN_A_ROW = 32
MAX_DAMAGED_SHARE = Fraction(2, 3)  # FFmpeg's -max_error_rate


class ContainerSource(SourceBase):
    """One video stream of a container, its first frame decoded when it is opened.

    Args:
        name: what messages call the input.
        media: a path, or standard input.
        options: supply the frame rate of streams without times, and may cut the clip.

    Raises:
        InputError: if it is no media, has no video, cannot be decoded, or is cut short.
    """

    def __init__(self, name: str, media: Path | PipeInput, options: InputOptions) -> None:
        super().__init__()
        self._name = name
        self._media = media
        self._options = options
        self._container = open_container(name, media, options)
        try:
            self._stream = pick_stream(name, self._container, options, self.notices)
            if isinstance(media, Path):
                truncation.check_file_is_whole(name, media, self._container, self._stream)
            self.tracks = CopiedTracks(pick_tracks(name, self._container, self._stream, self.notices))
            self._decoder = pick_decoder(self._stream)
            self._decode_times = DecodeTimes() if self._container.format.name in DECODE_ORDER_CONTAINERS else None
            self._jumps = Discontinuities.of(self._container)
            self._lost = LostPictures()
            self._n_packets, self._n_promised = 0, 0
            self._extent = truncation.Extent()
            self._last_pts = -(2**63)
            self._entry: Entry | None = None
            self._is_before_entry = False
            self._has_captions = False
            self._time_base = Fraction(self._stream.time_base or Fraction(1, av.time_base))
            self._packets = self._iter_packets()
            self._pictures = self._iter_pictures()
            first = next(self._pictures, None)
            if first is None:
                raise InputError(f"{name} has a video track, but no frame of it can be decoded.", truncation.NEXT_STEP)
            self._first: av.VideoFrame | None = first
            if options.frame_rate and first.duration and not has_times(self._container):
                self._time_base = 1 / (options.frame_rate * first.duration)
            self._orientation = find_orientation(name, first, self.notices)
            self.info = self._describe(first, options)
            begin = first.pts if self._decode_times is None else self._decode_times.peek()
            self._cut = Cut.of(options, begin or 0, self._time_base)
            self._n_promised = self.info.n_frames or 0
            self._skip_beginning(begin)
            self.chapters = self._cut.cut_chapters(self._container.chapters(), self._time_base)
            self.tracks.cut(self._cut, self._time_base)
        except BaseException:
            self._container.close()
            raise
        self._stored_size = (first.height, first.width)
        self._stored_format = first.format.name
        siting: Siting | None = "left" if self._decoder.name in UNMARKED_DECODERS else None
        self._to_rgb = ToRgb(resolve_color(self.info.color, first.format.name, self._stored_size), siting=siting)

    def __iter__(self) -> Iterator[Frame]:
        """The frames, each held back until the time of the next is known: that difference is its duration."""
        cut, n_frames = self._cut, 0
        for held, duration in self._timed_pictures():
            if cut.begins_after(held.pts):
                continue
            if cut.ends_before(held.pts, n_frames):
                self._finish_tracks(held.pts)
                break
            n_frames += 1
            yield self._to_frame(held, cut.clip(held.pts, duration))
        else:
            self._check_all_came()
            self._check_damage(self._n_packets)
        if not n_frames:
            raise nothing_left(self._name, self._options)
        self.notices.extend(filter(None, [self.counters.describe_damage(self._name)]))
        if self._jumps is not None and self._jumps.n_jumps:
            self.notices.append(f"The clock of {self._name} jumps; what follows is joined on, as ffmpeg does.")

    def interrupt(self) -> None:
        """Makes a read that waits for a pipe give up."""
        if isinstance(self._media, PipeInput):
            self._media.interrupt()

    def close(self) -> None:
        """Closes the container, and a named pipe that it came from."""
        self._pictures.close()
        self._packets.close()
        self._first = None
        self._container.close()
        if isinstance(self._media, PipeInput):
            self._media.close()

    def _iter_packets(self) -> Generator[av.Packet, None, None]:
        """Packets of all streams in use; damaged stretches are counted and passed over."""
        wanted = [self._stream, *(s for s in self.tracks.streams if s.type != "attachment")]
        n_errors = 0
        while True:
            try:
                for packet in self._container.demux(wanted):
                    n_errors = 0
                    if self._jumps is not None and packet.time_base is not None:
                        self._jumps.mend(packet)
                    yield packet
                return
            except InterruptedPipeError:
                raise
            except FFmpegError as error:
                n_errors += 1
                self.counters.corrupt_packets += 1
                if isinstance(self._media, PipeInput) and not self._n_packets:
                    raise not_streamable(self._name) from error
                if not isinstance(error, ValueError) or n_errors > MAX_READ_ERRORS_IN_A_ROW:
                    raise InputError(
                        f"{self._name} cannot be read past frame {self._n_packets}: {reason(error)}.",
                        truncation.NEXT_STEP,
                    ) from error

    def _iter_pictures(self) -> Generator[av.VideoFrame, None, None]:
        for packet in self._packets:
            is_flush = not packet.size and packet.dts is None and packet.pts is None
            if packet.stream is not self._stream:
                if not is_flush:
                    self.tracks.put(packet)
                continue
            if not is_flush:
                self._n_packets += 1
                self._extent.add(packet)
                if self._is_skipped(packet):
                    continue
                self.counters.corrupt_packets += packet.is_corrupt
                if self._decode_times is not None:
                    self._decode_times.put(packet.dts)
                elif not packet.is_discard:
                    self._lost.expect(packet.pts)
            try:
                yield from self._decoder.decode(packet)
            except AvEOFError:
                return
            except FFmpegError:
                self._note_failure(packet)

    def _is_skipped(self, packet: av.Packet) -> bool:
        """Whether a packet of the pictures is not for the decoder."""
        self._last_pts = max(self._last_pts, self._last_pts if packet.pts is None else packet.pts)
        if self._entry is not None and self._entry.is_at(packet):
            self._is_before_entry = False
        # An empty packet means "as before"; to a decoder it would mean the end.
        return self._is_before_entry or not packet.size

    def _note_failure(self, packet: av.Packet) -> None:
        """Counts a packet that the decoder refused."""
        if self._entry is not None and packet.pts is not None and packet.pts < self._entry.pts:
            return  # It needs pictures before the keyframe where decoding began, and is shown before the stretch.
        self.counters.corrupt_packets += not packet.is_corrupt
        self._lost.report_error()
        if self._decode_times is not None:
            self._decode_times.lose(packet.dts)
        if self._n_promised:
            self._check_damage(max(self._n_packets, self._n_promised))

    def _check_damage(self, n_packets: int) -> None:
        """Refuses a clip of which too little is left, as soon as that is certain."""
        n_bad = self.counters.corrupt_packets
        if n_bad > MAX_DAMAGED_SHARE * n_packets:
            raise InputError(
                f"{self._name} is too damaged: {n_bad} of {n_packets} packets cannot be read.", truncation.NEXT_STEP
            )

    def _skip_beginning(self, begin: int | None) -> None:
        """Leaves out what lies well before the stretch wanted, where decoding can begin later."""
        start, media = self._cut.start, self._media
        if start is None or begin is None or self._decode_times is not None or not isinstance(media, Path):
            return
        if (start - begin) * self._time_base < WORTH_IT_S:
            return
        entry = find_entry(self._name, media, self._options, self._stream.index, start)
        if entry is None or entry.pts <= self._last_pts:
            return
        self._pictures.close()
        if entry.seek_to is not None:
            self._packets.close()
            self.tracks.forget()
            self._container.seek(entry.seek_to, stream=self._stream)
            self._packets = self._iter_packets()
            if entry.dts is not None:
                self._n_packets = sum(known.timestamp < entry.dts for known in self._stream.index_entries)
        self._decoder.flush_buffers()
        self._entry, self._is_before_entry = entry, True
        self._first, self._lost = None, LostPictures()
        self._pictures = self._iter_pictures()

    def _timed_pictures(self) -> Iterator[tuple[PlacedPicture, int | None]]:
        """Each picture with the time until the next one."""
        timestamps = Timestamps(self.info.time_base, self.info.frame_rate)
        deinterlacer = Deinterlacer(self._options.deinterlace)
        placer = PicturePlacer(timestamps, deinterlacer, self._lost, self._decode_times, self.counters)
        held: PlacedPicture | None = None
        for picture in placer.place(self._all_pictures()):
            if held is not None:
                yield held, picture.pts - held.pts
            held = picture
        if held is not None:
            yield held, self._last_duration(held)

    def _all_pictures(self) -> Iterator[av.VideoFrame]:
        first, self._first = self._first, None
        if first is not None:
            yield first
        del first
        for picture in self._pictures:
            self._check_form(picture)
            yield picture

    def _check_form(self, picture: av.VideoFrame) -> None:
        if (picture.height, picture.width) != self._stored_size or picture.format.name != self._stored_format:
            raise InputError(
                f"{self._name} changes its picture at frame {self.counters.frames} from "
                f"{self._stored_size[1]}x{self._stored_size[0]} {self._stored_format} to "
                f"{picture.width}x{picture.height} {picture.format.name}.",
                "Split it there, or convert it to one size first.",
            )

    def _to_frame(self, held: PlacedPicture, duration: int | None) -> Frame:
        self.counters.corrupt_frames += held.picture.is_corrupt
        self.counters.frames += 1
        if not self._has_captions and has_captions(held.picture):
            self._has_captions = True
            self.notices.append(f"The captions in the pictures of {self._name} are left out; ccextractor reads them.")
        alpha = read_alpha(held.picture) if self.info.has_alpha else None
        return Frame(
            self._orientation.apply(self._to_rgb(held.picture)),
            held.pts - self._cut.shift,
            duration,
            None if alpha is None else self._orientation.apply(alpha),
        )

    def _finish_tracks(self, end: int) -> None:
        """Reads what belongs to the other tracks of a stretch that ends at tick `end`."""
        self.tracks.end_at(end * self._time_base)
        for packet in self._packets:
            ticks = packet.dts if packet.dts is not None else packet.pts
            if ticks is None or packet.time_base is None:
                continue
            if ticks * Fraction(packet.time_base) > end * self._time_base + INTERLEAVING_S:
                return
            if packet.stream is not self._stream:
                self.tracks.put(packet)

    def _last_duration(self, held: PlacedPicture) -> int | None:
        """The last picture's duration: as stated, but MP4 states distances of decoding times where pictures reorder.

        The movie's own duration then bounds it, and is exact to one of its ticks if there is no other track.
        """
        is_indexed = truncation.is_indexed(self._container.format.name)
        if not is_indexed or not self._stream.codec_context.has_b_frames or not isinstance(self._media, Path):
            return held.stated_duration
        end_s, tick_s = movie_duration(self._media) or (Fraction(0), Fraction(0))
        duration = round(end_s / self._time_base) - held.pts
        if duration <= 0 or abs(duration - (held.stated_duration or 0)) * self._time_base < tick_s:
            return held.stated_duration
        is_alone = len(self._container.streams) == 1
        return duration if is_alone else min(held.stated_duration or duration, duration)

    def _check_all_came(self) -> None:
        if truncation.is_indexed(self._container.format.name):
            n_promised = len(self._stream.index_entries)
            if self._n_packets < n_promised:
                raise truncation.cut_short(self._name, self._n_packets, str(n_promised))
        elif isinstance(self._media, PipeInput):
            truncation.check_pipe_was_whole(self._name, self._media, self._container, self._stream, self._extent)

    def _describe(self, picture: av.VideoFrame, options: InputOptions) -> SourceInfo:
        self._note_losses(picture)
        return describe_video(
            self._name, self._container, self._stream, picture, self._orientation, self._time_base, options
        )

    def _note_losses(self, picture: av.VideoFrame) -> None:
        if self._options.frame_rate and has_times(self._container):
            self.notices.append(f"{self._name} has times of its own, which are kept: --fps is for inputs without.")
        note_interlacing(self._name, picture.interlaced_frame, self._options, self.notices)
        matrix = unconvertible_matrix(read_color(picture), picture.format.name)
        if matrix is not None:
            self.notices.append(f"The colour matrix {matrix} of {self._name} is not supported; colours may be off.")
