"""Files that recorders, editors and broadcasts make, and that a user of ffmpeg expects to come out right."""

import itertools
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from flashvsr_cli.errors import InputError, OutputError
from flashvsr_cli.options import EncodeOptions
from flashvsr_cli.video.frame import Frame
from flashvsr_cli.video.reader import open_source
from flashvsr_cli.video.steady import SteadyTimes

FAST = EncodeOptions(preset="ultrafast", crf=5)


def shift(clip: Path, target: Path, seconds: int) -> bytes:
    """The clip with all times later, as bytes."""
    with av.open(str(clip)) as opened, av.open(str(target), "w", container_options={"mpegts_copyts": "1"}) as out:
        streams = {s.index: out.add_stream_from_template(s, opaque=True) for s in opened.streams}
        for packet in opened.demux():
            if packet.dts is not None:
                ticks = round(seconds / packet.time_base)
                packet.pts, packet.dts, packet.stream = (
                    packet.pts + ticks,
                    packet.dts + ticks,
                    streams[packet.stream.index],
                )
                out.mux(packet)
    return target.read_bytes()


@pytest.mark.parametrize("starts", [(0, 50), (50, 0), (3600, 20, 0, 0)], ids=str)
@pytest.mark.parametrize("container", ["mp4", "mkv", "ts"])
def test_a_recording_whose_clock_was_set_anew_is_joined_on(
    make_clip, pass_through, packets, tmp_path, starts, container
):
    """As ffmpeg does; sound and pictures of each part stay together."""
    clip = make_clip("part.ts", pts=tuple(range(50)), n_audio=1)
    parts = [shift(clip, tmp_path / f"{i}.ts", seconds) for i, seconds in enumerate(starts)]
    (tmp_path / "in.ts").write_bytes(b"".join(parts))
    source, sink = pass_through(tmp_path / "in.ts", tmp_path / f"out.{container}", FAST)
    assert [n for n in source.notices if n.startswith("The clock")] == [
        f"The clock of {tmp_path / 'in.ts'} jumps; what follows is joined on, as ffmpeg does."
    ]
    assert not [n for n in sink.notices if "go back" in n]
    times = sorted(p[0] for p in packets(tmp_path / f"out.{container}", "video"))
    sound = [p[0] for p in packets(tmp_path / f"out.{container}", "audio")]
    assert len(times) == 50 * len(starts)
    assert len(sound) == len(packets(clip, "audio")) * len(starts)
    whole = 2 * len(starts)
    # Where parts meet, one track ends a little later than the other.
    assert abs(times[-1] - times[0] + Fraction(1, 25) - whole) < Fraction(len(starts), 10)
    assert all(0 < b - a < Fraction(1, 5) for a, b in itertools.pairwise(times))
    assert all(0 < b - a < Fraction(1, 5) for a, b in itertools.pairwise(sound))
    assert abs(times[-1] - sound[-1]) < Fraction(1, 5)


def test_a_gap_of_some_seconds_stays(make_clip, pass_through, packets, tmp_path):
    clip = make_clip("in.ts", pts=(*range(20), *range(220, 240)))
    source, _ = pass_through(clip, tmp_path / "out.mp4", FAST)
    assert source.notices == []
    times = sorted(p[0] for p in packets(tmp_path / "out.mp4", "video"))
    assert max(b - a for a, b in itertools.pairwise(times)) == Fraction(201, 25)


def test_the_track_that_does_not_fit_is_the_one_named(make_clip, pass_through, tmp_path):
    """MOV takes AAC, and says only when it begins that it does not take Opus."""
    clip = tmp_path / "in.mkv"
    first, second = (make_clip(f"{c}.mkv", n_audio=1, audio_codec=c) for c in ("aac", "libopus"))
    with av.open(str(first)) as one, av.open(str(second)) as other, av.open(str(clip), "w") as out:
        sources = [*one.streams, other.streams[1]]
        streams = [out.add_stream_from_template(s, opaque=True) for s in sources]
        ours = [p for p in one.demux() if p.size] + [p for p in other.demux(audio=0) if p.size]
        for packet in ours:
            packet.stream = streams[sources.index(packet.stream)]
            out.mux(packet)
    with pytest.raises(OutputError, match=r"cannot hold audio track 2 \(opus\)"):
        pass_through(clip, tmp_path / "out.mov", FAST)


@pytest.mark.parametrize(("source", "target"), [("mp4", "mkv"), ("mp4", "mp4"), ("mkv", "mov"), ("mov", "mkv")])
def test_the_name_of_a_track(make_clip, pass_through, tmp_path, source, target):
    """MP4 reads it as `name` and writes it from `title`."""
    plain, clip = make_clip("plain.mkv", n_audio=1), tmp_path / f"in.{source}"
    with av.open(str(plain)) as opened, av.open(str(clip), "w") as out:
        streams = {s.index: out.add_stream_from_template(s, opaque=True) for s in opened.streams}
        streams[1].metadata["title"] = "Commentary"
        for packet in opened.demux():
            if packet.size:
                packet.stream = streams[packet.stream.index]
                if packet.dts is None:
                    packet.dts = packet.pts
                out.mux(packet)
    with open_source(str(clip)) as read:
        assert [track.title for track in read.info.tracks] == ["Commentary"]
    pass_through(clip, tmp_path / f"out.{target}", FAST)
    with open_source(str(tmp_path / f"out.{target}")) as read:
        assert [track.title for track in read.info.tracks] == ["Commentary"]


def test_an_animated_webp_is_no_damaged_picture(make_clip):
    clip = make_clip("in.webp", codec="libwebp_anim", pix_fmt="yuva420p", options=())
    with pytest.raises(InputError, match="animated WebP picture, which this FFmpeg cannot read") as caught:
        open_source(str(clip))
    assert "GIF" in caught.value.next_step


def test_quicktime_tracks_that_are_written_anew_are_not_called_left_out(make_clip, pass_through, tmp_path):
    clip = tmp_path / "in.mov"
    with av.open(str(make_clip("plain.mp4", pts=tuple(range(50))))) as opened, av.open(str(clip), "w") as out:
        stream = out.add_stream_from_template(opened.streams[0], opaque=True)
        stream.metadata["timecode"] = "01:00:00:00"
        out.set_chapters(
            [{"id": 1, "start": 0, "end": 1500, "time_base": Fraction(1, 1000), "metadata": {"title": "One"}}]
        )
        for packet in opened.demux():
            if packet.size:
                packet.stream = stream
                out.mux(packet)
    source, sink = pass_through(clip, tmp_path / "out.mov", FAST)
    assert (source.notices, sink.notices) == ([], [])
    with av.open(str(tmp_path / "out.mov")) as opened:
        assert opened.streams.video[0].metadata["timecode"] == "01:00:00:00"
        assert [chapter["metadata"]["title"] for chapter in opened.chapters()] == ["One"]


def test_the_movie_ends_with_its_last_track_whatever_its_subtitles(make_clip, pass_through, tmp_path):
    """MP4's writer would add the last line's duration once more; twice through, nothing grows."""
    plain = make_clip("plain.mp4", pts=tuple(range(60)))
    text, clip = tmp_path / "text.srt", tmp_path / "in.mkv"
    text.write_text("1\n00:00:00,100 --> 00:00:00,900\nOne\n\n2\n00:00:01,000 --> 00:00:01,900\nTwo\n")
    with av.open(str(plain)) as media, av.open(str(text)) as lines, av.open(str(clip), "w") as out:
        streams = [out.add_stream_from_template(c.streams[0]) for c in (media, lines)]
        for opened, stream in zip((media, lines), streams, strict=True):
            for packet in opened.demux():
                if packet.size:
                    packet.stream = stream
                    out.mux(packet)
    said = EncodeOptions(preset="ultrafast", subtitles="transcode")
    pass_through(clip, tmp_path / "one.mp4", said)
    pass_through(tmp_path / "one.mp4", tmp_path / "two.mp4", said)
    lines = []
    for name in ("one.mp4", "two.mp4"):
        with av.open(str(tmp_path / name)) as opened:
            assert Fraction(opened.duration, av.time_base) == Fraction(12, 5)
            subtitles = opened.streams.subtitles[0]
            lines.append([(p.pts, p.duration, bytes(p)) for p in opened.demux(subtitles) if p.duration])
    assert [line[2][2:] for line in lines[0]] == [b"", b"One", b"", b"Two"]
    assert lines[0] == lines[1]


@pytest.mark.parametrize("rate", [b"1000000:1", b"1:1000"])
@pytest.mark.parametrize("container", ["mkv", "mp4"])
def test_strange_frame_rates_cost_nothing(y4m_stream, pass_through, packets, tmp_path, rate, container):
    """A stated rate is a number: nothing is repeated or waited for to keep it."""
    data, _ = y4m_stream("420", n_frames=5)
    clip, out = tmp_path / "in.y4m", tmp_path / f"out.{container}"
    clip.write_bytes(data.replace(b"F30000:1001", b"F" + rate))
    pass_through(clip, out, FAST)
    assert len(packets(out, "video")) == 5


@pytest.mark.parametrize("rate", [b"2147483647:1", b"1:2147483647", b"-5:1"])
def test_absurd_frame_rates_are_refused(y4m_stream, tmp_path, rate):
    clip = tmp_path / "in.y4m"
    clip.write_bytes(y4m_stream("420", n_frames=5)[0].replace(b"F30000:1001", b"F" + rate))
    with pytest.raises(InputError, match="not understood"):
        open_source(str(clip))


@pytest.mark.parametrize("source", ["in.mp4", "in.mkv"])
def test_avi_states_the_rate_of_the_frames_and_not_the_ticks_of_the_source(make_clip, pass_through, tmp_path, source):
    """AVI knows one rate and no times; Matroska's are rounded to milliseconds."""
    clip = make_clip(
        source,
        pts=tuple(range(0, 30 * 1001, 1001)),
        time_base=Fraction(1, 30000),
        rate=Fraction(30000, 1001),
        options=(("bf", "0"),),
    )
    pass_through(clip, tmp_path / "out.avi", EncodeOptions(codec="ffv1"))
    with av.open(str(tmp_path / "out.avi")) as out:
        stream = out.streams.video[0]
        assert stream.average_rate == Fraction(30000, 1001)
        assert stream.time_base == Fraction(1001, 30000)
        assert [p.pts for p in out.demux(stream) if p.size] == list(range(30))


def test_avi_of_frames_at_unequal_distances_keeps_their_times(make_clip, pass_through, packets, tmp_path):
    pts = (0, 40, 80, 200, 210, 250, 400, 440)
    clip = make_clip("in.mp4", pts=pts, time_base=Fraction(1, 1000), options=(("bf", "0"),))
    pass_through(clip, tmp_path / "out.avi", EncodeOptions(codec="ffv1"))
    assert [p[0] for p in packets(tmp_path / "out.avi", "video")] == [Fraction(t, 1000) for t in pts]


@pytest.mark.parametrize(
    ("pts", "placed", "n_moved"), [((0, 33, 67, 100), (0, 1, 2, 3), 0), ((0, 3, 34), (0, 1, 2), 2)]
)
def test_frames_take_the_nearest_place_that_is_free(pts, placed, n_moved):
    times = SteadyTimes(Fraction(1, 1000), Fraction(30))
    image = np.zeros((2, 2, 3), np.uint8)
    assert tuple(times.place(Frame(image, t)).pts for t in pts) == placed
    assert times.n_moved == n_moved
