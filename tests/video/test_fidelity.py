"""docs/fidelity.md: every cell is measured here, on clips made on the spot and read back.

The document is compared with what was measured. After a change that is meant:

    FLASHVSR_WRITE_FIDELITY=1 pytest tests/video/test_fidelity.py

A cell cannot say that something was lost without a word: `said` fails unless a notice or an error names it.
"""

import itertools
import os
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from flashvsr_cli.errors import FlashVSRError
from flashvsr_cli.options import EncodeOptions, InputOptions
from flashvsr_cli.video.hdr import read_hdr
from flashvsr_cli.video.mp4 import movie_duration
from flashvsr_cli.video.reader import open_source

DOCUMENT = Path(__file__).parents[2] / "docs" / "fidelity.md"
NOTES = "\n## Notes\n"
MEASURED: dict[str, dict[str, dict[str, str]]] = {}
ALL: list[tuple[str, str, str]] = []

LOSSLESS = (("preset", "ultrafast"), ("qp", "0"))
B_FRAMES = (("preset", "medium"), ("bf", "3"), ("crf", "10"))
COLORS = {
    "BT.601": (6, 6, 6),
    "BT.709": (1, 1, 1),
    "BT.2020 PQ": (9, 16, 9),
    "BT.2020 HLG": (9, 18, 9),
}
RANGES = {"limited": 1, "full": 2}
OUTPUTS = {
    "H.264 .mp4": ("mp4", EncodeOptions(encoder_options=LOSSLESS)),
    "FFV1 .mkv": ("mkv", EncodeOptions(codec="ffv1")),
    "ProRes .mov": ("mov", EncodeOptions(codec="prores_ks")),
}
FORMATS = (
    *("yuv420p", "yuv422p", "yuv444p", "yuv420p10le", "yuv422p12le", "yuv444p16le", "gray", "gray10le", "gray16le"),
    *("bgr0", "gbrp10le", "bgra", "yuva420p", "yuva444p10le"),
)
HDR_CODECS = ("libx264", "libx265", "libsvtav1", "libvpx-vp9", "ffv1", "prores_ks")
DISPLAY = "G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(10000000,50)"
VFR = ((0, 40, 45, 160, 200, 400, 433, 600), (40, 5, 115, 40, 200, 33, 167, 50))
CFR = (tuple(range(0, 320, 40)), (40,) * 8)
CONTAINERS = ("mp4", "mov", "mkv", "webm", "ts", "avi")
TRACKS = {"AAC": "aac", "FLAC": "flac", "Opus": "libopus", "PCM": "pcm_s16le"}
SUBTITLES = {
    "SRT": ("srt", "mkv"),
    "ASS": ("ass", "mkv"),
    "WebVTT": ("webvtt", "mkv"),
    "MP4 text": ("mov_text", "mp4"),
}
EXTRAS = ("subtitles (SRT)", "chapters", "attached font", "title", "language of the sound")


def row(section: str, name: str, columns) -> list:
    """Parameters for one row: a test for each of its columns."""
    ALL.extend((section, name, column) for column in columns)
    return [(section, name, column) for column in columns]


def note(cell: tuple[str, str, str], outcome: str) -> None:
    section, name, column = cell
    MEASURED.setdefault(section, {}).setdefault(name, {})[column] = outcome


def said(notices, *words: str) -> str:
    """ "(said)" if one of the sentences names what happened; a loss in silence is a failure."""
    assert any(all(word.lower() in sentence.lower() for word in words) for sentence in notices), (words, notices)
    return "(said)"


COLOR_CELLS = [
    cell
    for bits, color_range, name in itertools.product((8, 10, 12), RANGES, COLORS)
    for cell in row("Depth, range, matrix, transfer", f"{bits} bit, {color_range}, {name}", list(OUTPUTS)[:2])
]


@pytest.mark.parametrize("cell", COLOR_CELLS, ids="-".join)
def test_colour(make_clip, pass_through, tmp_path, cell):
    bits, color_range, name = cell[1].split(", ")
    container, options = OUTPUTS[cell[2]]
    tags = (RANGES[color_range], *COLORS[name])
    pix_fmt = "yuv444p" if bits == "8 bit" else f"yuv444p{bits.split()[0]}le"
    clip = make_clip("in.mkv", codec="ffv1", options=(), pix_fmt=pix_fmt, color=tags, pts=(0, 1))
    _, sink = pass_through(clip, tmp_path / f"out.{container}", options)
    planes = []
    for path in (clip, tmp_path / f"out.{container}"):
        with av.open(str(path)) as opened:
            picture = list(opened.decode(video=0))[-1]
        assert (picture.color_range, picture.color_primaries, picture.color_trc, picture.colorspace) == tags
        stored = picture.format.components[0].bits
        values = [np.frombuffer(p, np.uint8 if stored == 8 else np.uint16) for p in picture.planes]
        shape = (picture.height, -1)
        planes.append([v.reshape(shape)[:, : picture.width].astype(float) / 2**stored for v in values])
        outcome = (
            "kept"
            if picture.format.name.replace("yuvj", "yuv") == pix_fmt
            else f"{stored} bit {said(sink.notices, 'stores', 'bits')}"
        )
    step = 1 / 2 ** min(stored, int(bits.split()[0]))
    worst = max(np.abs(a - b).max() for a, b in zip(*planes, strict=True)) / step
    assert worst <= 1.01 or color_range == "full", worst
    note(cell, f"{outcome}, within 1 level" if worst <= 1.01 else outcome)


FORMAT_CELLS = [cell for name in FORMATS for cell in row("Pixel formats", name, OUTPUTS)] + [
    cell for name in ("yuv420p, 63x47",) for cell in row("Pixel formats", name, list(OUTPUTS)[:2])
]


@pytest.mark.parametrize("cell", FORMAT_CELLS, ids="-".join)
def test_pixel_format(make_clip, pass_through, tmp_path, cell):
    pix_fmt, _, is_odd = cell[1].partition(", ")
    container, options = OUTPUTS[cell[2]]
    size = (47, 63) if is_odd else (48, 64)
    clip = make_clip("in.mkv", codec="ffv1", options=(), pix_fmt=pix_fmt, pts=(0, 1), size=size)
    source, sink = pass_through(clip, tmp_path / f"out.{container}", options)
    with open_source(str(tmp_path / f"out.{container}")) as out:
        info = out.info
    assert info.size == size
    if info.bit_depth < source.info.bit_depth:
        said(sink.notices, "stores", "bits")
    if source.info.has_alpha and not info.has_alpha:
        said(sink.notices, "transparency")
    note(cell, "kept" if info.pix_fmt == pix_fmt else f"as {info.pix_fmt}")


HDR_CELLS = [cell for codec in HDR_CODECS for cell in row("HDR10 metadata", codec, ("mastering display, light level",))]


@pytest.mark.parametrize("cell", HDR_CELLS, ids="-".join)
def test_hdr(make_clip, pass_through, tmp_path, cell):
    options = (("preset", "ultrafast"), ("x265-params", f"log-level=none:master-display={DISPLAY}:max-cll=1000,400"))
    clip = make_clip(
        "in.mp4", codec="libx265", pix_fmt="yuv420p10le", options=options, color=(1, 9, 16, 9), pts=(0, 1, 2)
    )
    _, sink = pass_through(clip, tmp_path / "out.mkv", EncodeOptions(codec=cell[1]))
    with av.open(str(tmp_path / "out.mkv")) as opened:
        picture = next(opened.decode(video=0))
        assert (picture.color_primaries, picture.color_trc) == (9, 16)
        got = read_hdr(picture)
    is_kept = got.light == (1000, 400) and got.display is not None
    note(cell, "kept" if is_kept else f"left out {said(sink.notices, 'mastering display')}")


TIME_CELLS = [
    cell
    for rate, start, order, hidden in itertools.product(
        ("constant", "variable"), ("at 0", "at 1.48 s"), ("", ", B-frames"), ("", ", edit list")
    )
    if not (hidden and (start != "at 0" or not order))
    for cell in row("Times", f"{rate} rate, {start}{order}{hidden}", CONTAINERS[:5])
] + [
    cell
    for start, hidden in (("at 0", ""), ("at 0", ", edit list"), ("at 1.48 s", ""))
    for cell in row("Times", f"constant rate, {start}, B-frames{hidden}, with AAC", CONTAINERS[:5])
]


@pytest.mark.parametrize("cell", TIME_CELLS, ids="-".join)
def test_times(make_clip, pass_through, packets, tmp_path, cell):
    pts, durations = VFR if cell[1].startswith("variable") else CFR
    has_sound = cell[1].endswith("AAC")
    offset = 1480 if "1.48" in cell[1] else 0
    clip = make_clip(
        "in.mp4",
        pts=tuple(p + offset for p in pts),
        durations=durations,
        time_base=Fraction(1, 1000),
        options=B_FRAMES if "B-frames" in cell[1] else (("preset", "ultrafast"), ("crf", "10")),
        n_audio=int(has_sound),
    )
    if "edit list" in cell[1]:
        clip = hide_start(clip, tmp_path / "edited.mp4")
    with open_source(str(clip)) as source:
        frames = list(source)
        base = source.info.time_base
        expected = [f.pts * base for f in frames]
        end = (frames[-1].pts + (frames[-1].duration or 0)) * base
    out = tmp_path / f"out.{cell[2]}"
    is_webm = cell[2] == "webm"
    audio = "transcode" if is_webm else "copy"
    pass_through(clip, out, EncodeOptions(preset=None if is_webm else "fast", audio=audio))
    got = sorted(p for p, *_ in packets(out, "video"))
    assert len(got) == len(expected)
    # MPEG-TS starts where its muxer likes; only distances mean anything there.
    lag = got[0] - expected[0] if cell[2] == "ts" else Fraction(0)
    worst = max(abs(a - b - lag) for a, b in zip(got, expected, strict=True))
    with av.open(str(out)) as opened:
        tick = opened.streams.video[0].time_base
    assert worst <= tick
    if has_sound and not is_webm:
        n_header = 7 if cell[2] == "ts" else 0  # MPEG-TS puts a header in front of every packet of AAC
        heard = {content: time for time, *_, content in packets(clip, "audio")}
        lags = [time - lag - heard[content[n_header:]] for time, *_, content in packets(out, "audio")]
        # The packet across the start begins there where a container cannot hide its first part.
        assert all(abs(late) <= tick for late in lags[1:])
        assert abs(lags[0]) <= Fraction(512, 48000) + tick
        assert len(heard) - len(lags) <= (6 if "edit list" in cell[1] else 1)
    if cell[2] in ("mp4", "mov") and not has_sound:
        assert abs(movie_duration(out) - end) <= tick
    note(cell, "exact" if worst == 0 else f"to one tick (1/{tick.denominator} s)")


def hide_start(clip: Path, target: Path) -> Path:
    """Copied from the middle of a group: MP4 holds what is in front of the start, and its edit list hides it."""
    with av.open(str(clip)) as opened, av.open(str(target), "w") as out:
        streams = {s.index: out.add_stream_from_template(s, opaque=True) for s in opened.streams}
        for packet in opened.demux():
            if packet.dts is not None:
                ticks = round(Fraction(1, 10) / packet.time_base)
                packet.pts, packet.dts = packet.pts - ticks, packet.dts - ticks
                packet.stream = streams[packet.stream.index]
                out.mux(packet)
    return target


SOUND_CELLS = [cell for name in TRACKS for cell in row("Sound, copied", name, CONTAINERS)] + [
    cell for name in TRACKS for cell in row("Sound, --audio transcode", name, CONTAINERS)
]


@pytest.mark.parametrize("cell", SOUND_CELLS, ids="-".join)
def test_sound(make_clip, pass_through, packets, tmp_path, cell):
    clip = make_clip("in.mkv", n_audio=1, audio_codec=TRACKS[cell[1]])
    is_new = "transcode" in cell[0]
    out = tmp_path / f"out.{cell[2]}"
    try:
        pass_through(clip, out, EncodeOptions(audio="transcode" if is_new else "copy"))
    except FlashVSRError as error:
        assert not is_new
        note(cell, f"refused {said([error.next_step], '--audio transcode', '--audio none')}")
        assert not out.exists()
        return
    with av.open(str(out)) as opened:
        codec = opened.streams.audio[0].codec_context.codec.canonical_name
    if not is_new:
        whole, got = (b"".join(p[3] for p in packets(path, "audio")) for path in (clip, out))
        # MPEG-TS puts a header in front of every packet of AAC; AVI cannot hide the encoder's run-up.
        assert got == whole or cell[2] == "ts" or (cell[2] == "avi" and whole.endswith(got))
    note(cell, f"as {codec}" if is_new else "kept")


SUBTITLE_CELLS = [cell for name in SUBTITLES for cell in row("Subtitles, copied", name, CONTAINERS)] + [
    cell for name in SUBTITLES for cell in row("Subtitles, --subs transcode", name, CONTAINERS)
]


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
def test_subtitles(make_clip, pass_through, tmp_path, cell):
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
        note(cell, f"left out {said(sink.notices, 'subtitle', *other_ways)}")
        return
    assert read_subtitles(out) == before
    with av.open(str(clip)) as opened:
        is_same = opened.streams.subtitles[0].codec_context.codec.canonical_name == kinds["subtitle"]
    note(cell, "kept" if is_same else f"as {kinds['subtitle']}")


EXTRA_CELLS = [cell for name in EXTRAS for cell in row("Everything else", name, CONTAINERS)]


@pytest.fixture
def rich_clip(make_clip, tmp_path):
    """Matroska with all the extras, and sound that nearly every container can hold."""
    plain = make_clip("plain.mkv", n_audio=1, audio_codec="libopus", pts=tuple(range(30)), title="A title")
    (tmp_path / "text.srt").write_text("1\n00:00:00,100 --> 00:00:00,900\nHello\n")
    clip = tmp_path / "rich.mkv"
    with av.open(str(plain)) as media, av.open(str(tmp_path / "text.srt")) as text, av.open(str(clip), "w") as out:
        streams = {s.index: out.add_stream_from_template(s, opaque=True) for s in media.streams}
        streams[1].metadata["language"] = "deu"
        subtitles = out.add_stream_from_template(text.streams[0])
        out.add_attachment("font.ttf", "font/ttf", b"abcdef" * 10)
        out.metadata["title"] = "A title"
        chapter = {"id": 1, "start": 0, "end": 900, "time_base": Fraction(1, 1000), "metadata": {"title": "One"}}
        out.set_chapters([chapter])
        pairs = [(p, streams[p.stream.index]) for p in media.demux() if p.size]
        pairs += [(p, subtitles) for p in text.demux() if p.size]
        for packet, stream in sorted(pairs, key=lambda pair: pair[0].dts * pair[0].time_base):
            packet.stream = stream
            out.mux(packet)
    return clip


@pytest.mark.parametrize("cell", EXTRA_CELLS, ids="-".join)
def test_extras(rich_clip, pass_through, tmp_path, cell):
    out = tmp_path / f"out.{cell[2]}"
    options = EncodeOptions(audio="copy" if cell[2] in ("mkv", "webm") else "transcode")
    _, sink = pass_through(rich_clip, out, options)
    with av.open(str(out)) as opened:
        kinds = {s.type: s for s in opened.streams}
        found = {
            "subtitles (SRT)": "subtitle" in kinds,
            "chapters": [c["metadata"].get("title") for c in opened.chapters()] == ["One"],
            "attached font": "attachment" in kinds,
            "title": {k.lower(): v for k, v in opened.metadata.items()}.get("title") == "A title",
            "language of the sound": kinds["audio"].language in ("deu", "ger"),
        }[cell[1]]
    word = {"subtitles (SRT)": "subtitle", "attached font": "attachment"}.get(cell[1], cell[1].split()[0])
    note(cell, "kept" if found else f"left out {said(sink.notices, word)}")


SHAPE_CELLS = [
    cell
    for name in ("turned by 90", "turned by 180", "mirrored", "pixel aspect 16:11", "63x47", "two fields")
    for cell in row("Shape", name, ("H.264 .mp4", "FFV1 .mkv"))
]


@pytest.mark.parametrize("cell", SHAPE_CELLS, ids="-".join)
def test_shape(make_clip, pass_through, tmp_path, cell):
    changes = {
        "turned by 90": {"rotation": 90},
        "turned by 180": {"rotation": 180},
        "mirrored": {"hflip": True},
        "pixel aspect 16:11": {"aspect": Fraction(16, 11)},
        "63x47": {"size": (47, 63), "pix_fmt": "yuv444p"},
        "two fields": {"options": (("flags", "+ildct+ilme"), ("preset", "fast"))},
    }[cell[1]]
    clip = make_clip("in.mp4", **changes)
    container, options = OUTPUTS[cell[2]]
    source, sink = pass_through(clip, tmp_path / f"out.{container}", options)
    with open_source(str(tmp_path / f"out.{container}"), InputOptions(deinterlace="off")) as out:
        assert out.info.size == source.info.size
        assert (out.info.rotation, out.info.is_mirrored, out.info.is_interlaced) == (0, False, False)
        aspects = (out.info.sample_aspect_ratio or 1, source.info.sample_aspect_ratio or 1)
    if cell[1] == "two fields":
        note(cell, f"one frame for both {said(source.notices, 'deinterlaced')}")
    else:
        if cell[1] == "pixel aspect 16:11" and cell[2].startswith("FFV1"):
            note(cell, f"in the stream only {said(sink.notices, 'pixels')}")
            return
        assert aspects[0] == aspects[1]
        note(cell, "applied to the pixels" if source.info.rotation or source.info.is_mirrored else "kept")
        assert sink.notices == []


def render() -> str:
    parts = [
        "# What is kept on the way from file to file",
        "Written by `FLASHVSR_WRITE_FIDELITY=1 pytest tests/video/test_fidelity.py`; the same tests compare it with"
        " what they measure, so it cannot rot. Every cell is a clip made on the spot, read and written as `upscale`"
        ' does, and read back. "(said)" means that a notice or the error message names it and what to do.',
    ]
    for section, rows in MEASURED.items():
        columns = list(next(iter(rows.values())))
        parts.append(f"## {section}")
        lines = ["| | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
        lines += [
            f"| {name} | " + " | ".join(cells.get(c, "-") for c in columns) + " |" for name, cells in rows.items()
        ]
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def test_document_says_what_was_measured():
    measured = {(s, n, c) for s, rows in MEASURED.items() for n, cells in rows.items() for c in cells}
    if measured != set(ALL):
        pytest.skip("only a part of the table was measured in this run")
    document = DOCUMENT.read_text() if DOCUMENT.exists() else ""
    measured_part, mark, notes = document.partition(NOTES)
    if os.environ.get("FLASHVSR_WRITE_FIDELITY"):
        measured_part = render()
        DOCUMENT.write_text(measured_part + mark + notes)
    assert measured_part == render()
