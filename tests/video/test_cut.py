"""--start, --end, --frames: exactly the frames asked for, and what belongs to them."""

from fractions import Fraction

import av
import numpy as np
import pytest

from flashvsr_cli.errors import InputError, UsageError
from flashvsr_cli.options import EncodeOptions, InputOptions
from flashvsr_cli.video.reader import open_source

FAST = EncodeOptions(preset="ultrafast", crf=1)
B_FRAMES = (("preset", "medium"), ("bf", "3"), ("crf", "1"))
VFR = (0, 40, 45, 160, 161, 400, 433, 900, 901, 902, 1500, 1533)


def seconds(path, options=None):
    with open_source(str(path), options or InputOptions()) as source:
        frames = list(source)
        base = source.info.time_base
        return [f.pts * base for f in frames], [(f.duration or 0) * base for f in frames], [f.image for f in frames]


@pytest.mark.parametrize("container", ["mp4", "mkv", "ts", "avi"])
@pytest.mark.parametrize(
    ("start", "end", "n"), [("0.4", None, None), ("0.41", "1", None), (None, "0.8", None), ("0.2", None, 7)]
)
def test_the_frames_shown_in_the_stretch(make_clip, container, start, end, n):
    offset = 0 if container == "avi" else 30
    clip = make_clip(f"in.{container}", pts=tuple(range(offset, offset + 40)), options=B_FRAMES)
    times, _, images = seconds(clip)
    options = InputOptions(
        start=None if start is None else Fraction(start), end=None if end is None else Fraction(end), max_frames=n
    )
    got_times, durations, got_images = seconds(clip, options)
    low, high = Fraction(start or 0), Fraction(end or 1000)
    wanted = [i for i, t in enumerate(times) if low <= t - times[0] < high][:n]
    assert len(wanted) in (7, 14, 20, 30)
    assert all(np.array_equal(images[i], image) for i, image in zip(wanted, got_images, strict=True))
    # Times are right to one tick, which is 40 ms in the AVI and 1 ms or less elsewhere.
    assert np.allclose([float(times[i] - low) for i in wanted], [float(t) for t in got_times], atol=0.02)
    if end is not None:
        assert abs(got_times[-1] + durations[-1] - (times[0] + high - low)) <= Fraction(
            2 if container != "avi" else 20, 1000
        )


def test_variable_rate_is_cut_by_time_and_not_by_count(make_clip):
    clip = make_clip("in.mkv", pts=VFR, time_base=Fraction(1, 1000))
    times, durations, _ = seconds(clip, InputOptions(start=Fraction(45, 1000), end=Fraction(9015, 10000)))
    assert times == [Fraction(t - 45, 1000) for t in (45, 160, 161, 400, 433, 900, 901)]
    assert durations[-1] in (Fraction(1, 1000), 0)


@pytest.mark.parametrize("container", ["mp4", "mkv"])
def test_sound_is_cut_likewise(make_clip, pass_through, packets, tmp_path, container):
    clip = make_clip(f"in.{container}", pts=tuple(range(100)), n_audio=1, options=B_FRAMES)
    start, end = Fraction(1), Fraction(5, 2)
    out = tmp_path / f"out.{container}"
    pass_through(clip, out, FAST, InputOptions(start=start, end=end))
    whole, got = packets(clip, "audio"), packets(out, "audio")
    expected = [p for p in whole if start <= p[0] < end]
    assert [p[3] for p in got] == [p[3] for p in expected]
    assert all(abs(a[0] - (b[0] - start)) <= Fraction(1, 1000) for a, b in zip(got, expected, strict=True))
    pictures = sorted(packets(out, "video"))
    assert len(pictures) == 38
    assert pictures[0][0] == 0
    with av.open(str(out)) as opened:
        assert abs(Fraction(opened.duration, 1000000) - Fraction(3, 2)) < Fraction(50, 1000)


def test_frames_alone_cut_the_sound_too(make_clip, pass_through, packets, tmp_path):
    clip = make_clip("in.mp4", pts=tuple(range(100)), n_audio=1)
    pass_through(clip, tmp_path / "out.mp4", FAST, InputOptions(max_frames=25))
    assert len(packets(tmp_path / "out.mp4", "video")) == 25
    sound = packets(tmp_path / "out.mp4", "audio")
    assert Fraction(97, 100) < sound[-1][0] < 1


def test_subtitles_and_chapters_are_cut(make_clip, pass_through, packets, tmp_path):
    plain = make_clip("plain.mkv", pts=tuple(range(75)))
    (tmp_path / "text.srt").write_text(
        "1\n00:00:00,500 --> 00:00:01,500\nHello\n\n2\n00:00:01,800 --> 00:00:02,000\nWorld\n\n"
        "3\n00:00:02,500 --> 00:00:02,800\nLate\n"
    )
    clip = tmp_path / "in.mkv"
    with av.open(str(plain)) as media, av.open(str(tmp_path / "text.srt")) as text, av.open(str(clip), "w") as out:
        video, subtitles = out.add_stream_from_template(media.streams[0], opaque=True), None
        subtitles = out.add_stream_from_template(text.streams[0])
        out.set_chapters(
            [
                {"id": i, "start": 1000 * i, "end": 1000 * (i + 1), "time_base": Fraction(1, 1000), "metadata": {}}
                for i in range(3)
            ]
        )
        pairs = [(p, video) for p in media.demux() if p.size] + [(p, subtitles) for p in text.demux() if p.size]
        for packet, stream in sorted(pairs, key=lambda pair: pair[0].pts * pair[0].time_base):
            packet.stream = stream
            out.mux(packet)
    pass_through(clip, tmp_path / "out.mkv", FAST, InputOptions(start=Fraction(1), end=Fraction(9, 4)))
    got = [(p[0], p[2], p[3]) for p in packets(tmp_path / "out.mkv", "subtitle")]
    assert got == [(0, Fraction(1, 2), b"Hello"), (Fraction(4, 5), Fraction(1, 5), b"World")]
    with av.open(str(tmp_path / "out.mkv")) as opened:
        spans = [(c["start"] * c["time_base"], c["end"] * c["time_base"]) for c in opened.chapters()]
    assert spans == [(0, 1), (1, Fraction(5, 4))]
    pass_through(clip, tmp_path / "short.mkv", FAST, InputOptions(end=Fraction(1)))
    ((begin, _, duration, content),) = packets(tmp_path / "short.mkv", "subtitle")
    assert (begin, begin + duration, content) == (Fraction(1, 2), 1, b"Hello"), "it is taken away at the end"


def test_pictures_and_raw_streams_are_cut_too(tmp_path, y4m_stream):
    data, _ = y4m_stream("420", n_frames=10)
    (tmp_path / "in.y4m").write_bytes(data)
    with open_source(str(tmp_path / "in.y4m"), InputOptions(max_frames=4, frame_rate=Fraction(10))) as source:
        assert [f.pts for f in source] == [0, 1, 2, 3]
    options = InputOptions(start=Fraction(1, 2), frame_rate=Fraction(10))
    with open_source(str(tmp_path / "in.y4m"), options) as source:
        assert [f.pts for f in source] == [0, 1, 2, 3, 4]


def test_a_stretch_behind_the_end_is_refused(make_clip):
    with (
        pytest.raises(InputError, match=r"no frame between 9 s and its end"),
        open_source(str(make_clip("in.mp4")), InputOptions(start=Fraction(9))) as source,
    ):
        list(source)


@pytest.mark.parametrize(
    "wrong", [{"start": Fraction(-1)}, {"start": Fraction(2), "end": Fraction(2)}, {"max_frames": 0}]
)
def test_stretches_that_have_no_meaning(wrong):
    with pytest.raises(UsageError):
        InputOptions(**wrong)
