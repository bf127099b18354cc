"""Evidence that a file was cut short, so that nobody gets a silently short video.

Trusted evidence, all of it independent of edit lists, B-frames and unknown counts:
- MP4/MOV: the demuxer's index of the video track names the bytes of every frame. An entry that ends behind the end
  of the file is lost, and at the end of reading every entry must have come out as a packet.
- Matroska/WebM and AVI state the size of their contents. If the file is smaller *and* its packets, counted without
  decoding, end well before the stated duration, pictures are missing. (A cut through the seek table at the end of a
  Matroska file loses no picture and is accepted.)
"""

import os
from fractions import Fraction
from pathlib import Path

import av
from av.error import FFmpegError

from flashvsr_cli.errors import InputError

EBML_ID, SEGMENT_ID = 0x1A45DFA3, 0x18538067
RIFF_HEADER_BYTES = 12
MISSING_TAIL_FRAMES = 2
NEXT_STEP = "Get a complete copy, or repair it (for instance `ffmpeg -i damaged -c copy repaired.mkv`) and use that."


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
    promised = promised_bytes(path)
    if promised is None or promised <= n_bytes or container.duration is None:
        return
    rate = stream.average_rate or stream.guessed_rate
    n_read, end = _count_packets(path, stream.index)
    duration = Fraction(container.duration, av.time_base)
    tail = MISSING_TAIL_FRAMES / rate if rate else Fraction(0)
    if end + tail < duration:
        estimate = f"about {round(duration * rate)}" if rate else "more"
        raise cut_short(name, n_read, str(stream.frames) if stream.frames else estimate)


def promised_bytes(path: Path) -> int | None:
    """The size that a Matroska or AVI file says it has, or None if it does not say."""
    with path.open("rb") as file:
        head = file.read(64)
    if head[:4] == b"RIFF" and len(head) >= RIFF_HEADER_BYTES:
        return 8 + int.from_bytes(head[4:8], "little")
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


def _count_packets(path: Path, index: int) -> tuple[int, Fraction]:
    """Packets of one stream that can be read, and where in seconds the last of them ends."""
    n_packets, end = 0, Fraction(0)
    with av.open(f"file:{os.fspath(path)}", metadata_errors="replace") as container:
        try:
            for packet in container.demux(container.streams[index]):
                if packet.size and packet.pts is not None and not packet.is_corrupt:
                    n_packets += 1
                    end = max(end, (packet.pts + (packet.duration or 0)) * Fraction(packet.time_base))
        except FFmpegError:
            return n_packets, end
    return n_packets, end
