"""The ICC profile of a picture file, which says what its colours mean: found, and put into another file.

FFmpeg's encoders write none, and PyAV hands none out. Formats are called as FFmpeg's decoders: png, mjpeg, webp, tiff.

Source: PNG third edition, 11.3.2.3 (iCCP); ICC.1:2022, annex B.4 (JPEG) and B.2 (TIFF); RFC 9649, 2.7 (WebP).
"""

import struct
import zlib
from collections.abc import Iterator
from contextlib import suppress

from flashvsr_cli.video.tiff import tiff_directory

FORMATS_WITH_PROFILE = ("png", "mjpeg", "webp", "tiff")
MAX_PROFILE_BYTES = 2**23
SIGNATURE_AT, SPACE_AT = 36, 16
PNG_HEADER_END = 8 + 12 + 13  # the signature, and the first chunk
PNG_PROFILE_NAME = b"ICC profile"
JPEG_MARK = b"ICC_PROFILE\0"
JPEG_APP0, JPEG_APP2, JPEG_SCAN = 0xE0, 0xE2, 0xDA
JPEG_PART_BYTES = 65535 - 2 - len(JPEG_MARK) - 2
WEBP_HAS_PROFILE, WEBP_HAS_ALPHA = 0x20, 0x10
TIFF_TAG, TIFF_UNDEFINED = 34675, 7


def is_for_rgb(profile: bytes) -> bool:
    """Whether it is a profile, and one of pictures with red, green and blue."""
    is_profile = profile[SIGNATURE_AT : SIGNATURE_AT + 4] == b"acsp" and len(profile) < MAX_PROFILE_BYTES
    return is_profile and profile[SPACE_AT : SPACE_AT + 4] == b"RGB "


def find_profile(data: bytes, image_format: str) -> bytes | None:
    """The profile in a file of that format; None if there is none, empty if it is damaged."""
    with suppress(struct.error, zlib.error):
        if image_format == "png":
            return _find_in_png(data)
        if image_format == "mjpeg":
            parts = sorted(part for kind, part in _jpeg_segments(data) if kind == JPEG_APP2 and part[:12] == JPEG_MARK)
            return b"".join(part[len(JPEG_MARK) + 2 :] for part in parts) if parts else None
        if image_format == "webp":
            return next((content for name, content in _webp_chunks(data) if name == b"ICCP"), None)
        return _find_in_tiff(data) if image_format == "tiff" else None
    return b""


def add_profile(data: bytes, image_format: str, profile: bytes) -> bytes:
    """A whole file as FFmpeg's encoder gives it, with the profile in it; one of `FORMATS_WITH_PROFILE`."""
    if image_format == "png":
        content = b"iCCP" + PNG_PROFILE_NAME + b"\0\0" + zlib.compress(profile)
        chunk = struct.pack(">I", len(content) - 4) + content + struct.pack(">I", zlib.crc32(content))
        return data[:PNG_HEADER_END] + chunk + data[PNG_HEADER_END:]
    if image_format == "mjpeg":
        return _add_to_jpeg(data, profile)
    return _add_to_webp(data, profile) if image_format == "webp" else _add_to_tiff(data, profile)


def _find_in_png(data: bytes) -> bytes | None:
    at = 8
    while at + 8 <= len(data):
        size, name = struct.unpack_from(">I4s", data, at)
        if name == b"iCCP":
            _, _, packed = data[at + 8 : at + 8 + size].partition(b"\0")
            return zlib.decompressobj().decompress(packed[1:], MAX_PROFILE_BYTES)
        if name == b"IDAT":
            return None
        at += 12 + size
    return None


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, bytes]]:
    """(Kind, content) of what lies in front of the picture."""
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] != JPEG_SCAN:
        (size,) = struct.unpack_from(">H", data, at + 2)
        yield data[at + 1], data[at + 4 : at + 2 + size]
        at += 2 + size


def _add_to_jpeg(data: bytes, profile: bytes) -> bytes:
    parts = [profile[at : at + JPEG_PART_BYTES] for at in range(0, len(profile), JPEG_PART_BYTES)]
    segments = b"".join(
        struct.pack(">BBH", 0xFF, JPEG_APP2, 2 + len(JPEG_MARK) + 2 + len(part))
        + JPEG_MARK
        + bytes([number, len(parts)])
        + part
        for number, part in enumerate(parts, 1)
    )
    # The JFIF header comes first.
    at = 2 if data[3] != JPEG_APP0 else 4 + int.from_bytes(data[4:6], "big")
    return data[:at] + segments + data[at:]


def _webp_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = 12
    while at + 8 <= len(data):
        name, size = struct.unpack_from("<4sI", data, at)
        yield name, data[at + 8 : at + 8 + size]
        at += 8 + size + size % 2


def _add_to_webp(data: bytes, profile: bytes) -> bytes:
    chunks = list(_webp_chunks(data))
    if chunks[0][0] == b"VP8X":
        head = bytearray(chunks.pop(0)[1])
    else:
        # A lossless picture alone: a byte, then width and height less one in 14 bits each, and whether it has alpha.
        (bits,) = struct.unpack_from("<I", chunks[0][1], 1)
        sides = (bits & 0x3FFF, bits >> 14 & 0x3FFF)
        flags = WEBP_HAS_ALPHA if bits >> 28 & 1 else 0
        head = bytearray([flags, 0, 0, 0, *b"".join(side.to_bytes(3, "little") for side in sides)])
    head[0] |= WEBP_HAS_PROFILE
    chunks = [(b"VP8X", bytes(head)), (b"ICCP", profile), *chunks]
    body = b"".join(struct.pack("<4sI", name, len(c)) + c + b"\0" * (len(c) % 2) for name, c in chunks)
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body


def _find_in_tiff(data: bytes) -> bytes | None:
    order, entries, _ = tiff_directory(data)
    for entry in entries:
        tag, _, size, at = struct.unpack(order + "HHII", entry)
        if tag == TIFF_TAG:
            return data[at : at + size]
    return None


def _add_to_tiff(data: bytes, profile: bytes) -> bytes:
    """The directory is written anew at the end; what its entries point to stays where it is."""
    order, entries, after = tiff_directory(data)
    data += b"\0" * (len(data) % 2)
    entry = struct.pack(order + "HHII", TIFF_TAG, TIFF_UNDEFINED, len(profile), len(data))
    data += profile + b"\0" * (len(profile) % 2)
    entries = sorted([*entries, entry], key=lambda entry: struct.unpack_from(order + "H", entry))
    directory = struct.pack(order + "H", len(entries)) + b"".join(entries) + after
    return data[:4] + struct.pack(order + "I", len(data)) + data[8:] + directory
