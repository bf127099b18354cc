"""Where decoding may begin so that a clip cut with --start need not be decoded from its front.

An entry is a keyframe a few seconds before the stretch, from which a decoder has been seen to give every picture of
the stretch: it was tried, on a handle of its own, so that the reader's own place in the file is untouched. Where none
is found (pipes, one keyframe at the front, times that go back), the clip is decoded from its front as before.

Two ways lead to an entry. Files with an index that names every keyframe are entered there. All others are read from
their front, without decoding, up to the keyframe: still many times faster. Matroska with subtitles is among them, since
a subtitle that is on show at the start may lie anywhere before.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import chain
from pathlib import Path

import av
from av.error import FFmpegError

from flashvsr_cli.options import InputOptions
from flashvsr_cli.video.discontinuity import LARGEST_GAP_S, first_offset
from flashvsr_cli.video.opening import open_container, pick_decoder
from flashvsr_cli.video.truncation import is_indexed

INTERLEAVING_S = 5
"""Tracks lie beside each other, but not exactly: what lies further apart in a file is further apart in time."""
WORTH_IT_S = 2 * INTERLEAVING_S
"""Shorter beginnings are decoded: opening the file once more would take as long."""
INDEXED_FORMATS = ("mov", "matroska")
MAX_HELD_BYTES = 2**26
MAX_PACKETS_TO_FIRST_PICTURE = 500


@dataclass(frozen=True)
class Entry:
    """A packet where decoding begins; times in ticks of its stream.

    Attributes:
        pts, dts: of the packet, a keyframe; Matroska does not know the second after a seek.
        seek_to: what to ask the demuxer for; None if the file has to be read up to the packet.
    """

    pts: int
    dts: int | None
    seek_to: int | None

    def is_at(self, packet: av.Packet) -> bool:
        """Whether that is the packet."""
        return packet.is_keyframe and packet.pts == self.pts


def find_entry(name: str, path: Path, options: InputOptions, index: int, start: int) -> Entry | None:
    """The entry for a stretch.

    Args:
        name: what messages call the file.
        path: the file.
        options: as for opening it.
        index: of the video stream.
        start: first tick of the stretch, as the reader counts.

    Returns:
        None if the clip has to be decoded from its front.
    """
    with open_container(name, path, options) as container:
        stream = container.streams.video[[s.index for s in container.streams.video].index(index)]
        base = Fraction(stream.time_base or 1)
        shift = round(first_offset(container) / base)
        start -= shift
        goal = start - round(INTERLEAVING_S / base)
        has_index = any(kind in container.format.name.split(",") for kind in INDEXED_FORMATS)
        try:
            entry = (_look_up if has_index else _scan)(container, stream, goal, start)
        except FFmpegError:
            return None  # A damaged beginning, or no index: the reader says what it finds.
        if entry is not None and "matroska" in container.format.name and container.streams.subtitles:
            return Entry(entry.pts, entry.dts, None)
        return None if entry is None else replace(entry, pts=entry.pts + shift)


def _look_up(container: av.container.InputContainer, stream: av.VideoStream, goal: int, start: int) -> Entry | None:
    container.seek(goal, stream=stream)
    packets = (packet for packet in container.demux(stream) if packet.size)
    first = next(packets, None)
    if first is None or not first.is_keyframe or first.pts is None or first.pts > goal:
        return None
    if first.dts is None and is_indexed(container.format.name):
        return None  # Without it nobody could tell how many frames lie before, and whether all behind came.
    return Entry(first.pts, first.dts, goal) if _gives_all(stream, [first], packets, start) else None


def _scan(container: av.container.InputContainer, stream: av.VideoStream, goal: int, start: int) -> Entry | None:
    """The last keyframe up to `goal`, if every packet before it has a decoding time and these rise without a jump."""
    held: list[av.Packet] = []
    last, n_bytes, n_keyframes = None, 0, 0
    largest_gap = LARGEST_GAP_S / Fraction(stream.time_base or 1)
    packets = (packet for packet in container.demux(stream) if packet.size)
    for packet in packets:
        if packet.dts is None or (last is not None and not last < packet.dts <= last + largest_gap):
            return None
        last = packet.dts
        if packet.is_keyframe and packet.pts is not None and packet.pts <= goal:
            held, n_bytes, n_keyframes = [], 0, n_keyframes + 1
        held.append(packet)
        n_bytes += packet.size
        if n_bytes > MAX_HELD_BYTES:
            return None
        if packet.dts > goal:
            break
    if n_keyframes < 2 or held[0].pts is None:
        return None
    return Entry(held[0].pts, held[0].dts, None) if _gives_all(stream, held, packets, start) else None


def _gives_all(stream: av.VideoStream, held: list[av.Packet], more: Iterator[av.Packet], start: int) -> bool:
    """Whether a decoder that begins with these packets gives its first picture before `start`.

    Not every packet marked as a keyframe is a place to begin: where pictures are refreshed stripe by stripe, the
    decoder gives none before the last stripe.
    """
    decoder = pick_decoder(stream)
    for n_packets, packet in enumerate(chain(held, more)):
        if n_packets > MAX_PACKETS_TO_FIRST_PICTURE:
            return False
        try:
            pictures = decoder.decode(packet)
        except FFmpegError:
            continue  # Pictures shown before the keyframe may need what lies before it.
        if pictures:
            return pictures[0].pts is not None and pictures[0].pts < start
    return False
