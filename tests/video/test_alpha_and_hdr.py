"""Transparency, HDR metadata, fields: what must come through beside plain colours."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from flashvsr_cli.errors import OutputError, UsageError
from flashvsr_cli.options import EncodeOptions, InputOptions
from flashvsr_cli.video.encoding import ALPHA_EXTENSIONS
from flashvsr_cli.video.hdr import read_hdr
from flashvsr_cli.video.reader import open_source

DISPLAY = "G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(10000000,50)"
HDR10 = (("preset", "ultrafast"), ("x265-params", f"log-level=error:master-display={DISPLAY}:max-cll=1000,400"))
PQ = (1, 9, 16, 9)


def write_alpha_clip(path, codec, pix_fmt, n_frames=4, options=None):
    ramp = np.arange(64, dtype=np.uint8) * 4
    with av.open(str(path), "w") as out:
        stream = out.add_stream(codec, rate=25, options=options or {})
        stream.height, stream.width, stream.pix_fmt = 48, 64, pix_fmt
        for i in range(n_frames):
            image = np.full((48, 64, 4), 90 + i, np.uint8)
            image[..., 3] = ramp
            picture = av.VideoFrame.from_ndarray(image, "rgba").reformat(format=pix_fmt)
            picture.pts = i
            out.mux(stream.encode(picture))
        out.mux(stream.encode(None))
    return path, ramp


ALPHA_TOLERANCES = {"prores_ks": 1, "prores_aw": 1, "libvpx-vp9": 6}
ALPHA_CASES = [
    ("mkv", "ffv1", "yuva444p", 0),
    ("mkv", "ffv1", "yuva444p10le", 0),
    ("mov", "prores_ks", "yuva444p10le", 1),
    ("webm", None, "yuva420p", 6),
    ("webm", None, "yuva444p", 6),
    ("webm", None, "yuva444p10le", 6),
    ("mov", "qtrle", "yuva420p", 0),
    ("mov", "png", "yuva444p10le", 1),
    *(
        (extension, codec, "bgra", ALPHA_TOLERANCES.get(codec, 0))
        for codec, extensions in ALPHA_EXTENSIONS.items()
        for extension in extensions
    ),
]


@pytest.mark.parametrize(("target", "codec", "pix_fmt", "tolerance"), ALPHA_CASES)
def test_transparency_survives_in_videos(tmp_path, pass_through, target, codec, pix_fmt, tolerance):
    clip, ramp = write_alpha_clip(tmp_path / "in.mkv", "ffv1", pix_fmt)
    out = tmp_path / f"out.{target}"
    _, sink = pass_through(clip, out, EncodeOptions(codec=codec), scale=1)
    assert not any("transparency" in notice for notice in sink.notices)
    with open_source(str(out)) as source:
        assert source.info.has_alpha
        alphas = [frame.alpha for frame in source]
    assert len(alphas) == 4
    with open_source(str(clip)) as source:
        before = list(source)[-1].alpha
    assert np.abs(before / np.iinfo(before.dtype).max * 255 - ramp[None]).max() <= 1
    after, before = (a / np.iinfo(a.dtype).max * 255 for a in (alphas[-1], before))
    assert np.abs(after - before).max() <= tolerance


@pytest.mark.parametrize(
    ("codec", "target", "advice"), [("utvideo", "mkv", ".avi."), ("qtrle", "avi", ".mov."), ("ffv1", "mov", ".mkv.")]
)
def test_a_container_without_the_codec_is_refused_with_those_that_have_it(
    make_clip, pass_through, tmp_path, codec, target, advice
):
    with pytest.raises(OutputError, match=f"cannot hold video encoded by {codec}") as caught:
        pass_through(make_clip("in.mp4", pts=(0, 1)), tmp_path / f"out.{target}", EncodeOptions(codec=codec))
    assert caught.value.next_step == f"Use another --codec, or give the output the extension {advice}"


def test_transparency_is_enlarged_with_the_picture(tmp_path, pass_through):
    clip, _ = write_alpha_clip(tmp_path / "in.mkv", "ffv1", "yuva444p")
    pass_through(clip, tmp_path / "out.mkv", EncodeOptions(codec="ffv1"), scale=4)
    with open_source(str(tmp_path / "out.mkv")) as source:
        alpha = next(iter(source)).alpha.astype(int)
    assert alpha.shape == (192, 256)
    centers = (np.arange(256) + 0.5) / 4 - 0.5
    assert np.abs(alpha[:, 8:-8] - (centers * 4)[None, 8:-8]).max() <= 1.5
    assert (np.diff(alpha[90]) >= 0).all()


def test_what_cannot_hold_transparency_says_so(tmp_path, pass_through):
    clip, _ = write_alpha_clip(tmp_path / "in.mkv", "ffv1", "yuva444p")
    _, sink = pass_through(clip, tmp_path / "out.mp4", EncodeOptions(preset="ultrafast"))
    assert any("no transparency" in notice and "prores_ks" in notice for notice in sink.notices)


@pytest.mark.parametrize(
    ("codec", "container"), [("libx265", "mp4"), ("libx265", "mkv"), ("libx264", "mkv"), ("libsvtav1", "mp4")]
)
def test_hdr_metadata_survives(make_clip, pass_through, tmp_path, codec, container):
    clip = make_clip(
        "in.mp4", codec="libx265", pix_fmt="yuv420p10le", options=HDR10, color=PQ, pts=(0, 1, 2), size=(64, 96)
    )
    out = tmp_path / f"out.{container}"
    preset = "12" if codec == "libsvtav1" else "ultrafast"
    source, sink = pass_through(clip, out, EncodeOptions(codec=codec, preset=preset))
    assert not source.info.hdr.is_empty
    assert source.info.hdr.light == (1000, 400)
    assert source.info.hdr.display.white == (Fraction(15635, 50000), Fraction(16450, 50000))
    assert sink.notices == []
    with av.open(str(out)) as opened:
        picture = next(opened.decode(video=0))
        assert (picture.color_range, picture.color_primaries, picture.color_trc, picture.colorspace) == PQ
        assert picture.format.name == "yuv420p10le"
        got = read_hdr(picture)
    assert got.light == (1000, 400)
    wanted, stored = source.info.hdr.display, got.display
    for name in ("red", "green", "blue", "white"):
        assert all(
            abs(a - b) <= Fraction(1, 2**16) for a, b in zip(getattr(wanted, name), getattr(stored, name), strict=True)
        )
    assert abs(wanted.brightest - stored.brightest) < Fraction(1, 100)
    assert abs(wanted.darkest - stored.darkest) < Fraction(1, 10000)


def test_encoders_without_hdr_metadata_say_so(make_clip, pass_through, tmp_path):
    clip = make_clip("in.mp4", codec="libx265", pix_fmt="yuv420p10le", options=HDR10, color=PQ, pts=(0, 1, 2))
    _, sink = pass_through(clip, tmp_path / "out.mkv", EncodeOptions(codec="ffv1"))
    assert any("mastering display" in notice and "libx265" in notice for notice in sink.notices)


def field_clip(path, codec="libx264", n_frames=8):
    """A bar that moves from field to field: combed unless the fields are separated."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream(codec, rate=25, options={"flags": "+ildct+ilme", "preset": "fast", "crf": "4"})
        stream.height, stream.width, stream.pix_fmt = 96, 128, "yuv420p"
        for i in range(n_frames):
            luma = np.full((96, 128), 40, np.uint8)
            for field in range(2):
                at = 10 + 8 * (2 * i + field)
                luma[field::2, at : at + 10] = 200
            image = np.concatenate([luma.reshape(-1), np.full(96 * 128 // 2, 128, np.uint8)]).reshape(-1, 128)
            picture = av.VideoFrame.from_ndarray(image, "yuv420p")
            picture.pts = 3 * i
            picture.time_base = Fraction(1, 75)
            out.mux(stream.encode(picture))
        out.mux(stream.encode(None))
    return path


def combing(image):
    luma = image[..., 1].astype(int)
    return np.abs(2 * luma[1:-1] - luma[:-2] - luma[2:]).mean()


@pytest.mark.parametrize("n_frames", [1, 2, 8])
def test_fields_become_frames_one_for_one(tmp_path, n_frames):
    clip = field_clip(tmp_path / "in.mkv", n_frames=n_frames)
    with open_source(str(clip), InputOptions(deinterlace="off")) as source:
        assert source.info.is_interlaced
        assert any("--deinterlace" in notice for notice in source.notices)
        before = list(source)
    with open_source(str(clip)) as source:
        assert any("bwdif" in notice for notice in source.notices)
        after = list(source)
    assert [(f.pts, f.duration) for f in after] == [(f.pts, f.duration) for f in before]
    assert len(after) == n_frames
    if n_frames > 2:
        assert combing(after[4].image) < 0.2 * combing(before[4].image)


def test_progressive_pictures_are_left_alone(make_clip, decode):
    clip = make_clip("in.mp4")
    with open_source(str(clip), InputOptions(deinterlace="off")) as source:
        plain = [f.image for f in source]
    assert all(np.array_equal(a, b) for a, b in zip(plain, decode(clip), strict=True))
    with open_source(str(clip), InputOptions(deinterlace="on")) as source:
        assert len(list(source)) == 12


def test_interlaced_y4m(tmp_path, y4m_stream):
    data, _ = y4m_stream("420", n_frames=3)
    (tmp_path / "in.y4m").write_bytes(data.replace(b" Ip ", b" It ", 1))
    with open_source(str(tmp_path / "in.y4m")) as source:
        assert source.info.is_interlaced
        assert [f.pts for f in source] == [0, 1, 2]


@pytest.mark.parametrize(
    ("purpose", "container", "codec", "pix_fmt"),
    [
        ("archive", "mkv", "ffv1", "yuv420p10le"),
        ("archive", "mp4", "h264", "yuv420p10le"),
        ("share", "mp4", "h264", "yuv420p"),
        ("edit", "mov", "prores", "yuv422p10le"),
    ],
)
def test_purposes(make_clip, pass_through, tmp_path, purpose, container, codec, pix_fmt):
    clip = make_clip("in.mkv", codec="ffv1", pix_fmt="yuv420p10le", options=(), pts=(0, 1, 2))
    out = tmp_path / f"out.{container}"
    pass_through(clip, out, EncodeOptions(purpose=purpose))
    with av.open(str(out)) as opened:
        assert (opened.streams.video[0].codec_context.name, opened.streams.video[0].pix_fmt) == (codec, pix_fmt)
        after = [f.to_ndarray() for f in opened.decode(video=0)]
    with av.open(str(clip)) as opened:
        before = [f.to_ndarray() for f in opened.decode(video=0)]
    if purpose == "archive":
        assert max(np.abs(a.astype(int) - b.astype(int)).max() for a, b in zip(after, before, strict=True)) <= 4


def test_a_purpose_without_recipe_is_refused(make_clip, pass_through, tmp_path):
    with pytest.raises(UsageError, match="no encoding for the purpose edit"):
        pass_through(make_clip("in.mkv"), tmp_path / "out.webm", EncodeOptions(purpose="edit"))


def test_encoder_options_win(make_clip, pass_through, tmp_path):
    clip = make_clip("in.mkv", pts=tuple(range(10)))
    options = EncodeOptions(preset="ultrafast", encoder_options=(("g", "2"), ("x264-params", "scenecut=0")))
    _, sink = pass_through(clip, tmp_path / "out.mkv", options)
    assert sink.facts()["encoder_options"]["g"] == "2"
    with av.open(str(tmp_path / "out.mkv")) as opened:
        assert [p.is_keyframe for p in opened.demux(video=0) if p.size] == [True, False] * 5


def test_a_misspelt_encoder_option_is_refused(make_clip, pass_through, tmp_path):
    clip = make_clip("in.mkv")
    with pytest.raises((OutputError, UsageError), match="nosuchoption"):
        pass_through(clip, tmp_path / "out.mkv", EncodeOptions(encoder_options=(("nosuchoption", "1"),)))
    assert [p.name for p in tmp_path.iterdir()] == ["in.mkv"]


@pytest.mark.skipif(Path("/dev/nvidia0").exists(), reason="what a machine without the card does")
@pytest.mark.parametrize(("codec", "instead"), [("h264_nvenc", "libx264"), ("hevc_nvenc", "libx265")])
def test_without_its_card_an_encoder_for_the_cpu_takes_its_place_and_says_so(
    make_clip, pass_through, tmp_path, codec, instead
):
    clip = make_clip("in.mkv", size=(256, 256))
    _, sink = pass_through(clip, tmp_path / "out.mkv", EncodeOptions(codec=codec, crf=30))
    assert sink.facts()["codec"] == instead
    assert sink.facts()["encoder_options"]["crf"] == "30"
    assert any(text.startswith(f"{codec} does not work on this machine") for text in sink.notices)


@pytest.mark.skipif(Path("/dev/nvidia0").exists(), reason="what a machine without the card does")
def test_settings_that_only_the_cards_encoder_knows_are_not_guessed_at(make_clip, pass_through, tmp_path):
    clip = make_clip("in.mkv", size=(256, 256))
    with pytest.raises(OutputError, match=r"hevc_nvenc does not work on this machine") as caught:
        pass_through(clip, tmp_path / "out.mkv", EncodeOptions(codec="hevc_nvenc", preset="p5"))
    assert "libx265" in caught.value.next_step
    assert [p.name for p in tmp_path.iterdir()] == ["in.mkv"]


def test_absurd_sizes_are_refused_before_work(make_clip, tmp_path):
    from flashvsr_cli.errors import InputError
    from flashvsr_cli.video.writer import open_sink

    clip = make_clip("in.mkv")
    with open_source(str(clip)) as source, pytest.raises(OutputError, match="limit of 268,435,456 pixels") as caught:
        open_sink(str(tmp_path / "out.mkv"), source, (20000, 20000))
    assert "--max-pixels" in caught.value.next_step
    with pytest.raises(InputError, match="64x48, more than the limit"):
        open_source(str(clip), InputOptions(max_pixels=3000))
    (tmp_path / "in.y4m").write_bytes(b"YUV4MPEG2 W60000 H60000 F25:1\nFRAME\n")
    with pytest.raises(InputError, match="60000x60000, more than the limit"):
        open_source(str(tmp_path / "in.y4m"))
