"""Depth, colours, pixel formats, HDR metadata and shape of the pictures."""

import itertools
from fractions import Fraction

import av
import numpy as np
import pytest

from flashvsr_cli.options import EncodeOptions, InputOptions
from flashvsr_cli.video.hdr import read_hdr
from flashvsr_cli.video.pixels import resolve_color
from flashvsr_cli.video.reader import open_source

LOSSLESS = (("preset", "ultrafast"), ("qp", "0"))
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
EXACT_OUTPUTS = ("H.264 .mp4", "FFV1 .mkv")
FORMATS = (
    *("yuv420p", "yuv422p", "yuv444p", "yuv420p10le", "yuv422p12le", "yuv444p16le", "gray", "gray10le", "gray16le"),
    *("bgr0", "gbrp10le", "bgra", "yuva420p", "yuva444p10le"),
)
HDR_CODECS = ("libx264", "libx265", "libsvtav1", "libvpx-vp9", "ffv1", "prores_ks")
DISPLAY = "G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(10000000,50)"


COLOR_CELLS = [
    ("Depth, range, matrix, transfer", f"{bits} bit, {color_range}, {name}", column)
    for bits, color_range, name, column in itertools.product((8, 10, 12), RANGES, COLORS, EXACT_OUTPUTS)
]


@pytest.mark.parametrize("cell", COLOR_CELLS, ids="-".join)
def test_colour(make_clip, pass_through, note, said, tmp_path, cell):
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
    note(f"{outcome}, within 1 level" if worst <= 1.01 else outcome)


STATED = ("full range", "BT.601 at an HD size", "primaries, transfer")
STATING = {
    "FFV1 .mkv": ("ffv1", "mkv"),
    "FFV1 .mp4": ("ffv1", "mp4"),
    "FFV1 .avi": ("ffv1", "avi"),
    "H.264 .avi": ("libx264", "avi"),
    "VP9 .webm": ("libvpx-vp9", "webm"),
    "VP9 .avi": ("libvpx-vp9", "avi"),
    "ProRes .mov": ("prores_ks", "mov"),
    "ProRes .mkv": ("prores_ks", "mkv"),
    "MPEG-4 .mp4": ("mpeg4", "mp4"),
    "MPEG-4 .mov": ("mpeg4", "mov"),
    "MPEG-4 .m4v": ("mpeg4", "m4v"),
    "MPEG-4 .avi": ("mpeg4", "avi"),
    "MPEG-2 .ts": ("mpeg2video", "ts"),
    "Motion JPEG .avi": ("mjpeg", "avi"),
}
STATED_CELLS = list(itertools.product(["Colours, by what can be stated"], STATING, STATED))


@pytest.mark.parametrize("cell", STATED_CELLS, ids="-".join)
def test_what_is_stated(make_clip, pass_through, note, said, tmp_path, cell):
    codec, container = STATING[cell[1]]
    tags, size = {
        "full range": ((2, 2, 2, 2), (48, 64)),
        "BT.601 at an HD size": ((1, 6, 6, 6), (48, 1280)),
        "primaries, transfer": ((1, 9, 16, 9), (48, 64)),
    }[cell[2]]
    clip = make_clip("in.mkv", codec="ffv1", options=(), color=tags, pts=tuple(range(10)), size=size)
    _, sink = pass_through(clip, tmp_path / f"out.{container}", EncodeOptions(codec=codec))
    with open_source(str(clip)) as before, open_source(str(tmp_path / f"out.{container}")) as after:
        color = resolve_color(after.info.color, after.info.pix_fmt, size)
        if cell[2] == "primaries, transfer":
            is_kept = (color.primaries, color.transfer) == (9, 16)
            note("kept" if is_kept else f"left out {said(sink.notices, 'primaries')}")
            said(sink.notices, "transfer") if not is_kept else ""
            return
        error = np.mean([np.mean(a.image / 1.0 - b.image / 1.0) for a, b in zip(before, after, strict=True)])
    assert after.info.bit_depth > 8 or abs(error) < 1
    if cell[2] == "full range":
        note("kept" if color.range == 2 else f"as limited {said(sink.notices, 'limited range')}")
    else:
        note("kept" if color.matrix in (5, 6) else "as BT.709")


FORMAT_CELLS = [
    *itertools.product(["Pixel formats"], FORMATS, OUTPUTS),
    *itertools.product(["Pixel formats"], ["yuv420p, 63x47"], EXACT_OUTPUTS),
]


@pytest.mark.parametrize("cell", FORMAT_CELLS, ids="-".join)
def test_pixel_format(make_clip, pass_through, note, said, tmp_path, cell):
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
    note("kept" if info.pix_fmt == pix_fmt else f"as {info.pix_fmt}")


HDR_CELLS = list(itertools.product(["HDR10 metadata"], HDR_CODECS, ["mastering display, light level"]))


@pytest.mark.parametrize("cell", HDR_CELLS, ids="-".join)
def test_hdr(make_clip, pass_through, note, said, tmp_path, cell):
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
    note("kept" if is_kept else f"left out {said(sink.notices, 'mastering display')}")


SHAPES = ("turned by 90", "turned by 180", "mirrored", "pixel aspect 16:11", "63x47", "two fields")
SHAPE_CELLS = list(itertools.product(["Shape"], SHAPES, EXACT_OUTPUTS))


@pytest.mark.parametrize("cell", SHAPE_CELLS, ids="-".join)
def test_shape(make_clip, pass_through, note, said, tmp_path, cell):
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
        note(f"one frame for both {said(source.notices, 'deinterlaced')}")
    else:
        if cell[1] == "pixel aspect 16:11" and cell[2].startswith("FFV1"):
            note(f"in the stream only {said(sink.notices, 'pixels')}")
            return
        assert aspects[0] == aspects[1]
        note("applied to the pixels" if source.info.rotation or source.info.is_mirrored else "kept")
        assert sink.notices == []
