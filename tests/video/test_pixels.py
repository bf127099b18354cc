"""YUV and RGB, against the defining equations in float64."""

import av
import numpy as np
import pytest

from flashvsr_cli.options import EncodeOptions
from flashvsr_cli.video.frame import to_depth
from flashvsr_cli.video.info import ColorTags
from flashvsr_cli.video.orientation import Orientation
from flashvsr_cli.video.pixel_format import describe_pixel_format
from flashvsr_cli.video.pixels import FromRgb, ToRgb, resolve_color

KR_KB = {
    1: (0.2126, 0.0722),
    4: (0.30, 0.11),
    5: (0.299, 0.114),
    6: (0.299, 0.114),
    7: (0.212, 0.087),
    9: (0.2627, 0.0593),
}
LIMITED, FULL = 1, 2
WIDTH, HEIGHT = 40, 24


def yuv_to_rgb(planes, matrix, color_range, bits):
    """RGB in 0..1 from integer planes: ITU-R BT.601/709/2020, quantisation of BT.2100."""
    kr, kb = KR_KB[matrix]
    step, top = 2 ** (bits - 8), 2**bits - 1
    y, u, v = (plane.astype(np.float64) for plane in planes)
    if color_range == LIMITED:
        y, u, v = (y - 16 * step) / (219 * step), (u - 128 * step) / (224 * step), (v - 128 * step) / (224 * step)
    else:
        y, u, v = y / top, (u - 128 * step) / top, (v - 128 * step) / top
    r, b = y + 2 * (1 - kr) * v, y + 2 * (1 - kb) * u
    return np.stack([r, (y - kr * r - kb * b) / (1 - kr - kb), b], -1)


def random_planes(bits, seed=0):
    rng = np.random.default_rng(seed)
    top = 2**bits - 1
    dtype = np.uint8 if bits == 8 else np.uint16
    luma = rng.uniform(0.25 * top, 0.75 * top, (HEIGHT, WIDTH)).astype(dtype)
    return [luma, *(rng.uniform(0.38 * top, 0.62 * top, (HEIGHT, WIDTH)).astype(dtype) for _ in range(2))]


def to_picture(planes, pix_fmt):
    picture = av.VideoFrame(planes[0].shape[1], planes[0].shape[0], pix_fmt)
    for plane, values in zip(picture.planes, planes, strict=True):
        rows = np.frombuffer(plane, values.dtype).reshape(-1, plane.line_size // values.itemsize)
        rows[: values.shape[0], : values.shape[1]] = values
    return picture


def from_picture(picture, dtype):
    return [
        np.frombuffer(p, dtype).reshape(-1, p.line_size // np.dtype(dtype).itemsize)[: p.height, : p.width].copy()
        for p in picture.planes
    ]


def pixel_format(bits):
    return "yuv444p" if bits == 8 else f"yuv444p{bits}le"


@pytest.mark.parametrize("bits", [8, 10, 12, 16])
@pytest.mark.parametrize("color_range", [LIMITED, FULL])
@pytest.mark.parametrize("matrix", sorted(KR_KB))
def test_both_ways_against_the_equations(matrix, color_range, bits):
    planes = random_planes(bits)
    color = ColorTags(color_range, 2, 2, matrix)
    image = ToRgb(color, 1)(to_picture(planes, pixel_format(bits)))
    expected = yuv_to_rgb(planes, matrix, color_range, bits)
    inside = (expected > 0) & (expected < 1)
    assert inside.mean() > 0.9
    top = 255 if bits == 8 else 65535
    assert image.dtype == (np.uint8 if bits == 8 else np.uint16)
    error = np.abs(image[inside] / top - expected[inside])
    assert error.max() < (0.6 / 255 if bits == 8 else 0.3 / 255 / 2 ** (min(bits, 10) - 8))
    back = from_picture(FromRgb(pixel_format(bits), color, 1)(np.ascontiguousarray(image)), planes[0].dtype)
    whole = inside.all(-1)
    for plane, values in zip(back, planes, strict=True):
        difference = np.abs(plane.astype(int) - values.astype(int))[whole]
        assert difference.max() <= max(1, 2 ** (bits - 12))


@pytest.mark.parametrize("bits", [8, 10, 12, 16])
@pytest.mark.parametrize("color_range", [LIMITED, FULL])
def test_black_and_white_are_the_ends_of_the_scale(color_range, bits):
    step = 2 ** (bits - 8)
    dtype = np.uint8 if bits == 8 else np.uint16
    black, white = (16 * step, 235 * step) if color_range == LIMITED else (0, 2**bits - 1)
    color = ColorTags(color_range, 2, 2, 1)
    top = 255 if bits == 8 else 65535
    for luma, expected in ((black, 0), (white, top)):
        planes = [np.full((8, 16), luma, dtype), *(np.full((8, 16), 128 * step, dtype) for _ in range(2))]
        image = ToRgb(color, 1)(to_picture(planes, pixel_format(bits)))
        assert np.abs(image.astype(int) - expected).max() <= (0 if bits == 8 else 16)
        back = from_picture(FromRgb(pixel_format(bits), color, 1)(np.full((8, 16, 3), expected, image.dtype)), dtype)
        assert np.abs(back[0].astype(int) - luma).max() <= (0 if bits < 16 else 4)


@pytest.mark.parametrize("pix_fmt", ["gbrp10le", "gbrp12le", "gbrp16le", "rgb48be", "gray10le", "gray16le", "gray16be"])
def test_deep_rgb_and_grey_use_the_whole_scale(pix_fmt):
    bits = describe_pixel_format(pix_fmt).bits
    dtype = np.dtype(np.uint16).newbyteorder(">" if pix_fmt.endswith("be") else "<")
    for fraction in (0.0, 0.5, 1.0):
        value = round(fraction * (2**bits - 1))
        picture = av.VideoFrame(16, 8, pix_fmt)
        for plane in picture.planes:
            np.frombuffer(plane, dtype)[:] = value
        color = resolve_color(ColorTags(), pix_fmt, (8, 16))
        image = ToRgb(color, 1)(picture)
        assert np.abs(image.astype(int) - 65535 * value / (2**bits - 1)).max() <= 16
        back = FromRgb(pix_fmt, color, 1)(np.ascontiguousarray(image))
        stored = np.frombuffer(back.planes[0], dtype)[:16].astype(int)
        assert np.abs(stored - value).max() <= max(1, 2 ** (bits - 13))


@pytest.mark.parametrize("pix_fmt", ["gray", "rgb24", "bgr0", "gbrp"])
def test_eight_bit_grey_and_rgb_are_exact(pix_fmt):
    picture = av.VideoFrame(256, 4, pix_fmt)
    ramp = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, 1)[None].repeat(4, 0)
    color = resolve_color(ColorTags(), pix_fmt, (4, 256))
    picture = FromRgb(pix_fmt, color, 1)(np.ascontiguousarray(ramp))
    assert np.array_equal(ToRgb(color, 1)(picture), ramp)


def test_sixteen_bits_do_not_pass_through_eight(decode, pass_through, tmp_path):
    """A ramp of 1024 greys must keep its steps from file to file."""
    clip = tmp_path / "ramp.mkv"
    with av.open(str(clip), "w") as out:
        stream = out.add_stream("ffv1", rate=25)
        stream.height, stream.width, stream.pix_fmt = 8, 1024, "yuv444p10le"
        ramp = [
            np.arange(1024, dtype=np.uint16)[None].repeat(8, 0),
            *(np.full((8, 1024), 512, np.uint16) for _ in "uv"),
        ]
        picture = to_picture(ramp, "yuv444p10le")
        picture.pts = 0
        stream.codec_context.color_range = FULL
        out.mux(stream.encode(picture))
        out.mux(stream.encode(None))
    assert len(np.unique(decode(clip)[0][0, :, 1])) == 1024
    pass_through(clip, tmp_path / "out.mkv", EncodeOptions(codec="ffv1"))
    with av.open(str(tmp_path / "out.mkv")) as out:
        frame = next(out.decode(video=0))
        assert frame.format.name == "yuv444p10le"
        luma = from_picture(frame, np.uint16)[0]
    assert np.abs(luma.astype(int) - ramp[0]).max() <= 1


@pytest.mark.parametrize(("container", "bits"), [("mp4", 8), ("mkv", 8), ("mkv", 10), ("mkv", 12)])
@pytest.mark.parametrize("color_range", [LIMITED, FULL])
@pytest.mark.parametrize("matrix", [1, 6, 9])
def test_pictures_survive_a_lossless_file(make_clip, pass_through, tmp_path, container, color_range, matrix, bits):
    """Same tags, same values within one level, through the real reader and writer."""
    codec, options = ("ffv1", EncodeOptions(codec="ffv1"))
    if container == "mp4":
        codec, options = "libx264", EncodeOptions(crf=0, preset="ultrafast")
    clip = make_clip(
        f"in.{container}",
        pix_fmt=pixel_format(bits),
        codec=codec,
        color=(color_range, 1, 1, matrix),
        options=(("qp", "0"), ("preset", "ultrafast")) if container == "mp4" else (),
        pts=(0, 1, 2),
    )
    pass_through(clip, tmp_path / f"out.{container}", options)
    pictures = {}
    for path in (clip, tmp_path / f"out.{container}"):
        with av.open(str(path)) as opened:
            frame = list(opened.decode(video=0))[-1]
            assert (frame.color_range, frame.colorspace) == (color_range, matrix)
            pictures[path] = from_picture(frame, np.uint8 if bits == 8 else np.uint16)
    before, after = pictures.values()
    rgb = yuv_to_rgb(before, matrix, color_range, bits)
    inside = ((rgb >= 0) & (rgb <= 1)).all(-1)
    for a, b in zip(before, after, strict=True):
        assert np.abs(a.astype(int) - b.astype(int))[inside].max() <= 1


@pytest.mark.parametrize(
    ("size", "matrix"),
    [((240, 320), 6), ((576, 720), 6), ((577, 720), 1), ((720, 1280), 1), ((96, 1280), 1), ((96, 1279), 6)],
)
def test_rule_for_an_unstated_matrix(size, matrix):
    assert resolve_color(ColorTags(), "yuv420p", size).matrix == matrix
    assert resolve_color(ColorTags(matrix=9), "yuv420p", size).matrix == 9


def test_to_depth_rounds_and_returns():
    values = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, 2)
    deep = to_depth(values, 10)
    assert deep.dtype == np.uint16
    assert (deep.min(), deep.max()) == (0, 65535)
    assert np.array_equal(to_depth(deep, 8), values)
    assert to_depth(np.full((1, 1, 3), 65535 - 128, np.uint16), 8)[0, 0, 0] == 255
    assert to_depth(np.full((1, 1, 3), 65535 - 129, np.uint16), 8)[0, 0, 0] == 254


def test_a_padded_or_turned_array_converts_like_a_packed_one():
    image = np.random.default_rng(1).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    convert = FromRgb("yuv444p", ColorTags(LIMITED, 2, 2, 1), 1)
    packed = from_picture(convert(image), np.uint8)
    padded = np.zeros((HEIGHT, WIDTH + 9, 3), np.uint8)[:, :WIDTH]
    padded[:] = image
    turned = Orientation(1).apply(Orientation(3).apply(image))
    fortran = np.asfortranarray(image)
    for variant in (padded, turned, fortran, image[::-1][::-1], np.ascontiguousarray(image[::-1])[::-1]):
        for a, b in zip(packed, from_picture(convert(variant), np.uint8), strict=True):
            assert np.array_equal(a, b)


def red_ramp(width=64):
    """Chroma that rises evenly to the right, so that a place can be read off every sample."""
    image = np.full((32, width, 3), 20000, np.uint16)
    image[..., 0] = 15000 + 500 * np.arange(width)
    return image


@pytest.mark.parametrize(("siting", "place"), [("left", 0.0), ("center", 0.5)])
@pytest.mark.parametrize("form", ["420", "422"])
def test_chroma_lies_where_it_is_said_to(form, siting, place):
    color = ColorTags(FULL, 2, 2, 1)
    image = red_ramp()
    whole = from_picture(FromRgb("yuv444p16le", color, 1)(image), np.uint16)[2][8].astype(float)
    picture = FromRgb(f"yuv{form}p16le", color, 1, siting)(image)
    half = from_picture(picture, np.uint16)[2][8].astype(float)
    places = (half - whole[0]) / (whole[-1] - whole[0]) * 63
    assert np.abs(places - (2 * np.arange(32) + place))[4:-4].max() < 0.02
    back = ToRgb(color, 1, siting)(picture).astype(float)[8, :, 0]
    assert np.abs(back - image[8, :, 0])[8:-8].max() < 60  # half a pixel would be 250


@pytest.mark.parametrize("codec", ["libx264", "libx265", "ffv1"])
def test_colours_do_not_move_between_files(tmp_path, pass_through, codec):
    """Enlarged by repetition, a chroma ramp must stay over the luma ramp: half a source pixel would show."""
    clip = tmp_path / "in.mkv"
    with av.open(str(clip), "w") as out:
        options = {"libx264": {"qp": "0"}, "libx265": {"x265-params": "log-level=none:lossless=1"}}.get(codec, {})
        stream = out.add_stream(codec, rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p10le"
        color = ColorTags(LIMITED, 2, 2, 1)
        stream.codec_context.color_range, stream.codec_context.colorspace = LIMITED, 1
        picture = FromRgb("yuv420p10le", color, 1, "left")(red_ramp().repeat(2, 0))
        picture.pts = 0
        out.mux([*stream.encode(picture), *stream.encode(None)])
    pass_through(clip, tmp_path / "out.mkv", EncodeOptions(codec="ffv1", pix_fmt="yuv444p10le"), scale=4)
    with av.open(str(tmp_path / "out.mkv")) as opened:
        luma, _, red = from_picture(next(opened.decode(video=0)), np.uint16)
    # Luma follows the ramp without any siting; red must follow it in step.
    fit = np.polyfit(luma[128, 40:-40].astype(float), red[128, 40:-40].astype(float), 1)
    residue = red[128, 40:-40] - np.polyval(fit, luma[128, 40:-40])
    slope_per_source_pixel = (float(red[128, -40]) - float(red[128, 40])) / ((256 - 80) / 4)
    assert abs(residue.mean()) < 0.1
    expected = from_picture(FromRgb("yuv444p10le", color, 1)(red_ramp().repeat(2, 0)), np.uint16)[2][32]
    shift = (red[128, 40:-40].astype(float) - expected.repeat(4)[40:-40]).mean() / slope_per_source_pixel
    assert abs(shift) < 0.1
