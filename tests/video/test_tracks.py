"""Sound, subtitles, covers: copied, encoded anew, or left out, as asked."""

from fractions import Fraction

import av
import numpy as np
import pytest

from flashvsr_cli.errors import OutputError
from flashvsr_cli.options import EncodeOptions

FAST = EncodeOptions(preset="ultrafast")


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


def test_timecode_and_language_of_the_pictures(make_clip, pass_through, tmp_path):
    plain, clip = make_clip("plain.mov"), tmp_path / "in.mov"
    with av.open(str(plain)) as source, av.open(str(clip), "w") as out:
        stream = out.add_stream_from_template(source.streams.video[0], opaque=True)
        stream.metadata.update({"language": "fra", "timecode": "01:02:03:04"})
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                out.mux(packet)
    pass_through(clip, tmp_path / "out.mov", FAST)
    with av.open(str(tmp_path / "out.mov")) as opened:
        metadata = opened.streams.video[0].metadata
        assert (metadata["language"], metadata["timecode"]) == ("fra", "01:02:03:04")


@pytest.mark.parametrize("container", ["mp4", "mov", "mkv"])
def test_a_killed_run_leaves_a_readable_temporary(make_clip, tmp_path, container):
    """Everything but the last second that reached the muxer can be read from the unfinished file."""
    from flashvsr_cli.video.reader import open_source
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
