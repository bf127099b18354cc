"""The one fact of an MP4 or MOV file that FFmpeg does not pass on: how long the movie is shown."""

from fractions import Fraction
from pathlib import Path
from typing import BinaryIO

BOX_HEADER_BYTES, LONG_SIZE_BYTES = 8, 8
SIZE_IS_LONG, SIZE_IS_REST = 1, 0
MAX_BOXES = 1000


def movie_duration(path: Path) -> Fraction | None:
    """Seconds from the movie's start to the end of its longest track, edit lists applied; None if not stated."""
    with path.open("rb") as file:
        end = path.stat().st_size
        for name in (b"moov", b"mvhd"):
            found = _find_box(file, name, end)
            if found is None:
                return None
            start, end = found
            file.seek(start)
        header = file.read(min(end - start, 32))
    if len(header) < 32:
        return None
    # version and flags, two dates (32 or 64 bits each), timescale, duration (32 or 64 bits)
    is_long = header[0] == 1
    at = 20 if is_long else 12
    timescale = int.from_bytes(header[at : at + 4], "big")
    duration = int.from_bytes(header[at + 4 : at + (12 if is_long else 8)], "big")
    is_stated = duration not in (0, 2**64 - 1 if is_long else 2**32 - 1)
    return Fraction(duration, timescale) if timescale and is_stated else None


def _find_box(file: BinaryIO, name: bytes, end: int) -> tuple[int, int] | None:
    """(start, end) of the contents of the first box of that name between the file's position and `end`."""
    position = file.tell()
    for _ in range(MAX_BOXES):
        file.seek(position)
        header = file.read(BOX_HEADER_BYTES)
        if len(header) < BOX_HEADER_BYTES or position >= end:
            return None
        size, start = int.from_bytes(header[:4], "big"), position + BOX_HEADER_BYTES
        if size == SIZE_IS_LONG:
            size, start = int.from_bytes(file.read(LONG_SIZE_BYTES), "big"), start + LONG_SIZE_BYTES
        elif size == SIZE_IS_REST:
            size = end - position
        if header[4:] == name:
            return start, min(position + size, end)
        if size < BOX_HEADER_BYTES:
            return None
        position += size
    return None
