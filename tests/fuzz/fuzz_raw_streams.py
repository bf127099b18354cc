"""Coverage-guided fuzzing of the Y4M and raw parsers: needs `pip install atheris`; not part of the test suite.

    python tests/fuzz/fuzz_raw_streams.py -max_total_time=60

Any exception but a refusal with a sentence is a finding. The first byte chooses the parser.
"""

import os
import sys
from fractions import Fraction

import atheris

with atheris.instrument_imports(include=["flashvsr_cli.video.y4m", "flashvsr_cli.video.raw_reader"]):
    from flashvsr_cli.errors import FlashVSRError
    from flashvsr_cli.options import InputOptions
    from flashvsr_cli.video.pipes import PipeInput
    from flashvsr_cli.video.raw_reader import RawSource, Y4mSource
    from flashvsr_cli.video.y4m import parse_header

MAX_PIXELS = 2**14
MAX_FRAMES = 8
SEED = b"\0YUV4MPEG2 W4 H4 F30000:1001 Ip A1:1 C420mpeg2 XCOLORRANGE=FULL\nFRAME\n" + bytes(24)


def read(data: bytes) -> None:
    fd = os.memfd_create("stream")
    try:
        os.write(fd, data[1:])
        os.lseek(fd, 0, os.SEEK_SET)
        stream = PipeInput(fd, "stream")
        if data[0] % 2:
            options = InputOptions(raw_size=(1 + data[0] % 7, 3), frame_rate=Fraction(25), max_frames=MAX_FRAMES)
            source = RawSource("stream", stream, options)
        else:
            source = Y4mSource("stream", stream, InputOptions(max_pixels=MAX_PIXELS, max_frames=MAX_FRAMES))
            again = parse_header(source.header.line().rstrip(b"\n"))
            assert again == source.header, "a header does not survive being written and read"
        for frame in source:
            assert frame.image.shape == (*source.info.size, 3)
    finally:
        os.close(fd)


def run_one_input(data: bytes) -> None:
    try:
        if data:
            read(data)
    except FlashVSRError as error:
        if not (error.message.endswith(".") and error.next_step):
            raise


if __name__ == "__main__":
    atheris.Setup([*sys.argv, f"-max_len={4 * len(SEED)}"], run_one_input)
    atheris.Fuzz()
