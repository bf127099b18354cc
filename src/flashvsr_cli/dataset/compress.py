"""Clips through a real video encoder and back, in memory."""

import io
from fractions import Fraction
from typing import Any

import av
import numpy as np
import numpy.typing as npt

from flashvsr_cli.errors import InputError

Clip = npt.NDArray[np.uint8]
RATE = Fraction(24)


REPEATABLE = {"libx264": {"x264-params": "mbtree=0"}}
"""x264 reads memory that it has not written when it spreads the worth of blocks over pictures of up to 64 pixels'
width with AVX-512 (seen with PyAV 18.1): of 200 encodings of one clip up to 32 differed, and none without."""


def compress_video(
    clip: Clip, *, crf: int, codec: str = "libx264", preset: str = "veryfast", repeatable: bool = False
) -> Clip:
    """Encode and decode.

    Args:
        clip: (T, H, W, 3) RGB, even sides.
        crf: constant rate factor, in the encoder's scale.
        codec: an FFmpeg encoder that knows crf.
        preset: its speed.
        repeatable: the same clip gives the same frames whatever its size, at the cost of that part of its
            rate control which looks ahead.

    Returns:
        The frames as a viewer would get them, in 4:2:0.

    Raises:
        InputError: the encoder gave back another number of frames.
    """
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="matroska") as container:
        options = {
            "crf": str(crf),
            "preset": preset,
            "threads": "1",
            **(REPEATABLE.get(codec, {}) if repeatable else {}),
        }
        stream: Any = container.add_stream(codec, rate=RATE, options=options)
        stream.height, stream.width = clip.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for image in clip:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))
    buffer.seek(0)
    with av.open(buffer, "r") as encoded:
        frames = [frame.to_ndarray(format="rgb24") for frame in encoded.decode(video=0)]
    if len(frames) != len(clip):
        raise InputError(f"{codec} turned {len(clip)} frames into {len(frames)}.", "Use another codec in the config.")
    return np.stack(frames)
