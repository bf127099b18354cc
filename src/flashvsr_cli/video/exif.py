"""The orientation that cameras write into picture files.

FFmpeg hands it out as side data of a kind that PyAV does not know, so it is read here.
"""

from typing import Literal

from flashvsr_cli.video.orientation import Orientation

SEARCH_BYTES = 2**17
ORIENTATION_TAG, SHORT_TYPE = 0x0112, 3
ENTRY_BYTES = 12
TIFF_MARKS: dict[bytes, Literal["little", "big"]] = {b"II*\0": "little", b"MM\0*": "big"}
# Bytes in front of the TIFF structure: of a JPEG segment, a PNG chunk, a WebP chunk (name and length).
MARKERS = ((b"Exif\0\0", 0), (b"eXIf", 0), (b"EXIF", 4))
ORIENTATIONS = {
    1: Orientation(),
    2: Orientation(0, is_mirrored=True),
    3: Orientation(2),
    4: Orientation(2, is_mirrored=True),
    5: Orientation(3, is_mirrored=True),
    6: Orientation(1),
    7: Orientation(1, is_mirrored=True),
    8: Orientation(3),
}


def read_exif_orientation(data: bytes) -> Orientation:
    """How a JPEG, PNG, WebP or TIFF file asks to be turned; the identity if it does not ask, or not legibly.

    Source: EXIF 2.32, tag Orientation; TIFF 6.0, section 2.
    """
    if data[:4] in TIFF_MARKS:
        return _tiff_orientation(data)
    # A WebP file keeps EXIF behind the picture, the others in front of it.
    regions = (data[:SEARCH_BYTES], data[-SEARCH_BYTES:])
    for marker, n_skip in MARKERS:
        for region in regions:
            at = region.find(marker)
            start = at + len(marker) + n_skip
            if at >= 0 and region[start : start + 4] in TIFF_MARKS:
                return _tiff_orientation(region[start:])
    return Orientation()


def _tiff_orientation(data: bytes) -> Orientation:
    order = TIFF_MARKS[data[:4]]

    def number(at: int, n_bytes: int) -> int:
        return int.from_bytes(data[at : at + n_bytes], order)

    directory = number(4, 4)
    for i_entry in range(number(directory, 2)):
        entry = directory + 2 + ENTRY_BYTES * i_entry
        if entry + ENTRY_BYTES > len(data):
            break
        if number(entry, 2) == ORIENTATION_TAG and number(entry + 2, 2) == SHORT_TYPE:
            return ORIENTATIONS.get(number(entry + 8, 2), Orientation())
    return Orientation()
