"""Evidence that a file was cut short, so that nobody gets a silently short video.

Trusted evidence, all of it independent of edit lists, B-frames and unknown counts:
- MP4/MOV: the demuxer's index of the video track names the bytes of every frame. An entry that ends behind the end
  of the file is lost, and at the end of reading every entry must have come out as a packet.
- Matroska/WebM, AVI and FLV state the size of their contents, unless they were written to a pipe. If the file is
  smaller *and* its packets, counted without decoding, end well before the stated duration, pictures are missing. (A cut
  through the seek table at the end of a Matroska file loses no picture and is accepted.) Of a pipe the same is known
  when it has ended.
"""

import os
import struct
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
from av.error import FFmpegError

from flashvsr_cli.errors import InputError
from flashvsr_cli.video.pipes import HEAD_BYTES, PipeInput

EBML_ID, SEGMENT_ID = 0x1A45DFA3, 0x18538067
RIFF_HEADER_BYTES = 12
RIFF_UNKNOWN_BYTES = 0xFFFFFFFF  # what FFmpeg leaves there if it cannot go back
FLV_SIZE_KEY = b"\0\x08filesize\0"  # a name of eight letters, and the mark of a number
MISSING_TAIL_FRAMES = 2
NEXT_STEP = "Get a complete copy, or repair it (for instance `ffmpeg -i damaged -c copy repaired.mkv`) and use that."


@dataclass
class Extent:
    """What could be read of a video stream: packets, and where in seconds the last of them ends."""

    n_packets: int = 0
    end: Fraction = Fraction(0)

    def add(self, packet: av.Packet) -> None:
        """Counts a packet, unless it is empty or damaged or has no time."""
        if packet.size and packet.pts is not None and not packet.is_corrupt:
            self.n_packets += 1
            self.end = max(self.end, (packet.pts + (packet.duration or 0)) * Fraction(packet.time_base))


def is_indexed(container_name: str) -> bool:
    """Whether the demuxer's index lists every packet of the video track (MP4, MOV and kin)."""
    return "mov" in container_name.split(",")


def cut_short(name: str, n_read: int, promised: str) -> InputError:
    """The error for a video of which only the first `n_read` frames are there, of as many as `promised` says."""
    return InputError(f"{name} is cut short: {n_read} of {promised} frames can be read.", NEXT_STEP)


def check_file_is_whole(name: str, path: Path, container: av.container.InputContainer, stream: av.VideoStream) -> None:
    """Looks for missing bytes of an opened file before any work is spent on it.

    Raises:
        InputError: if frames that the file promises are not in it, saying how many are.
    """
    n_bytes = path.stat().st_size
    if is_indexed(container.format.name):
        ends = [entry.pos + entry.size for entry in stream.index_entries]
        n_whole = sum(end <= n_bytes for end in ends)
        if n_whole < len(ends):
            raise cut_short(name, n_whole, str(len(ends)))
        return
    with path.open("rb") as file:
        promised = promised_bytes(file.read(HEAD_BYTES))
    if promised is not None and n_bytes < promised and container.duration is not None:
        _check_reaches_end(name, container, stream, _measure(path, stream.index))


def check_pipe_was_whole(
    name: str, pipe: PipeInput, container: av.container.InputContainer, stream: av.VideoStream, extent: Extent
) -> None:
    """Looks for missing bytes of a stream that was read to its end.

    Raises:
        InputError: if frames that its beginning promises did not come, saying how many did.
    """
    n_bytes, promised = pipe.n_delivered(), promised_bytes(pipe.head())
    if n_bytes is not None and promised is not None and n_bytes < promised:
        _check_reaches_end(name, container, stream, extent)


def _check_reaches_end(
    name: str, container: av.container.InputContainer, stream: av.VideoStream, extent: Extent
) -> None:
    """Refuses a video that is known to lack bytes if it lacks pictures, too."""
    if container.duration is None:
        return
    rate = stream.average_rate or stream.guessed_rate
    duration = Fraction(container.duration, av.time_base)
    tail = MISSING_TAIL_FRAMES / rate if rate else Fraction(0)
    if extent.end + tail < duration:
        estimate = f"about {round(duration * rate)}" if rate else "more"
        raise cut_short(name, extent.n_packets, str(stream.frames) if stream.frames else estimate)


def promised_bytes(head: bytes) -> int | None:
    """The size that a Matroska, AVI or FLV file that begins with `head` says it has, or None if it does not say."""
    if head[:4] == b"RIFF" and len(head) >= RIFF_HEADER_BYTES:
        n_bytes = int.from_bytes(head[4:8], "little")
        return None if n_bytes == RIFF_UNKNOWN_BYTES else 8 + n_bytes
    if head[:3] == b"FLV":
        return _flv_bytes(head)
    element, size, position = _ebml_element(head, 0)
    if element != EBML_ID or size is None:
        return None
    element, size, position = _ebml_element(head, position + size)
    return position + size if element == SEGMENT_ID and size is not None else None


def _ebml_element(data: bytes, position: int) -> tuple[int | None, int | None, int]:
    """(id, size or None if unknown, position of the contents) of the EBML element at `position`."""
    if position + 12 > len(data) or data[position] == 0:
        return None, None, position
    id_bytes = 9 - data[position].bit_length()
    element = int.from_bytes(data[position : position + id_bytes], "big")
    position += id_bytes
    if data[position] == 0:
        return element, None, position
    size_bytes = 9 - data[position].bit_length()
    bits = 7 * size_bytes
    size = int.from_bytes(data[position : position + size_bytes], "big") & ((1 << bits) - 1)
    return element, None if size == (1 << bits) - 1 else size, position + size_bytes


def _flv_bytes(head: bytes) -> int | None:
    """The size in the tag `onMetaData` at the beginning of an FLV file; 0 or nothing if its writer did not know it."""
    position = head.find(FLV_SIZE_KEY) + len(FLV_SIZE_KEY)
    if position < len(FLV_SIZE_KEY) or position + 8 > len(head):
        return None
    (n_bytes,) = struct.unpack_from(">d", head, position)
    return int(n_bytes) if 0 < n_bytes < 2**63 else None


def _measure(path: Path, index: int) -> Extent:
    """What can be read of one stream of a file."""
    extent = Extent()
    with av.open(f"file:{os.fspath(path)}", metadata_errors="replace") as container:
        try:
            for packet in container.demux(container.streams[index]):
                extent.add(packet)
        except FFmpegError:
            return extent
    return extent
