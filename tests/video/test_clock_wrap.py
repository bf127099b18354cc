"""MPEG's clock begins anew every 26.5 hours: recordings that begin shortly before that are shown as others are."""

from fractions import Fraction

import av
import pytest

from flashvsr_cli.options import EncodeOptions

# The clock begins anew at 95443.7 s; FFmpeg writes 1.4 s late. The first clip ends before that.
OFFSETS = ("95439", "95441")
B_FRAMES = (("preset", "medium"), ("bf", "3"), ("crf", "10"))


def shown_times(path, kind):
    """When what a decoder gives is shown, edit lists applied."""
    with av.open(str(path)) as container:
        return [frame.pts * frame.time_base for frame in container.decode(**{kind: 0})]


@pytest.mark.parametrize("offset", OFFSETS)
@pytest.mark.parametrize("target", ["out.mp4", "out.mov", "out.mkv", "out.ts"])
def test_pictures_and_sound_shortly_before_the_clock_begins_anew(make_clip, pass_through, tmp_path, target, offset):
    shifted = (("output_ts_offset", offset),)
    clip = make_clip("in.ts", pts=tuple(range(75)), options=B_FRAMES, n_audio=1, container_options=shifted)
    given = {kind: shown_times(clip, kind) for kind in ("video", "audio")}
    assert given["video"][0] < 0
    assert (given["video"][-1] < 0) == (offset == OFFSETS[0])
    source, _ = pass_through(clip, tmp_path / target, EncodeOptions(preset="ultrafast"))
    assert not any("jumps" in notice for notice in source.notices)
    got = {kind: shown_times(tmp_path / target, kind) for kind in ("video", "audio")}
    assert len(got["video"]) == 75
    # Matroska rounds to milliseconds.
    steps = [time - got["video"][0] for time in got["video"]]
    assert all(abs(step - Fraction(i, 25)) <= Fraction(1, 1000) for i, step in enumerate(steps))
    assert len(got["audio"]) == len(given["audio"])
    lags = [times["audio"][0] - times["video"][0] for times in (given, got)]
    assert abs(lags[0] - lags[1]) <= Fraction(1, 500)
