"""Encoders that do not know the times of every source: MPEG-4 counts coarsely, MPEG-2 knows the usual rates only."""

from fractions import Fraction

import pytest

from flashvsr_cli.errors import OutputError
from flashvsr_cli.options import EncodeOptions
from flashvsr_cli.video.reader import open_source

NTSC = Fraction(30000, 1001)
VFR_PTS = (0, 3600, 4050, 14400, 14490, 36000, 38970, 81000, 81090, 81180, 135000, 137970)


def shown_times(path):
    with open_source(str(path)) as source:
        return [frame.pts * source.info.time_base for frame in source]


@pytest.mark.parametrize("codec", ["mpeg4", "mpeg2video"])
@pytest.mark.parametrize("rate", [Fraction(25), NTSC])
def test_a_steady_source_that_counts_finely(make_clip, pass_through, tmp_path, codec, rate):
    step = round(90000 / rate)
    clip = make_clip("in.ts", pts=tuple(step * i for i in range(30)), time_base=Fraction(1, 90000), rate=rate)
    out = tmp_path / "out.mp4"
    _, sink = pass_through(clip, out, EncodeOptions(codec=codec))
    assert sink.notices == []
    before, after = shown_times(clip), shown_times(out)
    off = 1 / rate / 2 if codec == "mpeg2video" else Fraction(1, 65535)  # where whole frames are counted
    assert len(after) == 30
    assert all(abs(a - b) <= off for a, b in zip(before, after, strict=True))
    assert all(abs(time - after[0] - i / rate) <= Fraction(2, 65535) for i, time in enumerate(after))


def test_mpeg4_of_a_varying_rate(make_clip, pass_through, tmp_path):
    clip = make_clip("in.mp4", pts=VFR_PTS, time_base=Fraction(1, 90000))
    pass_through(clip, tmp_path / "out.mp4", EncodeOptions(codec="mpeg4"))
    after = shown_times(tmp_path / "out.mp4")
    assert all(abs(a - Fraction(b, 90000)) <= Fraction(1, 65535) for a, b in zip(after, VFR_PTS, strict=True))


def test_mpeg4_keeps_times_that_it_can_count(make_clip, pass_through, tmp_path):
    clip = make_clip("in.mov", pts=(0, 40, 45, 160, 161, 400), time_base=Fraction(1, 1000))
    pass_through(clip, tmp_path / "out.mp4", EncodeOptions(codec="mpeg4"))
    assert shown_times(tmp_path / "out.mp4") == shown_times(clip)


@pytest.mark.parametrize(
    ("codec", "changes", "said"),
    [
        ("mpeg2video", {"pts": VFR_PTS, "time_base": Fraction(1, 90000)}, "a varying number of frames a second"),
        ("mpeg1video", {"rate": Fraction(15), "time_base": Fraction(1, 15)}, "15 frames a second"),
    ],
)
def test_a_rate_that_an_encoder_does_not_know(make_clip, pass_through, tmp_path, codec, changes, said):
    clip = make_clip("in.mp4", **changes)
    with pytest.raises(OutputError, match=f"{codec} cannot encode {said}") as caught:
        pass_through(clip, tmp_path / "out.mkv", EncodeOptions(codec=codec))
    assert "libx264" in caught.value.next_step
    assert [p.name for p in tmp_path.iterdir()] == ["in.mp4"]
