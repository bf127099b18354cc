"""What a container says must come out of the other end: times, sound, tags, shape."""

from fractions import Fraction

import av
import numpy as np
import pytest

from flashvsr_cli.errors import OutputError, UsageError
from flashvsr_cli.options import EncodeOptions
from flashvsr_cli.video.container_writer import plausible_dts
from flashvsr_cli.video.reader import open_source

FAST = EncodeOptions(preset="ultrafast")
VFR_PTS = (0, 40, 45, 160, 161, 400, 433, 900, 901, 902, 1500, 1533)
VFR_DURATIONS = (40, 5, 115, 1, 239, 33, 467, 1, 1, 598, 33, 50)
B_FRAMES = (("preset", "medium"), ("bf", "3"), ("crf", "10"))


def times(packet_list):
    return sorted((pts, duration) for pts, _, duration, _ in packet_list)


def shown_duration(path):
    """Seconds from the first picture to the end of the last: MP4's movie header (edit lists applied), or Matroska's."""
    data = path.read_bytes()
    if path.suffix == ".mkv":
        with av.open(str(path)) as container:
            return Fraction(container.duration, 1000000)
    at = data.rindex(b"mvhd")  # before it, inside the pictures, lies what made the file readable while it grew
    assert data[at + 4] == 0
    return Fraction(int.from_bytes(data[at + 20 : at + 24], "big"), int.from_bytes(data[at + 16 : at + 20], "big"))


def test_exact_odd_frame_rate_and_every_time_survive(make_clip, pass_through, packets, tmp_path):
    rate = Fraction(45000, 1499)
    clip = make_clip("in.mp4", pts=tuple(2998 * i for i in range(12)), time_base=Fraction(1, 90000), rate=rate)
    pass_through(clip, tmp_path / "out.mp4", FAST, scale=2)
    with av.open(str(tmp_path / "out.mp4")) as out:
        assert out.streams.video[0].average_rate == rate
        assert (out.streams.video[0].height, out.streams.video[0].width) == (96, 128)
    assert times(packets(tmp_path / "out.mp4", "video")) == times(packets(clip, "video"))
    assert [p for p, *_ in sorted(packets(tmp_path / "out.mp4", "video"))] == [
        Fraction(2998 * i, 90000) for i in range(12)
    ]


@pytest.mark.parametrize("container", ["mp4", "mkv", "mov"])
@pytest.mark.parametrize("encoder_options", [B_FRAMES, (("preset", "ultrafast"),)], ids=["b-frames", "no-b-frames"])
def test_variable_frame_rate_stays_variable(make_clip, pass_through, packets, tmp_path, container, encoder_options):
    clip = make_clip(
        f"in.{container}",
        pts=VFR_PTS,
        durations=VFR_DURATIONS,
        time_base=Fraction(1, 1000),
        options=encoder_options,
    )
    out = tmp_path / f"out.{container}"
    pass_through(clip, out, EncodeOptions(preset="medium"))
    assert [p for p, *_ in sorted(packets(out, "video"))] == [Fraction(p, 1000) for p in VFR_PTS]
    assert shown_duration(out) == shown_duration(clip)
    if container != "mkv" and encoder_options is not B_FRAMES:
        # With B-frames the durations in MP4 are distances of decoding times; Matroska states none for H.264.
        assert [d for _, d in times(packets(clip, "video"))] == [Fraction(d, 1000) for d in VFR_DURATIONS]
        with open_source(str(clip)) as source:
            assert [frame.duration * source.info.time_base for frame in source] == [
                Fraction(d, 1000) for d in VFR_DURATIONS
            ]


@pytest.mark.parametrize("container", ["mp4", "mkv"])
def test_start_offset_survives(make_clip, pass_through, packets, tmp_path, container):
    clip = make_clip(f"in.{container}", pts=tuple(range(37, 49)), n_audio=1)
    out = tmp_path / f"out.{container}"
    pass_through(clip, out, FAST)
    first = min(p for p, *_ in packets(clip, "video"))
    assert abs(first - Fraction(37, 25)) < Fraction(1, 40)
    assert times(packets(out, "video")) == times(packets(clip, "video"))
    assert packets(out, "audio") == packets(clip, "audio")


@pytest.mark.parametrize("container", ["mp4", "mkv", "mov"])
def test_all_audio_tracks_are_copied_packet_for_packet(make_clip, pass_through, packets, tmp_path, container):
    clip = make_clip(f"in.{container}", pts=tuple(range(80)), n_audio=2)
    out = tmp_path / f"out.{container}"
    _, sink = pass_through(clip, out, EncodeOptions(preset="medium"))
    for track in range(2):
        expected = packets(clip, "audio", track)
        assert len(expected) > 100
        assert packets(out, "audio", track) == expected
    assert sink.facts()["copied_tracks"] == 2


def test_output_is_interleaved_although_the_pictures_lag(make_clip, pass_through, tmp_path):
    clip = make_clip("in.mp4", pts=tuple(range(200)), n_audio=1)
    pass_through(clip, tmp_path / "out.mp4", EncodeOptions(preset="medium"))
    with av.open(str(tmp_path / "out.mp4")) as out:
        positions = sorted((p.pos, p.stream.type, p.dts * p.time_base) for p in out.demux() if p.size)
    last_of = {"video": Fraction(0), "audio": Fraction(0)}
    for _, kind, time in positions:
        last_of[kind] = time
        assert abs(last_of["video"] - last_of["audio"]) < Fraction(3, 2)


def test_audio_that_does_not_fit_is_refused_before_any_work(make_clip, tmp_path, pass_through):
    clip = make_clip("in.mp4", n_audio=1)
    with pytest.raises(OutputError, match=r"out\.webm.*audio track 1 \(aac") as caught:
        pass_through(clip, tmp_path / "out.webm")
    assert ".mkv" in caught.value.next_step
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.mp4"]


@pytest.mark.parametrize(
    ("rotation", "hflip"), [(90, False), (180, False), (-90, False), (0, True), (90, True), (180, True), (-90, True)]
)
def test_rotation_is_applied_to_the_pixels(make_clip, decode, pass_through, tmp_path, rotation, hflip):
    stored = np.array(decode(make_clip("plain.mp4"))[0])
    clip = make_clip("in.mp4", rotation=rotation, hflip=hflip)
    with av.open(str(clip)) as container:
        matrix = np.frombuffer(bytes(next(container.decode(video=0)).side_data["DISPLAYMATRIX"]), np.int32)
    a, b, c, d = np.sign(matrix[[0, 1, 3, 4]])
    height, width = stored.shape[:2]
    rows, columns = np.mgrid[0:height, 0:width]
    x, y = a * columns + c * rows, b * columns + d * rows  # the matrix's definition, pixel by pixel
    x, y = x - x.min(), y - y.min()
    expected = np.zeros((y.max() + 1, x.max() + 1, 3), np.uint8)
    expected[y, x] = stored
    source, _ = pass_through(clip, tmp_path / "out.mkv", EncodeOptions(codec="ffv1", pix_fmt="bgr0"))
    assert source.info.size == expected.shape[:2]
    assert np.array_equal(decode(clip)[0], expected)
    assert np.array_equal(decode(tmp_path / "out.mkv")[0], expected)


def test_rotation_by_a_known_quarter_turn(make_clip, decode):
    """FFmpeg's rotation is counter-clockwise: a clip marked 90 is displayed turned to the left."""
    stored = np.array(decode(make_clip("plain.mp4"))[0])
    assert np.array_equal(decode(make_clip("in.mp4", rotation=90))[0], np.rot90(stored, 1))


@pytest.mark.parametrize("rotation", [0, 90])
def test_pixel_aspect_survives(make_clip, pass_through, tmp_path, rotation):
    clip = make_clip("in.mp4", aspect=Fraction(16, 11), rotation=rotation)
    pass_through(clip, tmp_path / "out.mp4", FAST)
    with av.open(str(tmp_path / "out.mp4")) as out:
        assert out.streams.video[0].sample_aspect_ratio == (Fraction(11, 16) if rotation else Fraction(16, 11))


@pytest.mark.parametrize("container", ["mp4", "mkv"])
@pytest.mark.parametrize("tags", [(1, 1, 1, 1), (2, 1, 13, 1), (1, 6, 6, 6), (1, 9, 16, 9), (2, 9, 18, 9)])
def test_color_tags_survive(make_clip, pass_through, tmp_path, container, tags):
    clip = make_clip(f"in.{container}", color=tags, pix_fmt="yuv420p10le")
    pass_through(clip, tmp_path / f"out.{container}", FAST)
    with av.open(str(tmp_path / f"out.{container}")) as out:
        context = out.streams.video[0].codec_context
        frame = next(out.decode(video=0))
        assert (context.color_range, context.color_primaries, context.color_trc, context.colorspace) == tags
        assert (frame.color_range, frame.color_primaries, frame.color_trc, frame.colorspace) == tags
        assert frame.format.name == "yuv420p10le"


def test_unstated_matrix_is_written_down_as_it_was_read(make_clip, pass_through, tmp_path):
    """Small pictures count as BT.601, large ones as BT.709: enlarging must not change the colours."""
    clip = make_clip("in.mp4", size=(96, 400))
    pass_through(clip, tmp_path / "out.mp4", FAST, scale=4)
    with av.open(str(tmp_path / "out.mp4")) as out:
        context = out.streams.video[0].codec_context
        assert context.width == 1600
        assert (context.color_range, context.color_primaries, context.color_trc, context.colorspace) == (
            0,
            2,
            2,
            6,
        ) or (
            context.color_range,
            context.color_primaries,
            context.color_trc,
            context.colorspace,
        ) == (1, 2, 2, 6)


@pytest.mark.parametrize("pix_fmt", ["yuv420p10le", "yuv422p10le", "yuv444p", "yuv444p10le", "yuv422p"])
def test_depth_and_chroma_are_kept_where_the_encoder_has_them(make_clip, pass_through, tmp_path, pix_fmt):
    clip = make_clip("in.mkv", codec="ffv1", pix_fmt=pix_fmt, options=())
    _, sink = pass_through(clip, tmp_path / "out.mp4", FAST)
    with av.open(str(tmp_path / "out.mp4")) as out:
        assert out.streams.video[0].pix_fmt == pix_fmt
    assert sink.notices == []


def test_odd_size_is_kept_by_full_chroma_and_announced(make_clip, pass_through, tmp_path):
    clip = make_clip("in.mkv", codec="ffv1", size=(47, 63), options=())
    _, sink = pass_through(clip, tmp_path / "out.mp4", FAST)
    with av.open(str(tmp_path / "out.mp4")) as out:
        stream = out.streams.video[0]
        assert (stream.height, stream.width, stream.pix_fmt) == (47, 63, "yuv444p")
    assert any("yuv444p" in notice and "63x47" in notice for notice in sink.notices)


@pytest.mark.parametrize(
    ("codec", "container", "decoder"),
    [
        ("libx265", "mp4", "hevc"),
        ("libsvtav1", "mkv", "av1"),
        ("libvpx-vp9", "webm", "vp9"),
        ("prores_ks", "mov", "prores"),
    ],
)
def test_encoders_by_name(make_clip, pass_through, packets, tmp_path, codec, container, decoder):
    clip = make_clip("in.mp4", size=(64, 96))
    out = tmp_path / f"out.{container}"
    _, sink = pass_through(clip, out, EncodeOptions(codec=codec))
    with av.open(str(out)) as written:
        assert decoder in written.streams.video[0].codec_context.codec.canonical_name
    assert [p for p, *_ in sorted(packets(out, "video"))] == [p for p, *_ in sorted(packets(clip, "video"))]
    assert sink.facts()["frames"] == 12


@pytest.mark.parametrize(
    ("pts", "dts", "kept"),
    [(0, 0, 0), (0, -32, -32), (40, 8, 8), (0, -33, 0), (0, -(2**34), 0), (0, 1, 0), (7, 2**40, 7), (3, None, None)],
)
def test_only_possible_decoding_times_are_kept(pts, dts, kept):
    assert plausible_dts(pts, dts, earliest=-32) == kept


@pytest.mark.parametrize("n_frames", [1, 2])
@pytest.mark.parametrize("codec", ["libx264", "libx265", "libsvtav1", "ffv1"])
def test_the_shortest_clips(make_clip, pass_through, packets, tmp_path, codec, n_frames):
    """libx265 gives one frame any decoding time: minus 2^34, or one after the frame itself."""
    clip = make_clip("in.mkv", pts=tuple(range(n_frames)), size=(64, 96))
    pass_through(clip, tmp_path / "out.mkv", EncodeOptions(codec=codec))
    assert [p for p, *_ in packets(tmp_path / "out.mkv", "video")] == [Fraction(i, 25) for i in range(n_frames)]


def test_encoder_options_reach_the_encoder(make_clip, pass_through, tmp_path):
    clip = make_clip("in.mp4", size=(96, 128))
    sizes = {}
    for crf in (10, 45):
        pass_through(clip, tmp_path / f"out{crf}.mp4", EncodeOptions(crf=crf, preset="ultrafast"))
        sizes[crf] = (tmp_path / f"out{crf}.mp4").stat().st_size
    assert sizes[10] > 2 * sizes[45]


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        (EncodeOptions(codec="libx999"), OutputError, "libx264"),
        (EncodeOptions(codec="ffv1", crf=3), UsageError, "crf"),
        (EncodeOptions(codec="ffv1", preset="fast"), UsageError, "preset"),
        (EncodeOptions(preset="warp"), OutputError, "preset"),
        (EncodeOptions(pix_fmt="yuv411p"), OutputError, "yuv420p"),
        (EncodeOptions(pix_fmt="nonsense"), OutputError, "yuv420p"),
        (EncodeOptions(codec="aac"), UsageError, "libx264"),
    ],
)
def test_impossible_encoding_fails_before_work_and_says_what_to_do(
    make_clip, pass_through, tmp_path, options, error, words
):
    clip = make_clip("in.mkv")
    with pytest.raises(error) as caught:
        pass_through(clip, tmp_path / "out.mkv", options)
    assert words in caught.value.next_step
    assert [p.name for p in tmp_path.iterdir()] == ["in.mkv"]


def test_title_and_language_survive(make_clip, pass_through, tmp_path):
    clip = make_clip("in.mkv", title="A title", n_audio=1)
    pass_through(clip, tmp_path / "out.mkv", FAST)
    with av.open(str(tmp_path / "out.mkv")) as out:
        assert {k.lower(): v for k, v in out.metadata.items()}["title"] == "A title"


def test_facts_before_reading(make_clip):
    clip = make_clip("in.mp4", n_audio=1, options=B_FRAMES)
    with open_source(str(clip)) as source:
        info = source.info
    assert (info.n_frames, info.n_frames_is_exact, info.kind) == (12, True, "video")
    assert (info.frame_rate, info.duration) == (25, Fraction(12, 25))
    assert [(t.kind, t.codec) for t in info.tracks] == [("audio", "aac")]
    assert info.facts()["frame_rate"] == "25"


def test_cover_picture_is_not_the_video(make_clip, tmp_path, decode):
    plain = make_clip("plain.mp4")
    clip = tmp_path / "cover.mp4"
    with av.open(str(plain)) as source, av.open(str(clip), "w") as out:
        cover = out.add_stream("png", rate=1)
        cover.height, cover.width, cover.pix_fmt = 16, 16, "rgb24"
        cover.disposition = av.stream.Disposition.attached_pic
        video = out.add_stream_from_template(source.streams.video[0])
        picture = av.VideoFrame.from_ndarray(np.full((16, 16, 3), 9, np.uint8), "rgb24")
        cover_packets = [*cover.encode(picture), *cover.encode(None)]
        out.mux(cover_packets)
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = video
                out.mux(packet)
    with av.open(str(clip)) as check:
        assert check.streams.video[0].disposition & av.stream.Disposition.attached_pic or len(check.streams.video) == 2
    frames = decode(clip)
    assert len(frames) == 12
    assert frames[0].shape == (48, 64, 3)


SUBTITLES = "1\n00:00:00,100 --> 00:00:00,900\nHello\n\n2\n00:00:01,000 --> 00:00:01,500\nWorld\n"


@pytest.fixture
def full_clip(make_clip, tmp_path):
    """Matroska with sound, subtitles, two chapters and a font."""
    plain = make_clip("plain.mkv", n_audio=1, pts=tuple(range(50)))
    (tmp_path / "text.srt").write_text(SUBTITLES)
    chapters = [
        {
            "id": i,
            "start": 1000 * i,
            "end": 1000 * (i + 1),
            "time_base": Fraction(1, 1000),
            "metadata": {"title": title},
        }
        for i, title in enumerate(["One", "Two"])
    ]
    clip = tmp_path / "full.mkv"
    with av.open(str(plain)) as media, av.open(str(tmp_path / "text.srt")) as text, av.open(str(clip), "w") as out:
        streams = {s.index: out.add_stream_from_template(s) for s in media.streams}
        subtitles = out.add_stream_from_template(text.streams[0])
        subtitles.metadata["language"] = "fra"
        out.add_attachment("font.ttf", "font/ttf", b"abcdef" * 10)
        out.set_chapters(chapters)
        packets = [(p, streams[p.stream.index]) for p in media.demux() if p.size]
        packets += [(p, subtitles) for p in text.demux() if p.size]
        for packet, stream in sorted(packets, key=lambda pair: pair[0].dts * pair[0].time_base):
            packet.stream = stream
            out.mux(packet)
    return clip


def test_subtitles_chapters_and_attachments_survive_in_matroska(full_clip, pass_through, packets, tmp_path):
    _, sink = pass_through(full_clip, tmp_path / "out.mkv", FAST)
    assert sink.notices == []
    assert packets(tmp_path / "out.mkv", "subtitle") == packets(full_clip, "subtitle")
    assert [p[3] for p in packets(tmp_path / "out.mkv", "subtitle")] == [b"Hello", b"World"]
    with av.open(str(tmp_path / "out.mkv")) as out:
        assert [(c["start"] * c["time_base"], c["metadata"]["title"]) for c in out.chapters()] == [
            (0, "One"),
            (1, "Two"),
        ]
        assert {s.type: s.language for s in out.streams}["subtitle"] == "fra"
        font = next(s for s in out.streams if s.type == "attachment")
        assert (font.name, font.data) == ("font.ttf", b"abcdef" * 10)


def test_what_mp4_cannot_hold_is_named(full_clip, pass_through, packets, tmp_path):
    _, sink = pass_through(full_clip, tmp_path / "out.mp4", FAST)
    assert [p[3] for p in packets(tmp_path / "out.mp4", "audio")] == [p[3] for p in packets(full_clip, "audio")]
    assert len(sink.notices) == 2
    assert "subtitle track 2 (srt, fra)" in sink.notices[0]
    assert "attachment track 3" in sink.notices[1]
    assert all(".mkv" in notice for notice in sink.notices)


@pytest.mark.parametrize("n_frames", [2, 3, 24])
@pytest.mark.parametrize("target", ["out.mp4", "out.mov"])
def test_a_movie_counted_in_milliseconds_keeps_the_duration_of_its_last_picture(
    make_clip, pass_through, packets, tmp_path, n_frames, target
):
    rate = Fraction(30000, 1001)
    clip = make_clip("in.mov", pts=tuple(range(n_frames)), rate=rate, time_base=1 / rate, options=B_FRAMES)
    pass_through(clip, tmp_path / target, FAST)
    assert {duration for _, _, duration, _ in packets(tmp_path / target, "video")} == {1 / rate}
    with av.open(str(tmp_path / target)) as out:
        assert out.streams.video[0].average_rate == rate
