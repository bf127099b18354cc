"""A video file that can be taken up again: everything goes into the container as always, and into a journal, too.

The next session opens a new container, muxes the packets that the journal kept while the reader passes over their
pictures, and goes on with a fresh encoder: no picture is encoded twice, and the other tracks lie where they would.
"""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Final

import av
from av.packet import PacketSideData, packet_sidedata_type_from_literal

from flashvsr_cli.errors import OutputError, ResumeError, UsageError
from flashvsr_cli.geometry import Size
from flashvsr_cli.options import EncodeOptions
from flashvsr_cli.resume import Journal, KeptPacket, open_journal
from flashvsr_cli.video.container_writer import ContainerSink
from flashvsr_cli.video.encoding import Encoding, find_muxer, plan_encoding
from flashvsr_cli.video.faults import output_faults
from flashvsr_cli.video.formats import Y4M_SUFFIX
from flashvsr_cli.video.frame import Frame
from flashvsr_cli.video.source import Source
from flashvsr_cli.video.targets import PartFile, prepare_target
from flashvsr_cli.video.track_writer import TrackChoices

ALPHA_SIDE_DATA: Final = "matroska_block_additional"


class DecodeOrder:
    """Decoding times that rise across the joins between encoders.

    An encoder that reorders begins with times before its first picture, where a file that goes on has the last
    pictures of the encoder before. Those packets get the times of these pictures, which is what one encoder would
    have given them.
    """

    def __init__(self, shown: list[int]) -> None:
        self._shown = shown  # times of the pictures before the join, in display order
        self._waiting: list[KeptPacket] = []
        self._is_through = not shown

    def put(self, packet: KeptPacket) -> list[KeptPacket]:
        """Take in the encoder's next packet; gives those whose times are settled."""
        if self._is_through:
            return [packet]
        self._waiting.append(packet)
        is_early = packet.dts is not None and packet.dts <= self._shown[-1]
        return [] if is_early else self.flush()

    def flush(self) -> list[KeptPacket]:
        """What waits; after the last packet of the encoder, or the first that is not early."""
        self._is_through = True
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return []
        early = [p for p in waiting if p.dts is not None and p.dts <= self._shown[-1]]
        # Where fewer pictures are done than an encoder holds back, the ticks before the first one are still free.
        n_missing = max(0, len(early) - len(self._shown))
        times = [self._shown[0] - n for n in range(n_missing, 0, -1)] + self._shown[-len(early) :]
        moved = [replace(packet, dts=dts) for packet, dts in zip(early, times[-len(early) :], strict=False)]
        return [*moved, *waiting[len(early) :]]


class ResumableSink(ContainerSink):
    """A `ContainerSink` with a journal.

    Args:
        journal: of this output; belongs to this object from now on.
        name, target, muxer, source, size, encoding, choices: as for `ContainerSink`.
    """

    def __init__(
        self,
        journal: Journal,
        name: str,
        target: PartFile,
        muxer: str,
        source: Source,
        size: Size,
        encoding: Encoding,
        choices: TrackChoices,
    ) -> None:
        super().__init__(name, target, muxer, source, size, encoding, choices)
        self._journal = journal
        self._temporary = target.path
        self._encoding_facts = {**asdict(encoding), "notices": ()}
        self._order = DecodeOrder([])
        self._done_times: list[int] = []
        self._kept: Iterator[KeptPacket] = iter(())
        self._is_flushed = False
        # Whether the encoder stands between two pictures, and so can be asked for what it holds.
        self._is_sound = False

    @property
    def n_done(self) -> int:
        """Pictures that need not be computed again; known after `begin`."""
        return self._journal.n_done

    def begin(self, facts: dict[str, Any]) -> None:
        """Begin a session, before the first frame.

        Raises:
            ResumeError: an earlier session was asked for something else.
            OutputError: the journal cannot be written.
        """
        with output_faults(self._name):
            self._journal.begin({**facts, **self._own_facts()}, self._temporary)
        self._kept, self._done_times = self._journal.packets(), self._journal.frames
        self._order = DecodeOrder(self._done_times)
        self._is_sound = True

    def check(self, facts: dict[str, Any]) -> None:
        """Refuse what an earlier session contradicts, as far as it is known.

        Raises:
            ResumeError: an earlier session was asked for something else.
        """
        self._journal.check({**facts, **self._own_facts()})

    def _own_facts(self) -> dict[str, Any]:
        # Packets of several encoders share one header: they must agree about it.
        head = bytes(self._stream.codec_context.extradata or b"").hex()
        return {"encoding": self._encoding_facts, "header of the encoder": head}

    def _write(self, frame: Frame) -> None:
        """Encodes a frame, or passes over one that is done."""
        pts = self._n_next if frame.pts is None else frame.pts
        if self.n_frames >= self.n_done:
            self._is_sound = False
            with output_faults(self._name):
                self._journal.add_frame(pts)
            super()._write(frame)
            self._is_sound = True
            return
        if self._done_times[self.n_frames] != pts:
            raise ResumeError(
                f"Frame {self.n_frames} of the input has another time than in the unfinished run.",
                f"Delete {self._journal.path} to begin anew.",
            )
        with output_faults(self._name):
            self._n_next = pts + (frame.duration or 1)
            self._put(next(self._kept))
            self._copy_tracks(pts)
        self.n_frames += 1

    def commit(self) -> None:
        """Ends the output; the journal is no longer needed."""
        self._is_flushed = True
        super().commit()
        with output_faults(self._name):
            self._journal.remove()

    def abort(self) -> None:
        """Removes the unfinished container; what was handed to the encoder is kept in the journal."""
        try:
            if self._is_sound and not self._is_flushed:
                # What cannot be kept, on a full disk, is computed again.
                with suppress(OutputError):
                    self._keep()
            self._target.abort()
        finally:
            self._journal.close()

    def _keep(self) -> None:
        self._is_flushed = True
        with output_faults(self._name):
            if self.n_frames > self.n_done:
                self._mux(self._stream.encode(None))
            self._journal.sync()

    def _mux(self, packets: list[av.Packet]) -> None:
        for packet in packets:
            pts = packet.pts if packet.pts is not None else self._n_next
            duration = self._durations.pop(pts, None) or packet.duration or 0
            base = Fraction(packet.time_base or self._time_base).as_integer_ratio()
            dts, content = self._decoding_time(packet), (bytes(packet), _alpha_of(packet))
            kept = KeptPacket(pts, dts, duration, base, packet.is_keyframe, *content)
            self._settle(self._order.put(kept))
        if self._is_flushed:
            self._settle(self._order.flush())

    def _settle(self, packets: list[KeptPacket]) -> None:
        for packet in packets:
            self._journal.add_packet(packet)
            self._put(packet)

    def _put(self, kept: KeptPacket) -> None:
        packet = av.Packet(kept.data)
        packet.pts, packet.dts, packet.duration = kept.pts, kept.dts, kept.duration
        packet.time_base = Fraction(*kept.time_base)
        packet.is_keyframe = kept.is_keyframe
        if kept.alpha:
            _set_alpha(packet, kept.alpha)
        packet.stream = self._stream
        self._container.mux_one(packet)


def _alpha_of(packet: av.Packet) -> bytes:
    """The transparency that an encoder puts beside a picture; nothing if it puts none."""
    return bytes(packet.get_sidedata(ALPHA_SIDE_DATA)) if packet.has_sidedata(ALPHA_SIDE_DATA) else b""


def _set_alpha(packet: av.Packet, alpha: bytes) -> None:
    make: Any = PacketSideData  # PyAV's type stubs know no constructor; `test_transparency_is_kept` holds it.
    side_data = make(packet_sidedata_type_from_literal(ALPHA_SIDE_DATA), len(alpha))
    side_data.update(alpha)
    packet.set_sidedata(side_data)


def open_resumable_sink(
    location: str, source: Source, size: Size, options: EncodeOptions, *, overwrite: bool = False
) -> ResumableSink:
    """Opens a video file that can be taken up again; see `open_sink`.

    Raises:
        UsageError: the output is no video file in a container.
        ResumeError: another process writes it.
        OutputError: as for `open_sink`.
    """
    suffix = Path(location).suffix.lower()
    if location == "-" or suffix in ("", Y4M_SUFFIX) or source.info.kind != "video":
        raise UsageError("--resume works from video file to video file.", "Leave it out.")
    muxer = find_muxer(location)
    target = prepare_target(location)
    encoding = plan_encoding(source.info, size, suffix.removeprefix("."), options)
    journal = open_journal(location, target)
    try:
        with output_faults(location):
            file = PartFile(target, overwrite=overwrite)
        return ResumableSink(journal, location, file, muxer, source, size, encoding, TrackChoices.of(options))
    except BaseException:
        journal.close()
        raise
