"""The corpus of the coverage-guided fuzzer once more: every input is read, or refused with a sentence."""

import importlib.util
from pathlib import Path

SPEC = importlib.util.spec_from_file_location("raw_streams", Path(__file__).with_name("raw_streams.py"))
raw_streams = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(raw_streams)


def test_the_corpus_is_read_or_refused() -> None:
    outcomes = [raw_streams.run_one_input(data) for data in raw_streams.load_corpus()]
    assert sum(bool(n_frames) for n_frames in outcomes) > 10
    assert outcomes.count(None) > 30


def test_every_beginning_of_a_stream_is_read_or_refused() -> None:
    """Cut at each byte, and with each byte of the header changed."""
    header = b"\0YUV4MPEG2 W4 H4 F30000:1001 Ip A1:1 C420mpeg2 XCOLORRANGE=FULL\nFRAME\n"
    whole = header + bytes(24)
    assert raw_streams.run_one_input(whole) == 1
    for end in range(len(whole)):
        assert raw_streams.run_one_input(whole[:end]) is None
    for i in range(1, len(header)):
        for value in (0, 10, 32, 48, 57, 255):
            raw_streams.run_one_input(whole[:i] + bytes([value]) + whole[i + 1 :])
