"""What a fuzzer and the replay of its corpus do with bytes: the Y4M and raw parsers, to the end of the stream.

Any exception but a refusal with a sentence is a finding. The first byte chooses the parser.
"""

import os
from fractions import Fraction
from pathlib import Path

from flashvsr_cli.errors import FlashVSRError
from flashvsr_cli.options import InputOptions
from flashvsr_cli.video.pipes import PipeInput
from flashvsr_cli.video.raw_reader import RawSource, Y4mSource
from flashvsr_cli.video.y4m import parse_header

CORPUS = Path(__file__).with_name("raw_streams.txt")
MAX_PIXELS = 2**14
MAX_FRAMES = 8


def load_corpus() -> list[bytes]:
    """The inputs that together reach every branch a fuzzer has found, one in hexadecimal digits per line."""
    return [bytes.fromhex(line) for line in CORPUS.read_text().splitlines()]


def read(data: bytes) -> int:
    """How many frames the stream has. Raises `FlashVSRError` for a refusal."""
    fd = os.memfd_create("stream")
    try:
        os.write(fd, data[1:])
        os.lseek(fd, 0, os.SEEK_SET)
        stream, n_frames = PipeInput(fd, "stream"), 0
        if data[0] % 2:
            options = InputOptions(raw_size=(1 + data[0] % 7, 3), frame_rate=Fraction(25), max_frames=MAX_FRAMES)
            source = RawSource("stream", stream, options)
        else:
            source = Y4mSource("stream", stream, InputOptions(max_pixels=MAX_PIXELS, max_frames=MAX_FRAMES))
            again = parse_header(source.header.line().rstrip(b"\n"))
            if again != source.header:
                raise AssertionError("a header does not survive being written and read")
        for frame in source:
            n_frames += 1
            if frame.image.shape != (*source.info.size, 3):
                raise AssertionError(f"a frame is {frame.image.shape}")
        return n_frames
    finally:
        os.close(fd)


def run_one_input(data: bytes) -> int | None:
    """The number of frames; None if the stream was refused as it should be."""
    if not data:
        return None
    try:
        return read(data)
    except FlashVSRError as error:
        if not (error.message.endswith(".") and error.next_step):
            raise
        return None
