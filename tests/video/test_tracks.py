"""Sound, subtitles, covers: copied, encoded anew, or left out, as asked."""

import itertools
from fractions import Fraction
from io import BytesIO
from pathlib import Path

import av
import numpy as np
import pytest

from flashvsr_cli.errors import OutputError
from flashvsr_cli.options import EncodeOptions
from flashvsr_cli.video.languages import QUICKTIME_CODES, to_iso, to_quicktime
from flashvsr_cli.video.reader import open_source

FAST = EncodeOptions(preset="ultrafast")
MUXERS = {"m4v": "ipod", "mov": "mov", "avi": "avi", "ts": "mpegts"}


def kinds(path):
    with av.open(str(path)) as opened:
        return [(s.type, s.codec_context.codec.canonical_name if s.codec_context else None) for s in opened.streams]


@pytest.mark.parametrize(
    ("container", "codec"), [("webm", "opus"), ("mp4", "aac"), ("mkv", "aac")], ids=["webm", "mp4", "mkv"]
)
def test_sound_is_encoded_anew_and_stays_in_step(make_clip, pass_through, tmp_path, container, codec):
    clip = make_clip("in.mkv", n_audio=1, audio_codec="flac", pts=tuple(range(20, 60)))
    out = tmp_path / f"out.{container}"
    pass_through(clip, out, EncodeOptions(audio="transcode", preset=None if container == "webm" else "ultrafast"))
    assert kinds(out)[1] == ("audio", codec)
    levels = {}
    for path in (clip, out):
        with av.open(str(path)) as opened:
            stream = opened.streams.audio[0]
            resampler = av.AudioResampler("flt", "mono", 48000)
            parts = [(r.pts, r.to_ndarray()[0]) for f in opened.decode(stream) for r in resampler.resample(f)]
        start = round(parts[0][0] or 0)
        levels[path] = (start, np.concatenate([p for _, p in parts]))
    (start_in, sound_in), (start_out, sound_out) = levels.values()
    assert abs((start_out + len(sound_out)) - (start_in + len(sound_in))) < 48000 / 20
    shift = start_in - start_out
    n = 40000
    aligned = sound_out[4000 + shift : 4000 + shift + n] if shift >= 0 else sound_out[4000:][: n + shift]
    reference = sound_in[4000 : 4000 + len(aligned)]
    assert np.corrcoef(aligned, reference)[0, 1] > 0.98


def test_sound_that_cannot_be_copied_names_the_choices(make_clip, pass_through, tmp_path):
    clip = make_clip("in.mp4", n_audio=1)
    with pytest.raises(OutputError) as caught:
        pass_through(clip, tmp_path / "out.webm")
    assert all(word in caught.value.next_step for word in ("--audio transcode", "--audio none", ".mkv"))


def test_sound_and_subtitles_can_be_left_out(make_clip, pass_through, tmp_path):
    clip = make_clip("in.mp4", n_audio=2)
    _, sink = pass_through(clip, tmp_path / "out.mp4", EncodeOptions(preset="ultrafast", audio="none"))
    assert kinds(tmp_path / "out.mp4") == [("video", "h264")]
    assert sink.facts()["copied_packets"] == 0


@pytest.mark.parametrize("container", ["mp4", "mkv"])
def test_cover_and_dispositions_survive(make_clip, pass_through, tmp_path, container):
    plain = make_clip("plain.mp4", n_audio=2)
    clip = tmp_path / "cover.mp4"
    with av.open(str(plain)) as source, av.open(str(clip), "w") as out:
        streams = {s.index: out.add_stream_from_template(s, opaque=True) for s in source.streams}
        streams[1].metadata["language"], streams[2].metadata["language"] = "deu", "jpn"
        streams[1].disposition = av.stream.Disposition(0)
        streams[2].disposition = av.stream.Disposition.default
        cover = out.add_stream("png", rate=1)
        cover.height, cover.width, cover.pix_fmt = 16, 16, "rgb24"
        cover.disposition = av.stream.Disposition.attached_pic
        picture = av.VideoFrame.from_ndarray(np.full((16, 16, 3), 9, np.uint8), "rgb24")
        cover_packets = [*cover.encode(picture), *cover.encode(None)]
        out.mux(cover_packets)
        for packet in source.demux():
            if packet.dts is not None:
                packet.stream = streams[packet.stream.index]
                out.mux(packet)
    _, sink = pass_through(clip, tmp_path / f"out.{container}", FAST)
    assert sink.notices == []
    with av.open(str(tmp_path / f"out.{container}")) as opened:
        pictures = [s for s in opened.streams.video if s.disposition & av.stream.Disposition.attached_pic]
        assert len(pictures) == 1
        frame = next(f for p in opened.demux(pictures[0]) for f in p.decode())
        assert (frame.to_ndarray(format="rgb24") == 9).all()
        assert [s.language for s in opened.streams.audio] == ["deu", "jpn"]
        assert [bool(s.disposition & av.stream.Disposition.default) for s in opened.streams.audio] == [False, True]


@pytest.mark.parametrize(("language", "spelled"), [("fra", "fra"), ("swe", "sve"), ("deu", "ger"), ("gsw", None)])
def test_timecode_and_language_of_the_pictures(make_clip, pass_through, tmp_path, language, spelled):
    plain, clip = make_clip("plain.mov"), tmp_path / "in.mp4"
    with av.open(str(plain)) as source, av.open(str(clip), "w") as out:
        stream = out.add_stream_from_template(source.streams.video[0], opaque=True)
        stream.metadata.update({"language": language, "timecode": "01:02:03:04"})
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                out.mux(packet)
    _, sink = pass_through(clip, tmp_path / "out.mov", FAST)
    with av.open(str(tmp_path / "out.mov")) as opened:
        metadata = opened.streams.video[0].metadata
        assert (metadata.get("language"), metadata["timecode"]) == (spelled, "01:02:03:04")
    assert [n.rpartition("state the ")[2] for n in sink.notices] == (
        [] if spelled else ["language of the pictures: left out."]
    )


@pytest.mark.parametrize("container", ["mp4", "mov", "mkv"])
def test_a_killed_run_leaves_a_readable_temporary(make_clip, tmp_path, container):
    """Everything but the last second that reached the muxer can be read from the unfinished file."""
    from flashvsr_cli.video.writer import open_sink

    clip = make_clip("in.mkv", pts=tuple(range(150)), n_audio=1)
    with open_source(str(clip)) as source:
        sink = open_sink(str(tmp_path / f"out.{container}"), source, source.info.size, FAST)
        for frame in source:
            sink.write(frame)
        part = next(p for p in tmp_path.iterdir() if ".part-" in p.name)
        copy = tmp_path / f"copy.{container}"
        copy.write_bytes(part.read_bytes())
        sink.abort()
    with av.open(str(copy)) as opened:
        packets = [(p.stream.type, p.pts * p.time_base) for p in opened.demux() if p.size]
    times = sorted(time for kind, time in packets if kind == "video")
    assert times == [Fraction(i, 25) for i in range(len(times))]
    assert len(times) >= 100
    assert any(kind == "audio" for kind, _ in packets)


def test_lines_that_are_shown_at_once_all_get_into_mp4(make_clip, pass_through, packets, tmp_path):
    """Signs and speech overlap in ASS; MP4 wants a sample's time above that of the one before."""
    (tmp_path / "text.ass").write_text(
        "[Script Info]\nScriptType: v4.00+\n\n[V4+ Styles]\nFormat: Name, Fontname, Fontsize\nStyle: Default,Arial,16\n"
        "\n[Events]\nFormat: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text\n"
        "Dialogue: 0,0:00:00.20,0:00:00.80,Default,,0,0,0,,Sign\n"
        "Dialogue: 0,0:00:00.20,0:00:00.60,Default,,0,0,0,,Speech, {\\b1}loud{\\b0}\n"
        "Dialogue: 0,0:00:00.20,0:00:00.60,Default,,0,0,0,,\n"
        "Dialogue: 0,0:00:00.90,0:00:01.00,Default,,0,0,0,,Late\n"
    )
    clip = tmp_path / "in.mkv"
    with av.open(str(make_clip("plain.mp4", pts=tuple(range(30))))) as media, av.open(str(clip), "w") as out:
        video = out.add_stream_from_template(media.streams[0], opaque=True)
        with av.open(str(tmp_path / "text.ass")) as text:
            lines = out.add_stream_from_template(text.streams[0], opaque=True)
            pairs = [(p, video) for p in media.demux() if p.size] + [(p, lines) for p in text.demux() if p.size]
            for packet, stream in pairs:
                packet.stream = stream
                out.mux(packet)
    for name in ("out.mp4", "out.mov", "out.webm"):
        codec = "libvpx-vp9" if name == "out.webm" else None
        _, sink = pass_through(clip, tmp_path / name, EncodeOptions(subtitles="transcode", codec=codec))
        assert sink.notices == []
        got = [(p[0], p[3]) for p in packets(tmp_path / name, "subtitle") if len(p[3]) > 2]
        assert [time for time, _ in got] == [Fraction(1, 5), Fraction(201, 1000), Fraction(9, 10)]
        for word, (_, content) in zip((b"Sign", b"Speech, ", b"Late"), got, strict=True):
            assert word in content


def with_jpeg(clip: Path, target: Path, names: tuple[str, ...]) -> bytes:
    """The clip in Matroska with a JPEG under each name; gives the JPEG."""
    encoder = av.CodecContext.create("mjpeg", "w")
    encoder.width, encoder.height, encoder.pix_fmt, encoder.time_base = 32, 32, "yuvj420p", Fraction(1, 25)
    picture = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 90, np.uint8), "rgb24").reformat(format="yuvj420p")
    jpeg = b"".join(bytes(p) for p in (*encoder.encode(picture), *encoder.encode(None)))
    with av.open(str(clip)) as source, av.open(str(target), "w") as out:
        streams = {s.index: out.add_stream_from_template(s, opaque=True) for s in source.streams}
        for name in names:
            out.add_attachment(name, "image/jpeg", jpeg).metadata["title"] = f"About {name}"
        for packet in source.demux():
            if packet.size:
                packet.stream = streams[packet.stream.index]
                out.mux(packet)
    return jpeg


def read_covers(path: Path) -> list[tuple[str | None, str | None, bytes]]:
    """(File name, title, contents) of the pictures that stand for the whole file."""
    with av.open(str(path)) as opened:
        covers = [s for s in opened.streams.video if s.disposition & av.stream.Disposition.attached_pic]
        packets = {p.stream.index: bytes(p) for p in opened.demux(covers) if p.size} if covers else {}
        return [(s.metadata.get("filename"), s.metadata.get("title"), packets[s.index]) for s in covers]


def test_covers_keep_their_names(make_clip, pass_through, tmp_path):
    names = ("cover_land.jpg", "small_cover.jpg")
    jpeg = with_jpeg(make_clip("plain.mp4"), tmp_path / "in.mkv", names)
    pass_through(tmp_path / "in.mkv", tmp_path / "out.mkv", FAST)
    assert read_covers(tmp_path / "out.mkv") == [(name, f"About {name}", jpeg) for name in names]


def test_a_cover_without_a_name_gets_the_one_players_look_for(make_clip, pass_through, tmp_path):
    jpeg = with_jpeg(make_clip("plain.mp4"), tmp_path / "in.mkv", ("any.jpg",))
    pass_through(tmp_path / "in.mkv", tmp_path / "named.mp4", FAST)
    assert [contents for *_, contents in read_covers(tmp_path / "named.mp4")] == [jpeg]
    pass_through(tmp_path / "named.mp4", tmp_path / "out.mkv", FAST)
    assert [(name, contents) for name, _, contents in read_covers(tmp_path / "out.mkv")] == [("cover.jpg", jpeg)]


@pytest.mark.parametrize("container", ["m4v", "mov", "avi", "ts"])
def test_a_cover_that_does_not_fit_is_named(make_clip, pass_through, tmp_path, container):
    with_jpeg(make_clip("plain.mp4"), tmp_path / "in.mkv", ("cover.jpg",))
    out = tmp_path / f"out.{container}"
    _, sink = pass_through(tmp_path / "in.mkv", out, EncodeOptions())
    assert sink.notices == [
        f"{out} ({MUXERS[container]}) cannot hold cover track 1 "
        "(mjpeg, About cover.jpg): left out. An .mp4 or .mkv output keeps it."
    ]
    assert read_covers(out) == []


def test_every_language_that_quicktime_knows():
    """Read back as FFmpeg spells it."""
    known = sorted(QUICKTIME_CODES)
    spelled = [to_quicktime(code) for code in ("deu", "fre", "fra", "cze", "ces", "rum", "ron", "slo", "slk", "swe")]
    assert spelled == ["ger", "fra", "fra", "ces", "ces", "ron", "ron", "slk", "slk", "sve"]
    assert [to_quicktime(code) for code in ("hrv", "srp", "gsw", "nob")] == ["hr ", "sr ", None, None]
    movie = BytesIO()
    with av.open(movie, "w", format="mov") as out:
        for code in known:
            out.add_stream("pcm_s16le", rate=48000, layout="mono").metadata["language"] = code
        for stream in out.streams:
            packet = av.Packet(bytes(2))
            packet.pts, packet.dts, packet.duration, packet.stream = 0, 0, 1, stream
            packet.time_base = Fraction(1, 48000)
            out.mux(packet)
    with av.open(BytesIO(movie.getvalue())) as opened:
        assert [s.language for s in opened.streams] == known


def test_languages_survive_quicktime(make_clip, pass_through, tmp_path):
    """Under the other code of ISO 639-2 where FFmpeg spells QuickTime's number so; a notice names what is lost."""
    languages = ("fra", "ces", "ron", "slk", "swe", "deu", "zho", "hrv", "cym", "eng", "gsw", "und")
    read = ("fra", "ces", "ron", "slk", "swe", "ger", "chi", "hrv", "wel", "eng", None, None)
    plain, clip = make_clip("plain.mp4", n_audio=len(languages)), tmp_path / "in.mkv"
    with av.open(str(plain)) as source, av.open(str(clip), "w") as out:
        streams = {s.index: out.add_stream_from_template(s, opaque=True) for s in source.streams}
        for i, language in enumerate(languages):
            streams[1 + i].metadata["language"] = language
        for packet in source.demux():
            if packet.dts is not None:
                packet.stream = streams[packet.stream.index]
                out.mux(packet)
    _, sink = pass_through(clip, tmp_path / "out.mov", FAST)
    assert sink.notices == [
        f"{tmp_path / 'out.mov'} (mov) cannot state the language of audio track 11 (aac, gsw). An .mkv output keeps it."
    ]
    with open_source(str(tmp_path / "out.mov")) as back:
        assert [t.language if t.language != "und" else None for t in back.info.tracks] == list(read)
    pass_through(tmp_path / "out.mov", tmp_path / "out.mp4", FAST)
    with av.open(str(tmp_path / "out.mp4")) as opened:
        assert opened.streams.audio[4].language == to_iso("sve") == "swe"


def place_sound(clip: Path, target: Path, seconds: Fraction, hole: tuple[Fraction, Fraction] | None = None) -> Path:
    """The clip in Matroska with its sound so much later, and none in the hole."""
    with av.open(str(clip)) as source, av.open(str(target), "w") as out:
        streams = {s.index: out.add_stream_from_template(s, opaque=True) for s in source.streams}
        packets = [p for p in source.demux() if p.dts is not None]
        for packet in packets:
            if packet.stream.type == "audio":
                packet.pts, packet.dts = (t + round(seconds / packet.time_base) for t in (packet.pts, packet.dts))
        for packet in sorted(packets, key=lambda p: p.dts * p.time_base):
            begin = packet.pts * packet.time_base
            if packet.stream.type == "video" or hole is None or not hole[0] <= begin < hole[1]:
                packet.stream = streams[packet.stream.index]
                out.mux(packet)
    return target


@pytest.mark.parametrize("audio", ["copy", "transcode"])
@pytest.mark.parametrize(
    ("later", "hole", "lost"),
    [(Fraction(1, 2), None, 0.5), (Fraction(0), (Fraction(3, 5), Fraction(6, 5)), 0.6), (Fraction(0), None, 0)],
    ids=["late", "hole", "in step"],
)
def test_avi_has_no_times_of_sound_and_says_so(make_clip, pass_through, tmp_path, audio, later, hole, lost):
    clip = place_sound(make_clip("plain.mp4", n_audio=1, pts=tuple(range(50))), tmp_path / "in.mkv", later, hole)
    _, sink = pass_through(clip, tmp_path / "out.avi", EncodeOptions(audio=audio))
    if not lost:
        assert sink.notices == []
        return
    (notice,) = sink.notices
    assert notice.startswith(f"{tmp_path / 'out.avi'} (avi) knows no times of sound: audio track 1 has ")
    assert ".mkv" in notice
    assert abs(float(notice.partition(" has ")[2].split()[0]) - lost) < 0.05


@pytest.mark.parametrize("audio", ["copy", "transcode"])
@pytest.mark.parametrize(("container", "codec"), [("mkv", "aac"), ("ts", "mp2"), ("mkv", "mp3")])
@pytest.mark.parametrize("start", [37, 750])
def test_avi_counts_pictures_and_sound_from_the_first_picture(
    make_clip, pass_through, packets, tmp_path, container, codec, start, audio
):
    clip = make_clip(f"in.{container}", n_audio=1, audio_codec=codec, pts=tuple(range(start, start + 20)))
    out = tmp_path / "out.avi"
    _, sink = pass_through(clip, out, EncodeOptions(audio=audio))
    assert sink.notices == []
    assert [p for p, *_ in packets(out, "video")] == [Fraction(i, 25) for i in range(20)]
    first = min(p for p, *_ in packets(clip, "video"))
    times = {content: p - first for p, *_, content in packets(clip, "audio")}
    heard = packets(out, "audio")
    assert 0.7 < float(heard[-1][0] + heard[-1][2]) < 0.9
    if audio == "copy":
        # AVI counts in packets, of 21 to 26 ms.
        assert all(abs(p - times[content]) <= Fraction(13, 1000) for p, *_, content in heard)


@pytest.mark.parametrize("codec", ["ac3", "aac", "mp2", "mp3", "pcm_s16le"])
def test_sound_from_avi_to_avi_keeps_its_times(make_clip, pass_through, packets, tmp_path, codec):
    clip = make_clip("in.avi", codec="mpeg4", options=(), n_audio=1, audio_codec=codec, pts=tuple(range(100)))
    for target in ("once.avi", "twice.avi"):
        pass_through(clip, tmp_path / target)
        assert [(p[0], p[3]) for p in packets(tmp_path / target, "audio")] == [
            (p[0], p[3]) for p in packets(clip, "audio")
        ]
        with av.open(str(clip)) as before, av.open(str(tmp_path / target)) as after:
            old, new = before.streams.audio[0], after.streams.audio[0]
            assert (new.duration, new.time_base) == (old.duration, old.time_base)
        clip = tmp_path / target


def test_the_pictures_of_matroska_are_shown_by_default(make_clip, pass_through, tmp_path):
    pass_through(make_clip("in.mkv", n_audio=1), tmp_path / "out.mkv", FAST)
    with av.open(str(tmp_path / "out.mkv")) as out:
        assert out.streams.video[0].disposition == av.stream.Disposition.default


@pytest.mark.parametrize("audio", ["copy", "transcode"])
@pytest.mark.parametrize("container", ["avi", "flv", "mkv", "ts"])
def test_pictures_start_with_the_sound_that_belongs_to_them(
    make_clip, pass_through, packets, tmp_path, container, audio
):
    """What MP4 hides, the encoder's run-up and what lies in front of a cut, is not heard elsewhere."""
    plain = make_clip("plain.mp4", n_audio=1, pts=tuple(range(50)), options=(("preset", "ultrafast"), ("g", "10")))
    clip, cut = tmp_path / "in.mp4", Fraction(2, 5)
    with av.open(str(plain)) as source, av.open(str(clip), "w") as out:
        streams = {s.index: out.add_stream_from_template(s, opaque=True) for s in source.streams}
        for packet in source.demux():
            if packet.dts is not None:
                ticks = round(cut / packet.time_base)
                packet.pts, packet.dts, packet.stream = (
                    packet.pts - ticks,
                    packet.dts - ticks,
                    streams[packet.stream.index],
                )
                out.mux(packet)
    out = tmp_path / f"out.{container}"
    in_order = () if container == "avi" else (("bf", "0"),)
    _, sink = pass_through(clip, out, EncodeOptions(audio=audio, encoder_options=in_order))
    assert sink.notices == []
    pictures, sound = packets(out, "video"), packets(out, "audio")
    start = pictures[0][0]
    assert len(pictures) == 40
    assert container == "ts" or start == 0
    assert all(abs(b[0] - a[0] - Fraction(1, 25)) <= Fraction(1, 1000) for a, b in itertools.pairwise(pictures))
    assert abs(max(Fraction(0), sound[0][0] - start)) < Fraction(1, 50)
    assert sound[0][0] - start > -Fraction(1, 40)
    if audio == "copy":
        skip = 7 if container == "ts" else 0
        heard = {p[3]: p[0] for p in packets(clip, "audio")}
        lags = [p[0] - start - heard[p[3][skip:]] for p in sound]
        assert all(abs(lag) <= Fraction(1, 1000) for lag in lags[1:]) or container == "avi"
        assert all(abs(lag) <= Fraction(11, 1000) for lag in lags)
