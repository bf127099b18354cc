"""The I/O benchmark does the same work on both sides."""

from pathlib import Path

import pytest

from flashvsr_cli import bench_io
from flashvsr_cli.errors import UsageError
from flashvsr_cli.options import EncodeOptions


def test_measures_both_programs(make_clip):
    clip = make_clip("in.mp4", pts=tuple(range(20)))
    speed = bench_io.measure_io(Path(clip), 2, EncodeOptions(preset="ultrafast"), rounds=1)
    assert (speed.n_frames, speed.source, speed.target, speed.codec) == (20, (48, 64), (96, 128), "libx264")
    assert speed.ratio == pytest.approx(speed.fps / speed.loop_fps)
    assert speed.to_json()["ratio"] == speed.ratio
    assert "20 frames" in speed.summary()


def test_both_write_the_same_pictures(make_clip, tmp_path, decode):
    clip = make_clip("in.mp4", pix_fmt="yuv444p")
    options = EncodeOptions(codec="ffv1")
    from flashvsr_cli.video.encoding import plan_encoding
    from flashvsr_cli.video.reader import open_source

    with open_source(str(clip)) as source:
        encoding = plan_encoding(source.info, (96, 128), "mkv", options)
    bench_io._time_ours(clip, tmp_path / "ours.mkv", (96, 128), options)
    bench_io._time_loop(clip, tmp_path / "loop.mkv", (96, 128), encoding)
    ours, loop = decode(tmp_path / "ours.mkv"), decode(tmp_path / "loop.mkv")
    assert len(ours) == len(loop) == 12
    # The loop takes PyAV's default conversions, so the colours agree to a few levels only.
    difference = [abs(a.astype(int) - b.astype(int)).mean() for a, b in zip(ours, loop, strict=True)]
    assert max(difference) < 3


def test_deep_clips_are_refused(make_clip):
    with pytest.raises(UsageError, match="10 bits"):
        bench_io.measure_io(make_clip("in.mp4", pix_fmt="yuv420p10le"), 2)
