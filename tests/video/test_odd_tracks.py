"""Sound and subtitles as recorders and broadcasts leave them: repeated headers, new forms, codecs nobody decodes."""

import itertools
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from flashvsr_cli.errors import OutputError
from flashvsr_cli.options import EncodeOptions

FAST = EncodeOptions(preset="ultrafast", crf=5)
ADTS_HEADER_BYTES = 7


def flv_tags(data: bytes) -> list[tuple[int, int]]:
    """(Kind, place) of every tag: 8 is sound, 9 pictures."""
    tags, place = [], 13
    while place < len(data):
        tags.append((data[place], place))
        place += 15 + int.from_bytes(data[place + 1 : place + 4], "big")
    return tags


@pytest.mark.parametrize("container", ["mp4", "mkv", "avi"])
def test_sound_whose_times_go_back_is_kept(make_clip, pass_through, packets, tmp_path, container):
    """No muxer takes such packets; ffmpeg moves them, too."""
    clip = make_clip("in.flv", pts=tuple(range(50)), n_audio=1)
    data = bytearray(clip.read_bytes())
    _, place = [tag for tag in flv_tags(data) if tag[0] == 8][40]
    data[place + 4 : place + 7] = (int.from_bytes(data[place + 4 : place + 7], "big") - 100).to_bytes(3, "big")
    clip.write_bytes(data)
    whole = packets(clip, "audio")
    assert any(b[0] <= a[0] for a, b in itertools.pairwise(whole)), "the clip is not what it should be"
    _, sink = pass_through(clip, tmp_path / f"out.{container}", EncodeOptions())
    assert "1 packets of audio track 1 have times that go back: moved to the one before." in sink.notices
    got = packets(tmp_path / f"out.{container}", "audio")
    if container == "avi":
        whole = whole[1:]  # The encoder's run-up lies before the first picture, which is where an AVI begins.
    assert [p[3] for p in got] == [p[3] for p in whole]
    others = [i for i in range(len(whole)) if abs(i - 39) > 3]
    lag = got[0][0] - whole[0][0]
    assert all(abs(got[i][0] - whole[i][0] - lag) < Fraction(1, 25) for i in others)


@pytest.mark.parametrize("container", ["mp4", "mov", "mkv", "avi", "flv"])
def test_the_sound_of_a_recording_gets_into_every_container(make_clip, pass_through, packets, tmp_path, container):
    """AAC in MPEG-TS has a header in every packet, which the others do not take."""
    clip, out = make_clip("in.ts", pts=tuple(range(50)), n_audio=1), tmp_path / f"out.{container}"
    pass_through(clip, out, EncodeOptions())
    bare = [p[3][ADTS_HEADER_BYTES:] for p in packets(clip, "audio")]
    assert [p[3] for p in packets(out, "audio")] == (bare[1:] if container == "avi" else bare)
    with av.open(str(out)) as opened:
        assert sum(frame.samples for frame in opened.decode(audio=0)) > 90_000


def read_header(path: Path) -> tuple[list[str], list[bytes], list[str]]:
    """(Kinds of the tracks, what the header says of the sound, FFmpeg's complaints)."""
    level = av.logging.get_level()
    av.logging.set_level(av.logging.WARNING)
    try:
        with av.logging.Capture() as logged, av.open(str(path)) as opened:
            tracks = [s.type for s in opened.streams]
            headers = [bytes(s.codec_context.extradata or b"") for s in opened.streams.audio]
    finally:
        av.logging.set_level(level)
    return tracks, headers, [line[2] for line in logged]


@pytest.mark.parametrize("container", ["mkv", "mp4", "mov", "flv"])
def test_the_header_of_a_recording_is_the_one_ffmpeg_writes(make_clip, pass_through, tmp_path, container):
    """Said twice, in the header and beside the first packet, Matroska's writer wrote the second over its tracks."""
    clip, plain, out = make_clip("in.ts", n_audio=1), tmp_path / f"plain.{container}", tmp_path / f"out.{container}"
    with av.open(str(clip)) as opened, av.open(str(plain), "w") as copy:
        streams = {s.index: copy.add_stream_from_template(s, opaque=True) for s in opened.streams}
        for packet in opened.demux():
            if packet.dts is not None:
                packet.stream = streams[packet.stream.index]
                copy.mux(packet)
    pass_through(clip, out, FAST)
    tracks, headers, complaints = read_header(out)
    assert (tracks, complaints) == (["video", "audio"], [])
    assert headers == read_header(plain)[1]


@pytest.mark.parametrize("container", ["mkv", "mp4"])
def test_a_header_that_comes_again_does_no_harm(make_clip, pass_through, packets, tmp_path, container):
    """FLV may say once more what the sound is, as streams do that can be joined at any time."""
    clip = make_clip("in.flv", pts=tuple(range(50)), n_audio=1)
    data = bytearray(clip.read_bytes())
    places = [place for kind, place in flv_tags(data) if kind == 8]
    header = bytearray(data[places[0] : places[1]])
    assert header[12] == 0, "the first tag of AAC is its header"
    header[4:8] = data[places[20] + 4 : places[20] + 8]
    data[places[20] : places[20]] = header
    clip.write_bytes(data)
    pass_through(clip, tmp_path / f"out.{container}", FAST)
    tracks, headers, complaints = read_header(tmp_path / f"out.{container}")
    assert (tracks, headers, complaints) == (["video", "audio"], read_header(clip)[1], [])
    assert [p[3] for p in packets(tmp_path / f"out.{container}", "audio")][-20:] == [
        p[3] for p in packets(clip, "audio")
    ][-20:]


def unknown_sound(clip: Path, target: Path) -> Path:
    """MP4, the last track of which is said to be APAC, which FFmpeg cannot decode."""
    data = clip.read_bytes()
    for name, other in ((b"mp4a", b"apac"), (b"esds", b"dapa")):
        place = data.rindex(name)
        data = data[:place] + other + data[place + 4 :]
    target.write_bytes(data)
    return target


@pytest.mark.parametrize("audio", ["copy", "transcode"])
@pytest.mark.parametrize("container", ["mp4", "mkv", "ts"])
def test_sound_without_a_decoder(make_clip, pass_through, tmp_path, container, audio):
    """Left out beside sound that can be copied; else it is for the user to say."""
    options, out = EncodeOptions(preset="ultrafast", audio=audio), tmp_path / f"out.{container}"
    two = unknown_sound(make_clip("two.mp4", n_audio=2), tmp_path / "two_odd.mp4")
    _, sink = pass_through(two, out, options)
    assert sink.notices == ["FFmpeg does not know the codec of audio track 2 (unknown, und): left out."]
    assert read_header(out)[0] == ["video", "audio"]
    one = unknown_sound(make_clip("one.mp4", n_audio=1), tmp_path / "one_odd.mp4")
    with pytest.raises(OutputError, match=r"does not know the codec of audio track 1") as caught:
        pass_through(one, out, options)
    assert "--audio none" in caught.value.next_step
    pass_through(one, out, EncodeOptions(preset="ultrafast", audio="none"))
    assert read_header(out)[0] == ["video"]


@pytest.mark.parametrize("subtitles", ["copy", "transcode"])
@pytest.mark.parametrize("container", ["mp4", "mkv", "ts"])
def test_subtitles_without_a_decoder_are_left_out(make_clip, pass_through, tmp_path, container, subtitles):
    clip = tmp_path / "in.mkv"
    with av.open(str(make_clip("plain.mp4"))) as media, av.open(str(clip), "w") as out:
        video = out.add_stream_from_template(media.streams[0], opaque=True)
        lines = out.add_mux_stream("webvtt", time_base=Fraction(1, 1000))
        line = av.Packet(b"Hello")
        line.pts, line.dts, line.duration, line.time_base, line.stream = 0, 0, 200, Fraction(1, 1000), lines
        out.mux(line)
        for packet in media.demux():
            if packet.size:
                packet.stream = video
                out.mux(packet)
    name = b"D_WEBVTT/SUBTITLES"
    clip.write_bytes(clip.read_bytes().replace(name, b"S_HDMV/TEXTST".ljust(len(name), b"\0")))
    with av.open(str(clip)) as opened:
        assert opened.streams.subtitles[0].codec_context is None, "the clip is not what it should be"
    options = EncodeOptions(preset="ultrafast", subtitles=subtitles)
    _, sink = pass_through(clip, tmp_path / f"out.{container}", options)
    assert sink.notices == ["FFmpeg does not know the codec of subtitle track 1 (unknown): left out."]
    assert read_header(tmp_path / f"out.{container}")[0] == ["video"]


def write_broadcast(clip: Path, target: Path, layout: str, rate: int) -> bytes:
    """The clip with a tone for two seconds in the first two channels, as bytes."""
    with av.open(str(clip)) as opened, av.open(str(target), "w") as out:
        video = out.add_stream_from_template(opened.streams.video[0], opaque=True)
        sound = out.add_stream("aac", rate=rate, layout=layout)
        samples = np.zeros((sound.layout.nb_channels, 2 * rate), np.float32)
        samples[:2] = 0.5 * np.sin(np.arange(2 * rate) * 2 * np.pi * 440 / rate)
        packets = []
        for i in range(0, 2 * rate, 1024):
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples[:, i : i + 1024]), "fltp", layout)
            frame.sample_rate, frame.pts, frame.time_base = rate, i, Fraction(1, rate)
            packets += sound.encode(frame)
        packets += sound.encode(None)
        pictures = [p for p in opened.demux(video=0) if p.dts is not None]
        for picture in pictures:
            picture.stream = video
        for packet in sorted([*packets, *pictures], key=lambda p: p.dts * p.time_base):
            out.mux(packet)
    return target.read_bytes()


@pytest.mark.parametrize("container", ["mp4", "mkv", "webm"])
@pytest.mark.parametrize(
    "forms",
    [
        (("stereo", 48000), ("5.1", 48000), ("stereo", 48000)),
        (("5.1", 48000), ("stereo", 48000)),
        (("stereo", 48000), ("mono", 32000)),
    ],
    ids=["to surround and back", "to stereo", "to another rate"],
)
def test_sound_that_changes_its_form_is_encoded_on(make_clip, pass_through, tmp_path, container, forms):
    """As broadcasts do between programmes; the output keeps to the form at the start, and to its times."""
    clip = make_clip("part.ts", pts=tuple(range(50)))
    parts = [write_broadcast(clip, tmp_path / f"{i}.ts", *form) for i, form in enumerate(forms)]
    (tmp_path / "in.ts").write_bytes(b"".join(parts))
    out = tmp_path / f"out.{container}"
    _, sink = pass_through(tmp_path / "in.ts", out, EncodeOptions(audio="transcode"))
    assert sink.notices == []
    layout, rate = forms[0]
    with av.open(str(out)) as opened:
        stream = opened.streams.audio[0]
        assert (stream.layout.name, stream.rate) == (layout, rate)
        heard = np.zeros(2 * len(forms) * rate + rate)
        for frame in opened.decode(stream):
            begin = round(frame.pts * frame.time_base * rate)
            samples = frame.to_ndarray()[0][max(0, -begin) :]
            heard[max(0, begin) : max(0, begin) + len(samples)] = samples
    for i in range(len(forms)):
        part = heard[round((2 * i + 0.3) * rate) : round((2 * i + 1.9) * rate)]
        assert np.sqrt((part**2).mean()) > 0.1
        blocks = np.sqrt((part[: len(part) // 480 * 480].reshape(-1, 480) ** 2).mean(1))
        assert blocks.min() > 0.5 * blocks.max(), "there is a hole in the tone"
