"""Pictures look the same when read back by what the output states, and by the rule for untagged ones elsewhere.

What encoders and containers can state stands in `flashvsr_cli.video.stating`; most lines of it are measured here.
"""

from fractions import Fraction

import av
import numpy as np
import pytest

from flashvsr_cli.options import EncodeOptions
from flashvsr_cli.video.info import ColorTags
from flashvsr_cli.video.pixels import FromRgb, resolve_color
from flashvsr_cli.video.reader import open_source
from flashvsr_cli.video.stating import BT601_TWINS, states_aspect

LIMITED, FULL = 1, 2
EXACT = {
    "ffv1": ("mkv", "mp4", "avi"),
    "ffvhuff": ("avi",),
    "utvideo": ("avi",),
    "magicyuv": ("avi", "mov"),
    "jpeg2000": ("mp4", "mov", "mkv", "avi"),
}
LOSSY = {
    "libx264": ("mp4", "m4v", "mov", "mkv", "avi", "ts", "flv"),
    "libx265": ("mp4", "mov", "mkv", "ts", "flv"),
    "libsvtav1": ("mp4", "mkv", "webm", "avi"),
    "libvpx-vp9": ("mp4", "mkv", "webm", "avi", "flv"),
    "libvpx": ("mkv", "webm", "avi"),
    "prores_ks": ("mov", "mkv"),
    "prores_aw": ("mov", "mkv"),
    "mpeg4": ("mp4", "m4v", "mov", "mkv", "avi", "ts"),
    "mjpeg": ("mp4", "mov", "mkv", "avi"),
    "mpeg2video": ("mp4", "mov", "mkv", "avi", "ts"),
    "mpeg1video": ("mp4", "mov", "mkv", "avi", "ts"),
    "dnxhd": ("mov",),
    "cfhd": ("mov", "avi"),
    "v210": ("mov", "avi"),
    "huffyuv": ("avi",),
    "snow": ("mkv", "avi"),
    "speedhq": ("avi",),
}
PAIRS = [(codec, container) for codec, held in {**EXACT, **LOSSY}.items() for container in held]
OPTIONS = {
    "dnxhd": (("profile", "dnxhr_hq"),),
    "libx264": (("preset", "ultrafast"),),
    "libx265": (("preset", "ultrafast"),),
    "libvpx-vp9": (("cpu-used", "8"),),
    "libsvtav1": (("preset", "12"),),
    "mpeg2video": (("b", "20M"),),
    "mpeg1video": (("b", "20M"),),
    "snow": (("flags", "+qscale"), ("global_quality", "118")),
    "speedhq": (("flags", "+qscale"), ("global_quality", "118")),
}
PQ_FULL, BT709_FULL, BT601_LIMITED, JPEG = (2, 9, 16, 9), (2, 1, 1, 1), (1, 6, 6, 6), (2, 2, 2, 5)
GREYS = np.repeat(np.array([20, 128, 240], np.uint8)[:, None], 3, 1)
PATCHES = np.array(
    [[30, 199, 40], [200, 40, 40], [40, 60, 200], [20, 20, 20], [128, 128, 128], [240, 240, 240]], np.uint8
)
SIZE = (128, 288)


def write_patches(path, codec, pix_fmt, tags, patches, size=SIZE):
    """A clip of upright stripes in these colours (n, 3), stored exactly by these tags."""
    image = np.ascontiguousarray(np.broadcast_to(patches.repeat(size[1] // len(patches), 0), (*size, 3)))
    color = ColorTags(*tags)
    from_rgb = FromRgb(pix_fmt, resolve_color(color, pix_fmt, size))
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options={"qmin": "1", "qmax": "1"} if codec == "mjpeg" else {})
        stream.height, stream.width, stream.pix_fmt = *size, pix_fmt
        context = stream.codec_context
        context.color_range, context.color_primaries, context.color_trc, context.colorspace = tags
        for index in range(10):
            picture = from_rgb(image)
            picture.pts, picture.time_base = index, Fraction(1, 25)
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    return path


def middles(decode, path, n_patches):
    """The colours in the middle of the stripes: (n, 3), on a scale of 255."""
    image = decode(path)[0]
    height, width, _ = image.shape
    at = (2 * np.arange(n_patches) + 1) * width // (2 * n_patches)
    found = image[height // 2, at].astype(float)
    return found / 257 if image.dtype == np.uint16 else found


def encode_options(codec):
    pix_fmt = "yuv422p" if codec == "dnxhd" else None  # this profile has no other
    return EncodeOptions(codec=codec, pix_fmt=pix_fmt, encoder_options=OPTIONS.get(codec, ()))


@pytest.mark.parametrize(("codec", "container"), PAIRS)
def test_full_range_source_keeps_its_greys(pass_through, decode, tmp_path, codec, container):
    clip = write_patches(tmp_path / "in.avi", "mjpeg", "yuvj420p", JPEG, GREYS)
    before = middles(decode, clip, 3)
    assert np.abs(before - GREYS).max() <= 1
    pass_through(clip, tmp_path / f"out.{container}", encode_options(codec))
    # One level for each rounding to 8 bits (219 levels in limited range), and what the codec loses.
    assert np.abs(middles(decode, tmp_path / f"out.{container}", 3) - before).max() <= (1 if codec in EXACT else 3)


@pytest.mark.parametrize("tags", [BT601_LIMITED, (1, 2, 2, 2)])
@pytest.mark.parametrize(("codec", "container"), PAIRS)
def test_colours_survive_a_size_of_another_rule(pass_through, decode, tmp_path, codec, container, tags):
    clip = write_patches(tmp_path / "in.mkv", "ffv1", "yuv444p", tags, PATCHES, (48, 288))
    before = middles(decode, clip, len(PATCHES))
    pass_through(clip, tmp_path / f"out.{container}", encode_options(codec), scale=5)
    after = middles(decode, tmp_path / f"out.{container}", len(PATCHES))
    # Another matrix rounds all three channels once more: at most 2 levels of blue.
    assert np.abs(after - before).max() <= (3 if codec in EXACT else 5)


@pytest.mark.parametrize("tags", [PQ_FULL, BT709_FULL, BT601_LIMITED, JPEG, (1, 9, 2, 9), (1, 7, 7, 7)])
@pytest.mark.parametrize(("codec", "container"), PAIRS)
def test_output_reads_back_by_the_tags_that_it_was_stored_by(pass_through, tmp_path, codec, container, tags):
    clip = write_patches(tmp_path / "in.mkv", "ffv1", "yuv420p", tags, PATCHES)
    _, sink = pass_through(clip, tmp_path / f"out.{container}", encode_options(codec))
    with open_source(str(tmp_path / f"out.{container}")) as out:
        info = out.info
    got = resolve_color(info.color, info.pix_fmt, info.size)
    stored = resolve_color(sink.color, sink.facts()["pix_fmt"], info.size)
    assert got.range == stored.range
    assert got.matrix in (stored.matrix, BT601_TWINS.get(stored.matrix))
    for name, found, wanted in (("primaries", got.primaries, tags[1]), ("transfer", got.transfer, tags[2])):
        is_said = any(f"does not state the {name} of its colours" in notice for notice in sink.notices)
        assert is_said == (wanted in (7, 9, 16) and found != wanted), (name, found)
    assert any("limited range" in notice for notice in sink.notices) == (tags[0] == FULL and stored.range == LIMITED)


@pytest.mark.parametrize("tagged", [0, LIMITED, FULL])
@pytest.mark.parametrize(
    ("codec", "container"),
    [("ffv1", "avi"), ("ffv1", "mkv"), ("ffv1", "mp4"), ("magicyuv", "avi"), ("magicyuv", "mov")],
)
def test_greyscale_keeps_its_levels(make_clip, pass_through, decode, tmp_path, codec, container, tagged):
    clip = make_clip("in.mkv", codec="ffv1", options=(), pix_fmt="gray", color=(tagged, 2, 2, 2))
    pass_through(clip, tmp_path / f"out.{container}", EncodeOptions(codec=codec))
    before, after = (decode(path)[3].astype(int) for path in (clip, tmp_path / f"out.{container}"))
    assert np.abs(after - before).max() <= 1


def test_wide_colours_do_not_vanish_in_silence(pass_through, tmp_path):
    clip = write_patches(tmp_path / "in.mkv", "ffv1", "yuv420p10le", PQ_FULL, PATCHES)
    _, sink = pass_through(clip, tmp_path / "out.avi")
    said = [n for n in sink.notices if n.startswith(f"{tmp_path / 'out.avi'} (avi) does not state the ")]
    assert [n.partition(" state the ")[2] for n in said] == [
        "primaries of its colours (bt2020): left out.",
        "transfer of its colours (smpte2084): left out.",
    ]


@pytest.mark.parametrize("aspect", [Fraction(16, 11), Fraction(4, 3)])
@pytest.mark.parametrize(
    ("codec", "container"), [*PAIRS, ("png", "avi"), ("png", "mov"), ("h263p", "avi"), ("qtrle", "mov")]
)
def test_shape_of_pixels_is_kept_or_said_to_be_lost(make_clip, pass_through, tmp_path, codec, container, aspect):
    size = (192, 256)
    clip = make_clip("in.mp4", aspect=aspect, size=size, pts=tuple(range(10)))
    _, sink = pass_through(clip, tmp_path / f"out.{container}", encode_options(codec))
    with open_source(str(tmp_path / f"out.{container}")) as out:
        is_kept = (out.info.sample_aspect_ratio or 1) == aspect
    assert is_kept == (not any("shape of its pixels" in notice for notice in sink.notices))
    assert is_kept == states_aspect(aspect, size, codec, {"m4v": "ipod", "ts": "mpegts"}.get(container, container))
