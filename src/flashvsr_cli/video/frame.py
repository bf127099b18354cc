"""What travels between the reader, the model and the writer."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Alpha = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]
Image = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]


def to_depth(values: Image, bits: int) -> Image:
    """The same colours or coverage as uint8 (`bits` up to 8) or full-scale uint16 (above), to the nearest step."""
    if values.dtype == (np.uint8 if bits <= 8 else np.uint16):
        return values
    if bits > 8:
        return values.astype(np.uint16) * np.uint16(257)
    return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)


@dataclass(frozen=True)
class Frame:
    """One picture and its place in time.

    Attributes:
        image: (height, width, 3) RGB, full range; uint8, or uint16 (0..65535) for sources deeper than 8 bits.
        pts: presentation time in the source's time base; None where the source has no times (raw frames).
        duration: in the same unit; None if the source does not say.
        alpha: (height, width) coverage, full range, in the source's size even where `image` has been enlarged; None
            for opaque sources.
    """

    image: Image
    pts: int | None = None
    duration: int | None = None
    alpha: Alpha | None = None
