"""What FFmpeg does not pass on of MP4 and MOV files, and does not write as it should: their boxes."""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO

MOV_MUXERS = ("mp4", "mov", "ipod")
BOX_HEADER_BYTES, LONG_SIZE_BYTES = 8, 8
SIZE_IS_LONG, SIZE_IS_REST = 1, 0
MAX_BOXES = 1000
FULL_BOX_BYTES = 4
"""Version and flags, in front of the contents of many boxes."""


@dataclass(frozen=True)
class _Box:
    """A box of a file: where it begins, and where its contents begin and end."""

    name: bytes
    at: int
    start: int
    end: int


def movie_duration(path: Path) -> tuple[Fraction, Fraction] | None:
    """Seconds from the movie's start to the end of its longest track, edit lists applied; None if not stated.

    Also the seconds of the ticks in which it is counted: often milliseconds, whatever the tracks count in.
    """
    with path.open("rb") as file:
        header = _read(file, _find(file, _whole(path), b"moov", b"mvhd"), 32)
    if len(header) < 32:
        return None
    # version and flags, two dates (32 or 64 bits each), timescale, duration (32 or 64 bits)
    is_long = header[0] == 1
    at = 20 if is_long else 12
    timescale = int.from_bytes(header[at : at + 4], "big")
    duration = int.from_bytes(header[at + 4 : at + (12 if is_long else 8)], "big")
    is_stated = duration not in (0, 2**64 - 1 if is_long else 2**32 - 1)
    return (Fraction(duration, timescale), Fraction(1, timescale)) if timescale and is_stated else None


def hide_empty_videos(path: Path) -> None:
    """Marks video tracks without any picture as free space, in place.

    Where a movie is written in fragments, FFmpeg gives a cover a track of its own beside the item that holds it. Raises
    `OSError`.
    """
    with path.open("r+b") as file:
        movie = _find(file, _whole(path), b"moov")
        for track in () if movie is None else list(_boxes(file, movie)):
            if track.name == b"trak" and _is_empty_video(file, track):
                file.seek(track.at + 4)
                file.write(b"free")


def _is_empty_video(file: BinaryIO, track: _Box) -> bool:
    # Behind version and flags: a field of zeros and the kind of track; the size of all samples and their number.
    handler = _read(file, _find(file, track, b"mdia", b"hdlr"), FULL_BOX_BYTES + 8)
    sizes = _read(file, _find(file, track, b"mdia", b"minf", b"stbl", b"stsz"), FULL_BOX_BYTES + 8)
    return handler[-4:] == b"vide" and len(sizes) == FULL_BOX_BYTES + 8 and not any(sizes[-4:])


def _whole(path: Path) -> _Box:
    return _Box(b"", 0, 0, path.stat().st_size)


def _read(file: BinaryIO, box: _Box | None, n_bytes: int) -> bytes:
    """The first of a box's contents; nothing if there is no box."""
    if box is None:
        return b""
    file.seek(box.start)
    return file.read(min(box.end - box.start, n_bytes))


def _find(file: BinaryIO, box: _Box, *names: bytes) -> _Box | None:
    """The first box of the first name in `box`, in it the first of the second name, and so on."""
    for name in names:
        found = next((inner for inner in _boxes(file, box) if inner.name == name), None)
        if found is None:
            return None
        box = found
    return box


def _boxes(file: BinaryIO, box: _Box) -> Iterator[_Box]:
    """The boxes in `box`."""
    position = box.start
    for _ in range(MAX_BOXES):
        file.seek(position)
        header = file.read(BOX_HEADER_BYTES)
        if len(header) < BOX_HEADER_BYTES or position >= box.end:
            return
        size, start = int.from_bytes(header[:4], "big"), position + BOX_HEADER_BYTES
        if size == SIZE_IS_LONG:
            size, start = int.from_bytes(file.read(LONG_SIZE_BYTES), "big"), start + LONG_SIZE_BYTES
        elif size == SIZE_IS_REST:
            size = box.end - position
        yield _Box(header[4:], position, start, min(position + size, box.end))
        if size < BOX_HEADER_BYTES:
            return
        position += size
