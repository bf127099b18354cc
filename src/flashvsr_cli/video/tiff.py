"""What the directory of a TIFF file says, and a copy of the file that lets FFmpeg's decoder be strict.

Source: TIFF 6.0, section 2 and appendix A; libavcodec/tiff.c.
"""

import struct
import zlib
from typing import Literal

from flashvsr_cli.errors import InputError

ENTRY_BYTES = 12
VALUE_TYPES = {1: "B", 3: "H", 4: "I"}
SUBFILE, COMPRESSION, FILL_ORDER, STRIP_OFFSETS, STRIP_SIZES = 254, 259, 266, 273, 279
TILE_OFFSETS, SUB_DIRECTORIES = 324, 330
# Sizes, samples, compression, order of bits, strips, planes, fax options, predictor, palette, subsampling.
PIXEL_TAGS = {256, 257, 258, 259, 262, 266, 273, 277, 278, 279, 284, 292, 293, 317, 320, 530}
CAMERA_TAGS = {33422, 50706}  # the pattern of a sensor's colours, the version of DNG
DEFLATE = {8, 32946}
COMPRESSIONS = {1, 2, 3, 4, 5, 32773, 34925} | DEFLATE  # none, three fax ones, LZW, PackBits, LZMA
PIECE_BYTES = 2**16


def tiff_directory(data: bytes) -> tuple[Literal["<", ">"], list[bytes], bytes]:
    """(Byte order, entries, place of the next directory) of a file's first directory."""
    order: Literal["<", ">"] = "<" if data[:2] == b"II" else ">"
    (at,) = struct.unpack_from(order + "I", data, 4)
    (n_entries,) = struct.unpack_from(order + "H", data, at)
    end = at + 2 + ENTRY_BYTES * n_entries
    entries = [data[i : i + ENTRY_BYTES] for i in range(at + 2, end, ENTRY_BYTES)]
    return order, entries, data[end : end + 4]


def plain_tiff(name: str, data: bytes) -> bytes | None:
    """The file `name` with a directory of nothing but what its pixels depend on; None if it is a camera's raw picture.

    The decoder hands out what it has at the first strip that it cannot read, unless it is told to stop at damage; then
    it stops at every tag that it does not know, too. For raw pictures it goes through several directories.

    Raises:
        InputError: if FFmpeg does not read such pictures, or its directory or a strip is damaged.
    """
    try:
        order, entries, _ = tiff_directory(data)
        tags = {struct.unpack_from(order + "H", entry)[0]: entry for entry in entries}
        if not CAMERA_TAGS.isdisjoint(tags) or (SUB_DIRECTORIES in tags and any(_values(data, order, tags, SUBFILE))):
            return None
        is_readable = set(_values(data, order, tags, COMPRESSION)) <= COMPRESSIONS
        strips = zip(_values(data, order, tags, STRIP_OFFSETS), _values(data, order, tags, STRIP_SIZES), strict=False)
        is_deflated = not DEFLATE.isdisjoint(_values(data, order, tags, COMPRESSION))
        is_reversed = 2 in _values(data, order, tags, FILL_ORDER)
    except struct.error as error:
        raise InputError(f"{name} is damaged or cut short.", "Get a complete copy of the picture.") from error
    if not is_readable:
        raise InputError(f"{name} has a compression that this FFmpeg cannot read.", "Convert it to PNG first.")
    if TILE_OFFSETS in tags:
        raise InputError(f"{name} is stored in tiles, which FFmpeg cannot read.", "Convert it to PNG first.")
    # The decoder stops when it has enough bytes, in front of the sum that tells whether they are right.
    if is_deflated and not is_reversed and not all(_is_whole(memoryview(data)[at : at + size]) for at, size in strips):
        raise InputError(f"{name} is damaged or cut short.", "Get a complete copy of the picture.")
    kept = [entry for tag, entry in tags.items() if tag in PIXEL_TAGS]
    directory = struct.pack(order + "H", len(kept)) + b"".join(kept) + bytes(4)
    (at,) = struct.unpack_from(order + "I", data, 4)
    return data[:at] + directory + data[at + len(directory) :]


def _values(data: bytes, order: str, tags: dict[int, bytes], tag: int) -> tuple[int, ...]:
    """The numbers of an entry; none if it is not there, or is text or a fraction."""
    if tag not in tags:
        return ()
    _, kind, count, at = struct.unpack(order + "HHII", tags[tag])
    if kind not in VALUE_TYPES:
        return ()
    form = f"{order}{count}{VALUE_TYPES[kind]}"
    return struct.unpack_from(form, data, at) if struct.calcsize(form) > 4 else struct.unpack_from(form, tags[tag], 8)


def _is_whole(packed: memoryview) -> bool:
    """Whether it is what zlib wrote, to the sum at its end."""
    unpacking = zlib.decompressobj()
    try:
        for at in range(0, len(packed), PIECE_BYTES):
            unpacking.decompress(packed[at : at + PIECE_BYTES])
    except zlib.error:
        return False
    return unpacking.eof
