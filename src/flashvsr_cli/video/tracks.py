"""The tracks beside the pictures, as packets: audio, subtitles, attachments, cover pictures."""

import threading
from collections import deque
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av
from av.stream import Disposition

from flashvsr_cli.video.cut import Cut
from flashvsr_cli.video.info import TrackInfo
from flashvsr_cli.video.languages import to_iso

COPIED_KINDS = ("audio", "subtitle", "attachment")


def is_cover(stream: Any) -> bool:
    """Whether a stream is a picture that stands for the whole file."""
    return bool(stream.disposition & Disposition.attached_pic)


def read_metadata(stream: Any) -> dict[str, str]:
    """What a track says about itself in words that other containers know: MP4's `name` is their `title`."""
    metadata = dict(stream.metadata)
    if "name" in metadata:
        metadata.setdefault("title", metadata.pop("name"))
    if "language" in metadata:
        metadata["language"] = to_iso(metadata["language"])
    return metadata


def describe_track(stream: Any) -> TrackInfo:
    """The facts about one stream of an input container."""
    context = stream.codec_context
    codec = context.name if context is not None else getattr(stream, "name", None)
    metadata = read_metadata(stream)
    return TrackInfo(
        index=stream.index,
        kind="cover" if is_cover(stream) else stream.type,
        codec=codec or "unknown",
        language=metadata.get("language"),
        title=metadata.get("title"),
    )


@dataclass(frozen=True)
class _Waiting:
    time: Fraction | None
    track: int
    packet: av.Packet


class CopiedTracks:
    """Carries packets from the reader's thread to the writer's.

    The pictures come out of the model later than they went in. Packets wait here until the pictures have caught up
    with them, so that the output is interleaved like the input; what waits is compressed and spans no more time
    than the pictures under way.

    Args:
        streams: the input's streams to copy, in order.
    """

    def __init__(self, streams: list[Any]) -> None:
        self.streams = streams
        self._waiting: deque[_Waiting] = deque()
        self._first: dict[int, av.Packet] = {}
        self._lock = threading.Lock()
        self._start: Fraction | None = None
        self._end: Fraction | None = None
        self._shift = Fraction(0)
        self._is_cut = False

    def cut(self, cut: Cut, time_base: Fraction) -> None:
        """Keeps what belongs to a stretch of the pictures, shifted like them; `time_base` is that of its ticks."""
        if cut.is_whole:
            return
        with self._lock:
            self._is_cut = True
            self._start, self._shift = None if cut.start is None else cut.start * time_base, cut.shift * time_base
            self._end = None if cut.end is None else cut.end * time_base
            waiting, self._waiting = self._waiting, deque()
            for entry in waiting:
                self._keep(entry.packet)

    def forget(self) -> None:
        """Drops what waits except covers: the reader takes another place in the input."""
        with self._lock:
            self._waiting = deque(w for w in self._waiting if is_cover(w.packet.stream))

    def end_at(self, seconds: Fraction) -> None:
        """Drops packets that begin at that time of the input or later."""
        with self._lock:
            self._end = seconds if self._end is None else min(self._end, seconds)
            limit = self._end - self._shift
            self._waiting = deque(
                w for w in self._waiting if w.packet.pts is None or w.packet.pts * w.packet.time_base < limit
            )
            for waiting in self._waiting:
                _end_line(waiting.packet, limit)

    def put(self, packet: av.Packet) -> None:
        """Stores a packet as the demuxer gave it, unless it lies outside the stretch wanted."""
        with self._lock:
            if is_cover(packet.stream) and packet.stream.index in self._first:
                return  # It is one picture, and comes again after a seek.
            self._first.setdefault(packet.stream.index, packet)
            self._keep(packet)

    def _keep(self, packet: av.Packet) -> None:
        if self._is_cut and not is_cover(packet.stream) and not self._shifted(packet):
            return
        ticks = packet.dts if packet.dts is not None else packet.pts
        time = None if ticks is None else ticks * Fraction(packet.time_base)
        self._waiting.append(_Waiting(time, packet.stream.index, packet))

    def first_packet(self, track: int) -> av.Packet | None:
        """The first packet of a track that came."""
        with self._lock:
            return self._first.get(track)

    def take(self, until: Fraction | None = None) -> list[tuple[int, av.Packet]]:
        """Removes the packets up to a time in seconds (all if None), each with its input track's index."""
        taken = []
        with self._lock:
            while self._waiting:
                first = self._waiting[0]
                if until is not None and first.time is not None and first.time > until:
                    break
                self._waiting.popleft()
                taken.append((first.track, first.packet))
        return taken

    def _shifted(self, packet: av.Packet) -> bool:
        """Whether a packet belongs to the stretch; its times are then those of the output."""
        base, pts = Fraction(packet.time_base), packet.pts if packet.pts is not None else packet.dts
        if pts is None:
            return False
        begin, end = pts * base, (pts + (packet.duration or 0)) * base
        if self._end is not None and begin >= self._end:
            return False
        shift = round(self._shift / base)
        if self._start is not None and begin < self._start:
            if packet.stream.type != "subtitle" or end <= self._start:
                return False
            late = -((begin - self._start) // base)
            packet.duration = (packet.duration or 0) - late
            packet.pts = packet.dts = pts + late - shift
        else:
            packet.pts = pts - shift
            if packet.dts is not None:
                packet.dts -= shift
        if self._end is not None:
            _end_line(packet, self._end - self._shift)
        return True


def _end_line(packet: av.Packet, end: Fraction) -> None:
    """Takes a subtitle away when the stretch ends, at a time of the output in seconds."""
    if packet.stream.type == "subtitle" and packet.pts is not None and packet.duration:
        base = Fraction(packet.time_base)
        packet.duration = min(packet.duration, max(1, round((end - packet.pts * base) / base)))
