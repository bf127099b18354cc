"""Inputs that are not what they should be: each refused in a sentence, none read silently short."""

import itertools
import os
import struct
from fractions import Fraction
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler

import av
import numpy as np
import pytest

from flashvsr_cli.errors import InputError
from flashvsr_cli.options import EncodeOptions, InputOptions
from flashvsr_cli.video.reader import open_source
from flashvsr_cli.video.truncation import promised_bytes

SHORT_GOP = (("preset", "ultrafast"), ("crf", "10"), ("g", "6"))
FRONT_INDEX = (("movflags", "+faststart"),)
B_FRAMES = (("preset", "medium"), ("bf", "3"), ("crf", "10"), ("g", "12"))


def read_all(path):
    with open_source(str(path)) as source:
        n_frames = sum(1 for _ in source)
        return n_frames, source.counters


def cut(path, fraction):
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * fraction)])
    return path


@pytest.mark.parametrize("options", [SHORT_GOP, B_FRAMES], ids=["short-gop", "b-frames"])
@pytest.mark.parametrize("fraction", [0.4, 0.7, 0.97])
@pytest.mark.parametrize("n_audio", [0, 1])
def test_mp4_cut_in_the_middle_is_refused_with_counts(make_clip, options, fraction, n_audio):
    clip = make_clip(
        "in.mp4", pts=tuple(range(60)), options=options, container_options=FRONT_INDEX, n_audio=n_audio, size=(96, 128)
    )
    with pytest.raises(InputError, match=r"cut short: (\d+) of 60 frames") as caught:
        read_all(cut(clip, fraction))
    n_read = int(caught.value.message.split("cut short: ")[1].split()[0])
    assert 0 < n_read < 60
    assert abs(n_read - 60 * fraction) < 20


@pytest.mark.parametrize("fraction", [0.4, 0.7, 0.93])
@pytest.mark.parametrize("n_audio", [0, 1])
def test_matroska_cut_in_the_middle_is_refused_with_counts(make_clip, fraction, n_audio):
    clip = make_clip("in.mkv", pts=tuple(range(60)), options=SHORT_GOP, n_audio=n_audio, size=(96, 128))
    with pytest.raises(InputError, match=r"cut short: (\d+) of about 6[01] frames"):
        read_all(cut(clip, fraction))


def test_avi_cut_in_the_middle_is_refused(make_clip):
    clip = make_clip("in.avi", pts=tuple(range(60)), codec="mpeg4", options=(("g", "6"),))
    with pytest.raises(InputError, match="cut short"):
        read_all(cut(clip, 0.5))


@pytest.mark.parametrize("n_audio", [0, 1])
def test_flv_cut_in_the_middle_is_refused(make_clip, n_audio):
    clip = make_clip("in.flv", pts=tuple(range(60)), options=SHORT_GOP, n_audio=n_audio)
    with pytest.raises(InputError, match=r"cut short: (\d+) of about 6[01] frames"):
        read_all(cut(clip, 0.5))


@pytest.mark.parametrize("container", ["avi", "flv", "matroska"])
def test_what_was_written_to_a_pipe_promises_nothing(make_clip, write_live, tmp_path, container):
    clip = tmp_path / "live"
    clip.write_bytes(write_live(make_clip("in.ts", pts=tuple(range(60)), options=SHORT_GOP), container))
    assert read_all(clip)[0] == 60


@pytest.mark.parametrize(
    ("head", "promised"),
    [
        (b"RIFF" + (100).to_bytes(4, "little") + b"AVI ", 108),
        (b"RIFF\xff\xff\xff\xffAVI ", None),
        (b"RIFF", None),
        (b"FLV\1" + bytes(40) + b"\0\x08filesize\0" + struct.pack(">d", 1234), 1234),
        (b"FLV\1" + bytes(40) + b"\0\x08filesize\0" + struct.pack(">d", 0), None),
        (b"FLV\1" + bytes(40) + b"\0\x08filesize\0" + struct.pack(">d", float("nan")), None),
        (b"FLV\1" + bytes(40) + b"\0\x08filesize\0\0", None),
        (b"FLV\1" + bytes(40), None),
        (b"\x47" * 400, None),
        (b"", None),
    ],
)
def test_the_size_that_a_file_says_it_has(head, promised):
    assert promised_bytes(head) == promised


def test_fragmented_mp4_cut_in_a_fragment_is_refused_at_the_end(make_clip):
    clip = make_clip(
        "in.mp4",
        pts=tuple(range(60)),
        options=SHORT_GOP,
        container_options=(("movflags", "+frag_keyframe+empty_moov"),),
        size=(96, 128),
    )
    assert read_all(clip)[0] == 60
    with pytest.raises(InputError, match="cut short"):
        read_all(cut(clip, 0.62))


def test_mp4_without_its_index_fails_at_opening(make_clip):
    clip = cut(make_clip("in.mp4", pts=tuple(range(30))), 0.5)
    with pytest.raises(InputError, match=r"in\.mp4 is not a media file, or it is cut short"):
        open_source(str(clip))


def test_matroska_without_its_seek_table_is_read(make_clip):
    """The last bytes of a Matroska file are its cues: losing them loses no picture."""
    clip = make_clip("in.mkv", pts=tuple(range(60)), options=SHORT_GOP)
    clip.write_bytes(clip.read_bytes()[:-10])
    assert read_all(clip)[0] == 60


@pytest.mark.parametrize("container", ["mp4", "mkv", "mov", "avi", "ts", "webm", "flv"])
@pytest.mark.parametrize("options", [SHORT_GOP, B_FRAMES], ids=["short-gop", "b-frames"])
def test_whole_files_are_not_suspected(make_clip, container, options):
    codec = {"webm": "libvpx-vp9", "avi": "mpeg4"}.get(container, "libx264")
    clip = make_clip(
        f"in.{container}", codec=codec, options=options if codec == "libx264" else (), pts=tuple(range(40))
    )
    n_frames, counters = read_all(clip)
    assert n_frames == 40
    assert (counters.corrupt_packets, counters.corrupt_frames) == (0, 0)


def test_audio_longer_than_the_pictures_is_no_damage(tmp_path, make_clip):
    source = make_clip("long.mkv", pts=tuple(range(100)), n_audio=1)
    clip = tmp_path / "in.mkv"
    with av.open(str(source)) as opened, av.open(str(clip), "w") as out:
        streams = {s.index: out.add_stream_from_template(s) for s in opened.streams}
        for packet in opened.demux():
            if packet.size and (packet.stream.type == "audio" or packet.pts * packet.time_base < 1):
                packet.stream = streams[packet.stream.index]
                out.mux(packet)
    assert read_all(clip)[0] == 25


def test_edit_list_that_hides_frames_is_no_damage(make_clip, tmp_path):
    """Copying from the middle of a group leaves frames in MP4 that its edit list hides."""
    source = make_clip("whole.mp4", pts=tuple(range(60)), options=B_FRAMES)
    clip = tmp_path / "in.mp4"
    with av.open(str(source)) as opened, av.open(str(clip), "w") as out:
        stream = out.add_stream_from_template(opened.streams.video[0])
        for packet in opened.demux(video=0):
            if packet.dts is not None and packet.dts >= 0:
                packet.pts -= 30 * int(Fraction(1, 25) / packet.time_base)
                packet.dts -= 30 * int(Fraction(1, 25) / packet.time_base)
                packet.stream = stream
                out.mux(packet)
    n_frames, _ = read_all(clip)
    with av.open(str(clip)) as opened:
        assert n_frames == sum(1 for _ in opened.decode(video=0))


def test_damage_in_the_middle_is_counted_and_the_rest_keeps_its_time(make_clip):
    clip = make_clip("in.mp4", pts=tuple(range(60)), options=SHORT_GOP, size=(64, 64))
    with av.open(str(clip)) as opened:
        damaged = [p for p in opened.demux(video=0) if p.size][31]
        start, end = damaged.pos, damaged.pos + damaged.size
    data = bytearray(clip.read_bytes())
    data[start:end] = bytes(end - start)
    clip.write_bytes(data)
    with open_source(str(clip)) as source:
        times = [frame.pts * source.info.time_base for frame in source]
        counters = source.counters
    assert counters.corrupt_packets + counters.corrupt_frames >= 1
    assert times[-1] == Fraction(59, 25)
    assert len(times) >= 59


@pytest.fixture
def break_packets(make_clip, tmp_path):
    """`break_packets("in.mkv", n_frames, lost)`: FFV1 in which those frames are cut to two bytes.

    To its decoder that is an error, and not a damaged picture.
    """

    def run(name, n_frames, lost):
        whole = make_clip("whole.mkv", codec="ffv1", options=(("g", "1"),), pts=tuple(range(n_frames)))
        clip = tmp_path / name
        with av.open(str(whole)) as opened, av.open(str(clip), "w") as out:
            stream = out.add_stream_from_template(opened.streams.video[0], opaque=True)
            for i, packet in enumerate(p for p in opened.demux(video=0) if p.size):
                broken = av.Packet(bytes(packet)[:2] if i in lost else bytes(packet))
                broken.pts, broken.dts, broken.time_base = packet.pts, packet.dts, packet.time_base
                broken.duration, broken.is_keyframe, broken.stream = packet.duration, packet.is_keyframe, stream
                out.mux(broken)
        return clip

    return run


@pytest.mark.parametrize("lost", [(5,), (5, 11, 12), (17, 18, 19)])
def test_a_packet_that_does_not_decode_is_replaced_by_the_picture_before(break_packets, lost):
    with open_source(str(break_packets("in.mkv", 20, lost))) as source:
        frames = list(source)
    assert [f.pts for f in frames] == [40 * i for i in range(20)]
    assert source.counters.repeated_frames == len(lost)
    assert source.counters.corrupt_packets <= len(lost)
    for i, (before, frame) in enumerate(itertools.pairwise(frames), 1):
        assert np.array_equal(before.image, frame.image) == (i in lost)
    assert any(f"{len(lost)} repeat the one before" in notice for notice in source.notices)


def test_a_long_damage_is_bridged(break_packets):
    """Up to two thirds of the packets, as FFmpeg's -max_error_rate."""
    with open_source(str(break_packets("in.mkv", 60, range(10, 48)))) as source:
        frames = list(source)
    assert [f.pts for f in frames] == [40 * i for i in range(60)]
    assert (source.counters.corrupt_packets, source.counters.repeated_frames) == (38, 38)


@pytest.mark.parametrize("name", ["in.mkv", "in.avi"])
def test_too_much_damage_is_refused_with_the_count(break_packets, name):
    clip = break_packets(name, 60, range(10, 60))
    with pytest.raises(InputError, match=r"too damaged: 4\d of 60 packets cannot be read") as caught:
        read_all(clip)
    assert "repair" in caught.value.next_step


def test_empty_file(tmp_path):
    (tmp_path / "in.mp4").touch()
    with pytest.raises(InputError, match=r"in\.mp4 is empty"):
        open_source(str(tmp_path / "in.mp4"))


def test_missing_file(tmp_path):
    with pytest.raises(InputError, match=r"none\.mp4 does not exist"):
        open_source(str(tmp_path / "none.mp4"))


@pytest.mark.parametrize("content", [b"just words, no media at all\n" * 40, bytes(5000), os.urandom(5000)])
def test_no_media(tmp_path, content):
    (tmp_path / "in.mp4").write_bytes(content)
    with pytest.raises(InputError, match=r"in\.mp4") as caught:
        read_all(tmp_path / "in.mp4")
    assert caught.value.next_step


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_unreadable_file(make_clip):
    clip = make_clip("in.mp4")
    clip.chmod(0)
    with pytest.raises(InputError, match="permission denied"):
        open_source(str(clip))


def test_audio_only(tmp_path):
    clip = tmp_path / "in.m4a"
    with av.open(str(clip), "w", format="mp4") as out:
        stream = out.add_stream("aac", rate=48000)
        frame = av.AudioFrame.from_ndarray(np.zeros((2, 1024), np.float32), "fltp", "stereo")
        frame.sample_rate = 48000
        out.mux([*stream.encode(frame), *stream.encode(None)])
    with pytest.raises(InputError, match=r"no video track \(it has: audio\)"):
        open_source(str(clip))


def write_playlist(tmp_path, *entries):
    path = tmp_path / "in.m3u8"
    path.write_text("\n".join(("#EXTM3U", "#EXT-X-TARGETDURATION:1", *entries, "#EXT-X-ENDLIST", "")))
    return path


def test_a_playlist_reaches_nothing_outside(tmp_path, serve):
    """A playlist may not make the reader open network addresses."""
    asked = []

    class Watch(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_error(404)

    playlist = write_playlist(tmp_path, "#EXTINF:1,", f"http://127.0.0.1:{serve(Watch)}/a.ts")
    with pytest.raises(InputError):
        read_all(playlist)
    assert not asked


def test_a_playlist_is_followed_if_that_is_allowed(make_clip, tmp_path, serve):
    """HLS in two pieces, one of them over HTTP on loopback."""
    for name in ("a.ts", "b.ts"):
        make_clip(name, pts=tuple(range(10)))
    port = serve(SimpleHTTPRequestHandler, directory=str(tmp_path))
    far = f"http://127.0.0.1:{port}/b.ts"
    playlist = write_playlist(tmp_path, "#EXTINF:1,", "a.ts", "#EXT-X-DISCONTINUITY", "#EXTINF:1,", far)
    with open_source(str(playlist), InputOptions(allow_playlists=True)) as source:
        assert sum(1 for _ in source) == 20
    with pytest.raises(InputError, match="is a playlist") as refused:
        open_source(str(playlist))
    assert "--allow-playlists" in refused.value.next_step


def test_pictures_that_change_size_are_refused(make_clip, tmp_path):
    parts = [make_clip("a.ts", pts=tuple(range(10))), make_clip("b.ts", pts=tuple(range(10, 20)), size=(64, 96))]
    joined = tmp_path / "in.ts"
    joined.write_bytes(b"".join(p.read_bytes() for p in parts))
    with pytest.raises(InputError, match=r"changes its picture at frame .* from 64x48 .* to 96x64"):
        read_all(joined)


def test_avi_with_reordered_frames_gets_rising_times(make_clip):
    clip = make_clip("in.avi", options=B_FRAMES, pts=tuple(range(30)))
    with open_source(str(clip)) as source:
        times = [frame.pts for frame in source]
    assert len(times) == 30
    assert all(b - a == 1 for a, b in itertools.pairwise(times))


def test_raw_stream_without_times_gets_them_from_the_rate(make_clip):
    clip = make_clip("in.h264", options=B_FRAMES)
    with open_source(str(clip), InputOptions(frame_rate=Fraction(25))) as source:
        frames = list(source)
        seconds = [frame.pts * source.info.time_base for frame in frames]
        assert source.counters.repaired_timestamps > 0
    assert [b - a for a, b in itertools.pairwise(seconds)] == [Fraction(1, 25)] * 11


@pytest.mark.parametrize("rate", [Fraction(50), Fraction(30000, 1001)])
@pytest.mark.parametrize(("name", "codec"), [("in.h264", "libx264"), ("in.hevc", "libx265"), ("in.m2v", "mpeg2video")])
def test_a_raw_stream_has_the_rate_that_is_given(make_clip, pass_through, packets, tmp_path, name, codec, rate):
    """Whatever the pictures say themselves; there are no times that it could contradict."""
    options = (("x265-params", "log-level=none"),) if codec == "libx265" else (("bf", "2"),)
    clip = make_clip(name, codec=codec, options=options)
    out = tmp_path / "out.mkv"
    source, _ = pass_through(clip, out, EncodeOptions(codec="ffv1"), InputOptions(frame_rate=rate))
    assert source.info.frame_rate == rate
    assert not any("--fps" in notice for notice in source.notices)
    times = [time for time, *_ in packets(out, "video")]
    assert len(times) == 12
    # Matroska counts milliseconds.
    assert all(abs(time - times[0] - i / rate) <= Fraction(1, 1000) for i, time in enumerate(times))
    with av.open(str(out)) as opened:
        assert abs(opened.duration / Fraction(av.time_base) - times[0] - 12 / rate) <= Fraction(1, 500)


def test_a_container_keeps_its_times_and_says_so(make_clip):
    clip = make_clip("in.mp4")
    with open_source(str(clip), InputOptions(frame_rate=Fraction(50))) as source:
        assert f"{clip} has times of its own, which are kept: --fps is for inputs without." in source.notices
        assert source.info.frame_rate == 25
        assert [frame.pts * source.info.time_base for frame in source] == [Fraction(i, 25) for i in range(12)]
