"""--start far into a clip: decoding begins near it, and nothing else differs from decoding it all."""

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from flashvsr_cli.options import EncodeOptions, InputOptions
from flashvsr_cli.video import container_reader
from flashvsr_cli.video.reader import open_source

B_FRAMES = (("preset", "superfast"), ("bf", "3"), ("b_strategy", "0"), ("crf", "20"), ("g", "50"))
OPEN_GOP = (*B_FRAMES, ("x264-params", "open-gop=1:scenecut=0"))
REFRESHED = (("preset", "superfast"), ("crf", "20"), ("g", "40"), ("x264-params", "intra-refresh=1"))
ONE_KEYFRAME = (("preset", "ultrafast"), ("g", "10000"), ("sc_threshold", "0"))
FIELDS = (*B_FRAMES, ("flags", "+ildct+ilme"))
X265 = (("preset", "ultrafast"), ("x265-params", "log-level=none:keyint=40:bframes=3:open-gop=1"))
VP9 = (("deadline", "realtime"), ("cpu-used", "8"), ("b", "200k"), ("g", "60"))
CFR = tuple(range(530))
VFR = tuple(40 * i + (7 * i) % 31 + 900 * (i // 100) for i in range(500))
START, END = Fraction(1733, 100), Fraction(20)


@dataclass(frozen=True)
class Read:
    """All that a source gave."""

    frames: list[Any]
    packets: list[tuple[Any, ...]]
    chapters: list[Any]
    counters: Any
    notices: list[str]
    n_decoded: int


def read(path: Path, options: InputOptions, monkeypatch, *, is_whole: bool) -> Read:
    with monkeypatch.context() as patch:
        if is_whole:
            patch.setattr(container_reader, "find_entry", lambda *_: None)
        with open_source(str(path), options) as source:
            n_decoded, check = 0, source._check_form

            def count(picture):
                nonlocal n_decoded
                n_decoded += 1
                check(picture)

            source._check_form = count
            frames = [(f.pts, f.duration, np.array(f.image), f.alpha) for f in source]
            packets = [(i, p.pts, p.dts, p.duration, bytes(p)) for i, p in source.tracks.take()]
            return Read(frames, packets, source.chapters, source.counters, source.notices, n_decoded)


@pytest.fixture
def compare(monkeypatch):
    """Reads a stretch with and without the jump; both must give the same. Returns how many pictures each decoded."""

    def run(path: Path, start: Fraction = START, end: Fraction | None = END, **options) -> tuple[int, int]:
        asked = InputOptions(start=start, end=end, **options)
        ours, whole = (read(path, asked, monkeypatch, is_whole=w) for w in (False, True))
        assert len(ours.frames) == len(whole.frames) > 10
        for a, b in zip(ours.frames, whole.frames, strict=True):
            assert a[:2] == b[:2]
            assert np.array_equal(a[2], b[2])
            assert np.array_equal(a[3], b[3])
        # What a reader gives up early differs by what lies between the two places, nothing else.
        assert sorted(ours.packets) == sorted(whole.packets)
        assert ours.chapters == whole.chapters
        assert ours.notices == whole.notices
        assert ours.counters == whole.counters
        return ours.n_decoded, whole.n_decoded

    return run


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("in.mp4", {"options": B_FRAMES, "n_audio": 1}),
        ("in.mkv", {"options": B_FRAMES, "n_audio": 1}),
        ("in.ts", {"options": B_FRAMES, "n_audio": 1}),
        ("in.mov", {"options": B_FRAMES, "pts": VFR, "time_base": Fraction(1, 1000), "n_audio": 1}),
        ("vfr.mkv", {"options": B_FRAMES, "pts": VFR, "time_base": Fraction(1, 1000), "n_audio": 1}),
        ("open.mp4", {"options": OPEN_GOP}),
        ("open.mkv", {"options": OPEN_GOP}),
        ("open.ts", {"options": OPEN_GOP}),
        ("late.ts", {"options": OPEN_GOP, "pts": tuple(range(100, 630))}),
        ("wraps.ts", {"options": B_FRAMES, "n_audio": 1, "container_options": (("output_ts_offset", "95440"),)}),
        ("hevc.mp4", {"codec": "libx265", "options": X265}),
        ("hevc.mkv", {"codec": "libx265", "options": X265}),
        ("mpeg2.mpg", {"codec": "mpeg2video", "options": (("g", "15"), ("bf", "2"), ("b", "400k"))}),
        ("vp9.webm", {"codec": "libvpx-vp9", "options": VP9}),
        ("alpha.webm", {"codec": "libvpx-vp9", "options": VP9, "pix_fmt": "yuva420p"}),
        ("in.flv", {"options": B_FRAMES, "n_audio": 1}),
        ("fields.mp4", {"options": FIELDS}),
        ("live.mkv", {"options": B_FRAMES, "n_audio": 1, "container_options": (("live", "1"),)}),
        ("fragments.mp4", {"options": B_FRAMES, "container_options": (("movflags", "+frag_keyframe+empty_moov"),)}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_same_frames_and_packets_for_less_decoding(make_clip, compare, name, changes):
    clip = make_clip(name, **{"pts": CFR, **changes})
    ours, whole = compare(clip)
    assert whole > 400
    assert ours < 270, (ours, whole)


def test_an_edit_list_hides_the_same_frames(make_clip, compare, tmp_path):
    """Copied from the middle of a group: pictures lie in front of the start."""
    clip = tmp_path / "edited.mp4"
    with av.open(str(make_clip("in.mp4", pts=CFR, options=B_FRAMES))) as opened, av.open(str(clip), "w") as out:
        stream = out.add_stream_from_template(opened.streams.video[0], opaque=True)
        for packet in opened.demux(video=0):
            if packet.dts is not None:
                shift = 7 * round(Fraction(1, 25) / packet.time_base)
                packet.pts, packet.dts, packet.stream = packet.pts - shift, packet.dts - shift, stream
                out.mux(packet)
    ours, whole = compare(clip, end=None)
    assert ours < 270 < whole


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("refreshed.mkv", {"options": REFRESHED}),
        ("refreshed.ts", {"options": REFRESHED}),
        ("one.mp4", {"options": ONE_KEYFRAME}),
        ("one.ts", {"options": ONE_KEYFRAME}),
        ("in.avi", {"codec": "mpeg4", "options": (("bf", "2"), ("g", "30"))}),
        ("in.h264", {"options": B_FRAMES}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_where_no_place_can_be_entered_nothing_changes(make_clip, compare, name, changes):
    compare(make_clip(name, **{"pts": CFR, **changes}))


@pytest.mark.parametrize("name", ["in.mp4", "in.ts", "fragments.mp4"])
def test_up_to_the_end_every_frame_is_missed_if_it_is_missing(make_clip, compare, name):
    fragments = (("movflags", "+frag_keyframe+empty_moov"),) if name.startswith("fragments") else ()
    clip = make_clip(name, pts=CFR, options=B_FRAMES, container_options=fragments)
    compare(clip, end=None)
    compare(clip, end=None, max_frames=40)


def remux(clip: Path, target: Path, *, codec: str, text: Path) -> Path:
    """The clip with subtitles, a cover or a font, and chapters."""
    with av.open(str(clip)) as media, av.open(str(text)) as subtitles, av.open(str(target), "w") as out:
        streams = {s.index: out.add_stream_from_template(s, opaque=True) for s in media.streams}
        if codec == "subrip":
            written = out.add_stream_from_template(subtitles.streams[0])
            out.add_attachment("font.ttf", "font/ttf", b"abcdef" * 10)
        else:
            written = out.add_stream(codec)
            subtitles.streams[0].codec_context.open()
            written.codec_context.subtitle_header = subtitles.streams[0].codec_context.subtitle_header
            cover = out.add_stream("mjpeg", rate=1)
            cover.width, cover.height, cover.pix_fmt = 16, 16, "yuvj420p"
            cover.disposition = av.stream.Disposition.attached_pic
            picture = av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8), "rgb24")
            (cover_packet,) = cover.encode(picture.reformat(format="yuvj420p"))
            out.mux(cover_packet)
        chapter = {"id": 1, "start": 0, "end": 22_000, "time_base": Fraction(1, 1000), "metadata": {"title": "One"}}
        out.set_chapters([chapter])
        pairs = [(p, streams[p.stream.index]) for p in media.demux() if p.size]
        for packet in (p for p in subtitles.demux() if p.size):
            if codec != "subrip":
                content, times = bytes(packet), (packet.pts, packet.duration, packet.time_base)
                packet = av.Packet(len(content).to_bytes(2, "big") + content)
                packet.pts, packet.duration, packet.time_base = times
                packet.dts = packet.pts
            pairs.append((packet, written))
        for packet, stream in sorted(pairs, key=lambda pair: pair[0].dts * pair[0].time_base):
            packet.stream = stream
            out.mux(packet)
    return target


@pytest.mark.parametrize(("name", "codec"), [("in.mkv", "subrip"), ("in.mp4", "mov_text")])
def test_a_subtitle_shown_since_long_before(make_clip, compare, monkeypatch, tmp_path, name, codec):
    """One that began 17 s before the stretch is in it, and so are cover and font."""
    text = tmp_path / "text.srt"
    text.write_text(
        "1\n00:00:00,500 --> 00:00:19,000\nLong\n\n2\n00:00:18,000 --> 00:00:18,500\nShort\n\n"
        "3\n00:00:21,000 --> 00:00:22,000\nLate\n"
    )
    if codec == "mov_text":  # MP4 shows one subtitle at a time.
        text.write_text("1\n00:00:00,500 --> 00:00:17,900\nLong\n\n2\n00:00:18,000 --> 00:00:18,500\nShort\n")
    plain = make_clip("plain.mp4", pts=CFR, options=B_FRAMES, n_audio=2)
    clip = remux(plain, tmp_path / name, codec=codec, text=text)
    ours, whole = compare(clip)
    assert ours < 270 < whole
    got = read(clip, InputOptions(start=START, end=END), monkeypatch, is_whole=False).packets
    shown = [p[-1][-4:] for p in got if p[0] == 3 and len(p[-1]) > 2]  # MP4 states the empty stretches, too.
    assert shown == [b"Long", b"hort"]
    assert [p[0] for p in got].count(5) == (codec == "mov_text")  # the cover; a font is no packet


def test_a_clip_whose_times_go_back_is_decoded_from_its_front(make_clip, compare, tmp_path):
    """Two recordings in one file: which frame is at 20 s can only be said after both have been read."""
    parts = [make_clip(f"{n}.ts", pts=tuple(range(n)), options=B_FRAMES) for n in (300, 600)]
    joined = tmp_path / "in.ts"
    joined.write_bytes(b"".join(p.read_bytes() for p in parts))
    ours, whole = compare(joined, start=Fraction(20), end=None)
    assert ours == whole


def test_the_output_is_the_same(make_clip, pass_through, packets, monkeypatch, tmp_path):
    clip = make_clip("in.mp4", pts=CFR, options=OPEN_GOP, n_audio=1)
    options = EncodeOptions(preset="ultrafast", crf=5)
    for name in ("ours.mp4", "whole.mp4"):
        with monkeypatch.context() as patch:
            if name == "whole.mp4":
                patch.setattr(container_reader, "find_entry", lambda *_: None)
            pass_through(clip, tmp_path / name, options, InputOptions(start=START, end=END))
    for kind in ("video", "audio"):
        assert packets(tmp_path / "ours.mp4", kind) == packets(tmp_path / "whole.mp4", kind)
