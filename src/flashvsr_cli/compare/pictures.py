"""Pictures to look at: PNG files and strips, from arrays alone."""

import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

Picture = npt.NDArray[np.uint8]
GAP = 4


def write_png(path: Path, image: Picture) -> None:
    """Write (H, W, 3) uint8 RGB."""
    path.write_bytes(encode_png(image))


def encode_png(image: Picture) -> bytes:
    """The PNG file of (H, W, 3) uint8 RGB."""
    height, width = image.shape[:2]
    rows = np.concatenate((np.zeros((height, 1), np.uint8), image.reshape(height, -1)), axis=1)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = (chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows.tobytes(), 6)), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def arrange(rows: Sequence[Sequence[Picture]]) -> Picture:
    """Rows of pictures, all of one size, with a white gap between them."""
    height, width = rows[0][0].shape[:2]
    n_columns = max(len(row) for row in rows)
    sheet = np.full((len(rows) * (height + GAP) - GAP, n_columns * (width + GAP) - GAP, 3), 255, dtype=np.uint8)
    for i_row, row in enumerate(rows):
        for i_column, picture in enumerate(row):
            top, left = i_row * (height + GAP), i_column * (width + GAP)
            sheet[top : top + height, left : left + width] = picture
    return sheet


def to_bytes(image: npt.NDArray[np.uint8] | npt.NDArray[np.uint16]) -> Picture:
    """8 bits of a picture that may have 16."""
    levels = image.astype(np.uint32)
    return (levels if image.dtype == np.uint8 else (levels + 128) // 257).astype(np.uint8)
