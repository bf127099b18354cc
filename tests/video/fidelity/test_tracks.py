"""Sound, subtitles, and everything else that comes with the pictures."""

import itertools
from fractions import Fraction
from pathlib import Path

import av
import pytest

from flashvsr_cli.errors import FlashVSRError
from flashvsr_cli.options import EncodeOptions
from flashvsr_cli.video.tracks import read_metadata

CONTAINERS = ("mp4", "mov", "mkv", "webm", "ts", "avi")
TRACKS = {"AAC": "aac", "FLAC": "flac", "Opus": "libopus", "PCM": "pcm_s16le"}
SUBTITLES = {
    "SRT": ("srt", "mkv"),
    "ASS": ("ass", "mkv"),
    "WebVTT": ("webvtt", "mkv"),
    "MP4 text": ("mov_text", "mp4"),
}
EXTRAS = (
    *("subtitles (SRT)", "chapters", "attached font", "title", "own tag beside a title", "language of the sound"),
    "title of the sound",
)


SOUND_CELLS = list(itertools.product(["Sound, copied", "Sound, --audio transcode"], TRACKS, CONTAINERS))


@pytest.mark.parametrize("cell", SOUND_CELLS, ids="-".join)
def test_sound(make_clip, pass_through, packets, note, said, tmp_path, cell):
    clip = make_clip("in.mkv", n_audio=1, audio_codec=TRACKS[cell[1]])
    is_new = "transcode" in cell[0]
    out = tmp_path / f"out.{cell[2]}"
    try:
        pass_through(clip, out, EncodeOptions(audio="transcode" if is_new else "copy"))
    except FlashVSRError as error:
        assert not is_new
        note(f"refused {said([error.next_step], '--audio transcode', '--audio none')}")
        assert not out.exists()
        return
    with av.open(str(out)) as opened:
        codec = opened.streams.audio[0].codec_context.codec.canonical_name
    if not is_new:
        whole, got = (b"".join(p[3] for p in packets(path, "audio")) for path in (clip, out))
        # MPEG-TS puts a header in front of every packet of AAC; AVI cannot hide the encoder's run-up.
        assert got == whole or cell[2] == "ts" or (cell[2] == "avi" and whole.endswith(got))
    note(f"as {codec}" if is_new else "kept")


SUBTITLE_CELLS = list(itertools.product(["Subtitles, copied", "Subtitles, --subs transcode"], SUBTITLES, CONTAINERS))


def add_subtitles(clip: Path, target: Path, codec: str) -> Path:
    """The clip with two lines in German, the second of them in italics."""
    text = target.with_suffix(".srt")
    text.write_text(
        "1\n00:00:00,100 --> 00:00:00,900\nHello, you\n\n2\n00:00:01,000 --> 00:00:01,150\n<i>Bye</i> now\n"
    )
    with av.open(str(clip)) as media, av.open(str(text)) as lines, av.open(str(target), "w") as out:
        video = out.add_stream_from_template(media.streams.video[0], opaque=True)
        decoder = lines.streams[0].codec_context
        decoder.open()
        written = out.add_stream(codec)
        written.time_base = written.codec_context.time_base = Fraction(1, 1000)
        written.codec_context.subtitle_header = decoder.subtitle_header
        written.metadata["language"] = "deu"
        for packet in (p for p in media.demux(video=0) if p.size):
            packet.stream = video
            out.mux(packet)
        for packet in (p for p in lines.demux() if p.size):
            encoded = written.codec_context.encode_subtitle(decoder.decode2(packet))
            encoded.pts = encoded.dts = packet.pts
            encoded.duration, encoded.time_base, encoded.stream = packet.duration, packet.time_base, written
            out.mux(encoded)
    return target


def read_subtitles(path: Path) -> list[tuple[Fraction, Fraction, str]]:
    """(When it is shown, until when, what) of every line."""
    lines = []
    with av.open(str(path)) as opened:
        stream = opened.streams.subtitles[0]
        assert stream.language in ("deu", "ger")
        for packet in opened.demux(stream):
            shown = stream.codec_context.decode2(packet) if packet.size else None
            for rect in shown or ():
                begin = packet.pts * packet.time_base
                text = rect.dialogue.decode().replace("{\\i1}", "<").replace("{\\i0}", ">").replace("{\\r}", ">")
                lines.append((begin, begin + packet.duration * packet.time_base, text))
    return lines


@pytest.mark.parametrize("cell", SUBTITLE_CELLS, ids="-".join)
def test_subtitles(make_clip, pass_through, note, said, tmp_path, cell):
    codec, container = SUBTITLES[cell[1]]
    plain = make_clip("plain.mp4", pts=tuple(range(30)))
    clip = add_subtitles(plain, tmp_path / f"in.{container}", codec)
    before = read_subtitles(clip)
    assert [text for *_, text in before] == ["Hello, you", "<Bye> now"]
    out = tmp_path / f"out.{cell[2]}"
    is_new = "transcode" in cell[0]
    _, sink = pass_through(clip, out, EncodeOptions(subtitles="transcode" if is_new else "copy"))
    with av.open(str(out)) as opened:
        kinds = {s.type: s.codec_context.codec.canonical_name for s in opened.streams}
    if "subtitle" not in kinds:
        other_ways = [] if is_new or cell[2] in ("ts", "avi") else ["--subs transcode"]
        note(f"left out {said(sink.notices, 'subtitle', *other_ways)}")
        return
    assert read_subtitles(out) == before
    with av.open(str(clip)) as opened:
        is_same = opened.streams.subtitles[0].codec_context.codec.canonical_name == kinds["subtitle"]
    note("kept" if is_same else f"as {kinds['subtitle']}")


EXTRA_CELLS = list(itertools.product(["Everything else"], EXTRAS, CONTAINERS))


@pytest.fixture
def rich_clip(make_clip, tmp_path):
    """Matroska with all the extras, and sound that nearly every container can hold."""
    plain = make_clip("plain.mkv", n_audio=1, audio_codec="libopus", pts=tuple(range(30)), title="A title")
    (tmp_path / "text.srt").write_text("1\n00:00:00,100 --> 00:00:00,900\nHello\n")
    clip = tmp_path / "rich.mkv"
    with av.open(str(plain)) as media, av.open(str(tmp_path / "text.srt")) as text, av.open(str(clip), "w") as out:
        streams = {s.index: out.add_stream_from_template(s, opaque=True) for s in media.streams}
        streams[1].metadata.update({"language": "deu", "title": "Commentary"})
        subtitles = out.add_stream_from_template(text.streams[0])
        out.add_attachment("font.ttf", "font/ttf", b"abcdef" * 10)
        out.metadata.update({"title": "A title", "MYTAG": "mine"})
        chapter = {"id": 1, "start": 0, "end": 900, "time_base": Fraction(1, 1000), "metadata": {"title": "One"}}
        out.set_chapters([chapter])
        pairs = [(p, streams[p.stream.index]) for p in media.demux() if p.size]
        pairs += [(p, subtitles) for p in text.demux() if p.size]
        for packet, stream in sorted(pairs, key=lambda pair: pair[0].dts * pair[0].time_base):
            packet.stream = stream
            out.mux(packet)
    return clip


@pytest.mark.parametrize("cell", EXTRA_CELLS, ids="-".join)
def test_extras(rich_clip, pass_through, note, said, tmp_path, cell):
    out = tmp_path / f"out.{cell[2]}"
    options = EncodeOptions(audio="copy" if cell[2] in ("mkv", "webm") else "transcode")
    _, sink = pass_through(rich_clip, out, options)
    with av.open(str(out)) as opened:
        kinds = {s.type: s for s in opened.streams}
        tags = {name.lower(): value for name, value in opened.metadata.items()}
        found = {
            "subtitles (SRT)": "subtitle" in kinds,
            "chapters": [c["metadata"].get("title") for c in opened.chapters()] == ["One"],
            "attached font": "attachment" in kinds,
            "title": tags.get("title") == "A title",
            "own tag beside a title": tags.get("mytag") == "mine",
            "language of the sound": kinds["audio"].language in ("deu", "ger"),
            "title of the sound": read_metadata(kinds["audio"]).get("title") == "Commentary",
        }[cell[1]]
    words = {
        "subtitles (SRT)": ["subtitle"],
        "chapters": ["chapters"],
        "attached font": ["attachment"],
        "title": ["no field for", "title"],
        "own tag beside a title": ["no field for", "MYTAG"],
        "language of the sound": ["language of audio"],
        "title of the sound": ["title of audio"],
    }[cell[1]]
    note("kept" if found else f"left out {said(sink.notices, *words)}")
