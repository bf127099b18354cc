"""Display matrices (the rotation that phones write) as quarter turns and mirrors of the pixels."""

from dataclasses import dataclass
from typing import Any, cast

import av
import numpy as np

from flashvsr_cli.geometry import Size
from flashvsr_cli.video.frame import Image

MATRIX_BYTES = 36


@dataclass(frozen=True)
class Orientation:
    """How stored pixels become displayed ones: mirror left to right, then turn clockwise.

    Attributes:
        quarter_turns: clockwise turns by 90 degrees, 0 to 3.
        is_mirrored: whether the picture is mirrored before it is turned.
    """

    quarter_turns: int = 0
    is_mirrored: bool = False

    @property
    def is_identity(self) -> bool:
        """Whether pixels stay where they are."""
        return self.quarter_turns == 0 and not self.is_mirrored

    @property
    def swaps_sides(self) -> bool:
        """Whether height and width change places."""
        return self.quarter_turns % 2 == 1

    def apply_to_size(self, size: Size) -> Size:
        """The displayed size of stored pixels of `size`."""
        return (size[1], size[0]) if self.swaps_sides else size

    def apply(self, image: Image) -> Image:
        """The displayed picture, contiguous unless nothing moved; (height, width, 3) in and out."""
        if self.is_identity:
            return image
        mirrored = image[:, ::-1] if self.is_mirrored else image
        return cast(Image, np.ascontiguousarray(np.rot90(mirrored, -self.quarter_turns)))


def read_orientation(picture: av.VideoFrame) -> Orientation | None:
    """The orientation that a decoded picture asks for (none: the identity), or None if it is no quarter turn."""
    # PyAV's stub of side_data names only motion vectors; it is a mapping from any side data's name to a buffer.
    try:
        side_data: Any = picture.side_data
    except ValueError:
        # PyAV lists all side data or none: a kind newer than itself hides the matrix, but not its angle.
        return Orientation(-round(picture.rotation / 90) % 4)
    matrix = side_data.get("DISPLAYMATRIX")
    return Orientation() if matrix is None else parse_display_matrix(bytes(matrix))


def parse_display_matrix(matrix: bytes) -> Orientation | None:
    """The orientation that FFmpeg's 3x3 display matrix describes, or None if it is no quarter turn.

    Args:
        matrix: nine native int32: [a b u; c d v; x y w] mapping stored (p, q) to displayed (ap + cq, bp + dq).
    """
    if len(matrix) < MATRIX_BYTES:
        return None
    values = np.frombuffer(matrix[:MATRIX_BYTES], np.int32)
    a, b, c, d = (int(np.sign(v)) for v in (values[0], values[1], values[3], values[4]))
    turns = {
        (1, 0, 0, 1): Orientation(),
        (0, 1, -1, 0): Orientation(1),
        (-1, 0, 0, -1): Orientation(2),
        (0, -1, 1, 0): Orientation(3),
        (-1, 0, 0, 1): Orientation(0, is_mirrored=True),
        (0, 1, 1, 0): Orientation(3, is_mirrored=True),
        (1, 0, 0, -1): Orientation(2, is_mirrored=True),
        (0, -1, -1, 0): Orientation(1, is_mirrored=True),
    }
    return turns.get((a, b, c, d))


def find_orientation(name: str, picture: av.VideoFrame, notices: list[str]) -> Orientation:
    """`read_orientation`; an angle that cannot be applied is none, and a notice says so."""
    orientation = read_orientation(picture)
    if orientation is None:
        notices.append(f"{name} asks to be turned by an odd angle; its pictures are left as stored.")
        return Orientation()
    return orientation
