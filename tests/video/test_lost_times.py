"""Y4M and raw frames have one rate: where the input's times say more, that is said."""

from fractions import Fraction

import pytest

from flashvsr_cli.options import InputOptions
from flashvsr_cli.video.raw_writer import RawSink
from flashvsr_cli.video.reader import open_source
from flashvsr_cli.video.targets import PartFile

SENTENCE = "the times of the input, which differ from frame"


def lost(sink) -> list[str]:
    return [notice for notice in sink.notices if SENTENCE in notice]


@pytest.mark.parametrize("extension", ["mp4", "mkv"])
@pytest.mark.parametrize(
    ("pts", "first"),
    [
        ((0, 1, 2, 3, 4, 5, 7, 8, 9, 10), 6),
        ((0, 2, 4, 5, 6, 7), 1),
        (tuple(range(12)), None),
    ],
)
def test_varying_times_are_said_once(make_clip, pass_through, tmp_path, extension, pts, first):
    clip = make_clip(f"in.{extension}", pts=pts, time_base=Fraction(1, 24), rate=Fraction(24))
    _, sink = pass_through(clip, tmp_path / "out.y4m")
    assert len(lost(sink)) == (first is not None)
    assert first is None or f"from frame {first} on" in lost(sink)[0]
    _, sink = pass_through(clip, tmp_path / "out.mkv")
    assert lost(sink) == []


def test_a_stated_rate_that_is_another_than_the_real_one_is_said(make_clip, pass_through, tmp_path):
    clip = make_clip("in.mkv", pts=tuple(range(0, 60, 3)), time_base=Fraction(1, 24), rate=Fraction(24))
    _, sink = pass_through(clip, tmp_path / "out.y4m")
    assert lost(sink)[0].startswith(f"{tmp_path / 'out.y4m'} has one frame rate, 24: ")


@pytest.mark.parametrize("rate", [Fraction(30000, 1001), Fraction(24000, 1001), Fraction(60), Fraction(25)])
def test_milliseconds_of_matroska_are_no_variation(make_clip, pass_through, tmp_path, rate):
    clip = make_clip("in.mkv", pts=tuple(range(90)), time_base=1 / rate, rate=rate)
    _, sink = pass_through(clip, tmp_path / "out.y4m", input_options=InputOptions(start=Fraction(1, 2)))
    assert lost(sink) == []


@pytest.mark.parametrize("is_uneven", [True, False])
def test_raw_frames_say_it_too(make_clip, tmp_path, is_uneven):
    clip = make_clip("in.mp4", pts=(0, 1, 5, 6) if is_uneven else (0, 1, 2, 3))
    with open_source(str(clip)) as source:
        sink = RawSink("standard output", PartFile(tmp_path / "out.rgb"), source, source.info.size)
        for frame in source:
            sink.write(frame)
        sink.commit()
    assert len(lost(sink)) == is_uneven
