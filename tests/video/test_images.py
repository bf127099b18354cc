"""Pictures in and out, single and in sequence."""

import struct
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image as PillowImage

from flashvsr_cli.errors import InputError, OutputError
from flashvsr_cli.options import EncodeOptions, InputOptions
from flashvsr_cli.video.image_reader import expand_pattern
from flashvsr_cli.video.images import read_image
from flashvsr_cli.video.reader import open_source


def picture(seed=0, size=(31, 45)):
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0 : size[0], 0 : size[1]]
    base = np.stack([x * 3, y * 4, x + y], -1) + rng.integers(0, 40, 3)
    return np.clip(base, 0, 255).astype(np.uint8)


def read_one(path):
    with open_source(str(path)) as source:
        frames = list(source)
    assert len(frames) == 1
    return source.info, frames[0].image


def tiff_of(content, mark, numbers, texts):
    """A file of one strip, with more tags, or without those of which the number is None."""
    order = "<" if mark == b"II" else ">"
    height, width = content.shape[:2]
    body = content.tobytes()
    numbers = {256: width, 257: height, 258: 8, 259: 1, 262: 2, 273: 8, 277: 3, 278: height} | numbers
    numbers = {279: len(body)} | numbers
    entries, at = [], 8 + len(body)
    for tag, number in numbers.items():
        if number is not None:
            entries.append((tag, struct.pack(order + "HHII", tag, 4, 1, number)))
    for tag, text in texts.items():
        body += text
        entries.append((tag, struct.pack(order + "HHII", tag, 7, len(text), at)))
        at += len(text)
    head = mark + struct.pack(order + "HI", 42, at)
    directory = b"".join(entry for _, entry in sorted(entries))
    return head + body + struct.pack(order + "H", len(entries)) + directory + bytes(4)


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tiff", ".webp"])
def test_lossless_pictures_are_read_as_pillow_reads_them(tmp_path, suffix):
    expected = picture()
    PillowImage.fromarray(expected).save(tmp_path / f"in{suffix}", **({"lossless": True} if suffix == ".webp" else {}))
    info, image = read_one(tmp_path / f"in{suffix}")
    assert (info.kind, info.n_frames, info.bit_depth, info.size) == ("image", 1, 8, expected.shape[:2])
    assert np.array_equal(image, expected)


@pytest.mark.parametrize(("suffix", "subsampling", "limit"), [(".jpg", 0, 3), (".jpg", 2, 12), (".webp", 0, 14)])
def test_lossy_pictures_have_the_right_colours(tmp_path, suffix, subsampling, limit):
    path = tmp_path / f"in{suffix}"
    PillowImage.fromarray(picture()).save(
        path, quality=95, **({"subsampling": subsampling} if suffix == ".jpg" else {})
    )
    expected = np.asarray(PillowImage.open(path).convert("RGB")).astype(int)
    _, image = read_one(path)
    assert np.abs(image.astype(int) - expected)[2:-2, 2:-2].max() <= limit
    assert np.abs(image.astype(int).mean((0, 1)) - expected.mean((0, 1))).max() < 1


def test_palette_and_grey(tmp_path):
    flat = PillowImage.fromarray(picture() // 64 * 64).quantize(16)
    flat.save(tmp_path / "palette.png")
    assert np.array_equal(read_one(tmp_path / "palette.png")[1], np.asarray(flat.convert("RGB")))
    grey = picture()[..., 0]
    PillowImage.fromarray(grey).save(tmp_path / "grey.png")
    assert np.array_equal(read_one(tmp_path / "grey.png")[1], grey[..., None].repeat(3, -1))


@pytest.mark.parametrize("suffix", [".png", ".tiff", ".webp"])
def test_transparency_travels_beside_the_picture(tmp_path, pass_through, suffix):
    rgba = np.dstack([picture(), picture(1)[..., 0]])
    PillowImage.fromarray(rgba).save(tmp_path / "in.png")
    _, sink = pass_through(tmp_path / "in.png", tmp_path / f"out{suffix}", scale=2)
    got = np.asarray(PillowImage.open(tmp_path / f"out{suffix}").convert("RGBA")).astype(int)
    is_seen = got[..., 3] > 0  # WebP does not keep colours that nobody sees
    assert np.array_equal(got[..., :3][is_seen], rgba[..., :3].repeat(2, 0).repeat(2, 1)[is_seen])
    expected = np.asarray(PillowImage.fromarray(rgba[..., 3]).resize((90, 62), PillowImage.BICUBIC)).astype(int)
    assert np.abs(got[..., 3] - expected)[2:-2, 2:-2].mean() < 1.5
    assert sink.notices == []


def test_sixteen_bits_of_transparency(tmp_path, pass_through):
    import av

    deep = np.random.default_rng(0).integers(0, 65536, (16, 24, 4), dtype=np.uint16)
    encoder = av.CodecContext.create("png", "w")
    encoder.width, encoder.height, encoder.pix_fmt, encoder.time_base = 24, 16, "rgba64be", Fraction(1)
    picture = av.VideoFrame.from_ndarray(deep, "rgba64le").reformat(format="rgba64be")
    packets = [*encoder.encode(picture), *encoder.encode(None)]
    (tmp_path / "in.png").write_bytes(b"".join(bytes(p) for p in packets))
    pass_through(tmp_path / "in.png", tmp_path / "out.tiff")
    with open_source(str(tmp_path / "out.tiff")) as source:
        frame = next(iter(source))
    assert frame.alpha.dtype == np.uint16
    assert np.array_equal(frame.alpha, deep[..., 3])
    assert np.array_equal(frame.image, deep[..., :3])


def test_transparent_colour_of_a_palette(tmp_path):
    flat = PillowImage.fromarray(picture() // 64 * 64).quantize(16)
    flat.save(tmp_path / "in.png", transparency=3)
    with open_source(str(tmp_path / "in.png")) as source:
        frame = next(iter(source))
    assert source.info.has_alpha
    assert np.array_equal(frame.alpha, np.where(np.asarray(flat) == 3, 0, 255))


@pytest.mark.parametrize("suffix", [".jpg", ".bmp"])
def test_pictures_without_transparency_say_so(tmp_path, pass_through, suffix):
    PillowImage.fromarray(np.dstack([picture(), picture()[..., 0]])).save(tmp_path / "in.png")
    _, sink = pass_through(tmp_path / "in.png", tmp_path / f"out{suffix}")
    assert any("transparency" in notice for notice in sink.notices)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_camera_orientation_is_applied(tmp_path, orientation):
    from PIL import ImageOps

    path = tmp_path / "in.jpg"
    image = PillowImage.fromarray(picture(size=(32, 48)))
    exif = image.getexif()
    exif[0x0112] = orientation
    image.save(path, quality=100, subsampling=0, exif=exif)
    expected = np.asarray(ImageOps.exif_transpose(PillowImage.open(path))).astype(int)
    _, got = read_one(path)
    assert got.shape == expected.shape
    assert np.abs(got.astype(int) - expected).max() <= 4


@pytest.mark.parametrize("suffix", [".png", ".tiff", ".bmp", ".webp", ".jpg"])
def test_written_pictures_are_read_by_pillow(tmp_path, pass_through, suffix):
    PillowImage.fromarray(picture()).save(tmp_path / "in.png")
    _, sink = pass_through(tmp_path / "in.png", tmp_path / f"out{suffix}", scale=2)
    got = np.asarray(PillowImage.open(tmp_path / f"out{suffix}").convert("RGB")).astype(int)
    expected = picture().repeat(2, 0).repeat(2, 1)
    assert got.shape == expected.shape
    assert np.abs(got - expected).max() <= (6 if suffix == ".jpg" else 0)
    assert sink.facts()["bytes"] == (tmp_path / f"out{suffix}").stat().st_size
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(["in.png", f"out{suffix}"])


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
def test_sixteen_bits_stay_sixteen_bits(tmp_path, pass_through, suffix):
    ramp = np.linspace(0, 65535, 64 * 32).astype(np.uint16).reshape(32, 64)
    PillowImage.fromarray(ramp).save(tmp_path / "in.png")
    info, image = read_one(tmp_path / "in.png")
    assert (info.bit_depth, image.dtype) == (16, np.uint16)
    assert np.abs(image[..., 1].astype(int) - ramp).max() <= 2
    pass_through(tmp_path / "in.png", tmp_path / f"out{suffix}")
    _, returned = read_one(tmp_path / f"out{suffix}")
    assert np.array_equal(returned, image)


def test_eight_bit_format_for_a_deep_source_is_announced(tmp_path, pass_through):
    PillowImage.fromarray(np.full((8, 8), 40000, np.uint16)).save(tmp_path / "in.png")
    _, sink = pass_through(tmp_path / "in.png", tmp_path / "out.jpg")
    assert any("8 bits" in n for n in sink.notices)


def save_sequence(folder, names, size=(32, 48)):
    folder.mkdir(exist_ok=True)
    for i, name in enumerate(names):
        PillowImage.fromarray(picture(i, size)).save(folder / name)


def test_folder_in_natural_order_to_folder_with_the_same_names(tmp_path, pass_through):
    names = ["f1.png", "f2.png", "f10.png"]
    save_sequence(tmp_path / "in", names)
    (tmp_path / "in" / "notes.txt").write_text("no picture")
    (tmp_path / "in" / ".hidden.png").write_bytes(b"")
    source, _ = pass_through(tmp_path / "in", f"{tmp_path}/out/", scale=2)
    assert (source.info.kind, source.info.n_frames) == ("images", 3)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == sorted(names)
    for i, name in enumerate(names):
        assert np.array_equal(read_one(tmp_path / "out" / name)[1], picture(i, (32, 48)).repeat(2, 0).repeat(2, 1))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in", "out"]


def test_existing_folder_keeps_its_other_files(tmp_path, pass_through):
    save_sequence(tmp_path / "in", ["a.png"])
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("keep")
    pass_through(tmp_path / "in", tmp_path / "out")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["a.png", "mine.txt"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in", "out"]


def test_pattern_to_video_and_back(tmp_path, pass_through, packets):
    save_sequence(tmp_path / "in", [f"{i:03d}.png" for i in range(5, 15)])
    video = tmp_path / "out.mkv"
    rate = Fraction(30000, 1001)
    pass_through(
        tmp_path / "in" / "%03d.png", video, EncodeOptions(codec="ffv1", pix_fmt="bgr0"), InputOptions(frame_rate=rate)
    )
    with open_source(str(video)) as source:
        assert abs(source.info.frame_rate - rate) < Fraction(1, 1000)
    assert len(packets(video, "video")) == 10
    (tmp_path / "frames").mkdir()
    pass_through(video, tmp_path / "frames" / "x%04d.png")
    assert sorted(p.name for p in (tmp_path / "frames").iterdir()) == [f"x{i:04d}.png" for i in range(1, 11)]
    for i in range(10):
        assert np.array_equal(read_one(tmp_path / "frames" / f"x{i + 1:04d}.png")[1], picture(i, (32, 48)))


def test_numbers_continue_from_the_first_of_the_input(tmp_path, pass_through):
    save_sequence(tmp_path / "in", [f"{i:03d}.png" for i in range(7, 10)])
    (tmp_path / "out").mkdir()
    pass_through(tmp_path / "in" / "%03d.png", tmp_path / "out" / "%05d.jpg")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [f"{i:05d}.jpg" for i in range(7, 10)]


def test_glob_pattern(tmp_path):
    save_sequence(tmp_path / "in", ["a2.png", "a10.png", "b1.png"])
    with open_source(str(tmp_path / "in" / "a*.png")) as source:
        assert source.info.frame_names == ("a2", "a10")
        assert len(list(source)) == 2


def test_gap_in_a_numbered_sequence_is_refused(tmp_path):
    save_sequence(tmp_path / "in", ["001.png", "002.png", "004.png"])
    with pytest.raises(InputError, match=r"003\.png is missing"):
        open_source(str(tmp_path / "in" / "%03d.png"))


@pytest.mark.parametrize(
    ("pattern", "names", "found"),
    [
        ("%d.png", ["1.png", "02.png", "3.png"], None),
        ("%02d.png", ["01.png", "1.png"], ["01.png"]),
        ("a.%d.png", ["a.1.png", "ax1.png"], ["a.1.png"]),
        ("%04d_x.png", ["0001_x.png", "0001.png"], ["0001_x.png"]),
        ("%02d.png", ["99.png", "100.png"], ["99.png", "100.png"]),
    ],
)
def test_patterns_match_exactly(tmp_path, pattern, names, found):
    save_sequence(tmp_path, names, (4, 4))
    if found is None:
        with pytest.raises(InputError, match="missing"):
            expand_pattern(str(tmp_path / pattern))
    else:
        assert [p.name for p in expand_pattern(str(tmp_path / pattern))] == found


def test_pictures_of_two_sizes_are_refused_by_name(tmp_path):
    save_sequence(tmp_path / "in", ["1.png"], (8, 8))
    save_sequence(tmp_path / "in", ["2.png"], (8, 10))
    with (
        pytest.raises(InputError, match=r"2\.png is 10x8, but the sequence began with 8x8"),
        open_source(str(tmp_path / "in")) as s,
    ):
        list(s)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tiff", ".bmp"])
def test_cut_picture_is_refused(tmp_path, suffix):
    path = tmp_path / f"in{suffix}"
    rng = np.random.default_rng(0)
    PillowImage.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(InputError, match=f"in{suffix} is (damaged|cut)"):
        open_source(str(path))


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "tiff_deflate", "tiff_adobe_deflate", "packbits"])
@pytest.mark.parametrize("predictor", [1, 2])
@pytest.mark.parametrize("depth", [8, 16])
def test_compressions_of_tiff_are_read_as_pillow_reads_them(tmp_path, compression, predictor, depth):
    content = picture(size=(150, 200))
    if depth == 16:
        content = content[..., 0].astype(np.uint16) * 251
    image = PillowImage.fromarray(content)
    has_predictor = predictor == 2 and ("lzw" in compression or "deflate" in compression)
    tags = {317: 2} if has_predictor else {}
    image.save(tmp_path / "in.tiff", compression=compression, tiffinfo={278: 40, **tags})
    info, got = read_one(tmp_path / "in.tiff")
    assert info.bit_depth == depth
    assert np.array_equal(got, content if depth == 8 else content[..., None].repeat(3, -1))


@pytest.mark.parametrize("compression", ["tiff_ccitt", "group3", "group4"])
def test_faxes_are_read(tmp_path, compression):
    image = PillowImage.fromarray(picture(size=(150, 200))[..., 0]).convert("1")
    image.save(tmp_path / "in.tiff", compression=compression)
    assert np.array_equal(read_one(tmp_path / "in.tiff")[1], np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("mark", [b"II", b"MM"])
def test_tags_that_the_decoder_does_not_know_are_no_damage(tmp_path, mark):
    content = picture()
    texts = dict.fromkeys([270, 305, 315, 700, 33723, 34377, 34675, 34735, 42113, 65000], b"private")
    path = tmp_path / "in.tiff"
    path.write_bytes(tiff_of(content, mark, {}, texts))
    assert np.array_equal(read_one(path)[1], content)


def test_exif_and_places_in_a_tiff_are_no_damage(tmp_path):
    tags = {0x0112: 3, 0x8769: {0x9000: b"0232"}, 0x8825: {1: "N"}}
    PillowImage.fromarray(picture()).save(tmp_path / "in.tiff", tiffinfo=tags)
    assert {0x8769, 0x8825} <= set(PillowImage.open(tmp_path / "in.tiff").tag_v2)
    assert np.array_equal(read_one(tmp_path / "in.tiff")[1], picture()[::-1, ::-1])


@pytest.mark.parametrize("compression", ["jpeg", "tiff_jpeg", "lzma", "zstd"])
def test_tiff_that_ffmpeg_cannot_unpack_is_refused_as_such(tmp_path, compression):
    path = tmp_path / "in.tiff"
    try:
        PillowImage.fromarray(picture()).save(path, compression=compression)
    except OSError:
        pytest.skip(f"Pillow has no {compression} here")
    with pytest.raises(
        InputError, match=r"in\.tiff (has a compression|is of a kind) that this FFmpeg cannot"
    ) as caught:
        read_image(path)
    assert caught.value.next_step == "Convert it to PNG first."


def test_tiff_in_tiles_is_refused_as_such(tmp_path):
    strips = dict.fromkeys([273, 278, 279])
    tiles = {322: 48, 323: 32, 324: 8, 325: 48 * 32 * 3}
    (tmp_path / "in.tiff").write_bytes(tiff_of(picture(size=(32, 48)), b"II", strips | tiles, {}))
    assert np.array_equal(np.asarray(PillowImage.open(tmp_path / "in.tiff")), picture(size=(32, 48)))
    with pytest.raises(InputError, match="tiles") as caught:
        read_image(tmp_path / "in.tiff")
    assert caught.value.next_step == "Convert it to PNG first."


@pytest.mark.parametrize("where", [0.1, 0.3, 0.5, 0.7, 0.9])
@pytest.mark.parametrize(
    ("compression", "n_bytes"), [("tiff_lzw", 200), ("packbits", 200), ("tiff_deflate", 200), ("tiff_deflate", 1)]
)
def test_flipped_bytes_of_a_tiff_are_refused(tmp_path, compression, n_bytes, where):
    rng = np.random.default_rng(0)
    content = picture(size=(150, 200)) // 2 + rng.integers(0, 9, (150, 200, 3), dtype=np.uint8)
    path = tmp_path / "in.tiff"
    PillowImage.fromarray(content).save(path, compression=compression)
    data = np.fromfile(path, np.uint8)
    tags = PillowImage.open(path).tag_v2
    at = tags[273][0] + int(sum(tags[279]) * where)
    data[at : at + n_bytes] ^= 255
    path.write_bytes(data.tobytes())
    with pytest.raises(InputError, match=r"in\.tiff is damaged") as caught:
        read_image(path)
    assert caught.value.next_step == "Get a complete copy of the picture."


def test_empty_folder_and_folder_of_videos(tmp_path):
    with pytest.raises(InputError, match="has no pictures") as caught:
        open_source(str(tmp_path))
    assert "batch" in caught.value.next_step


def test_video_into_one_picture_is_refused_before_work(make_clip, pass_through, tmp_path):
    clip = make_clip("in.mp4")
    with pytest.raises(OutputError, match="one picture"):
        pass_through(clip, tmp_path / "out.png")
    assert [p.name for p in tmp_path.iterdir()] == ["in.mp4"]


def test_name_with_a_percent_sign_is_one_file(tmp_path):
    PillowImage.fromarray(picture()).save(tmp_path / "100%d.png")
    assert read_one(tmp_path / "100%d.png")[0].kind == "image"


def test_picture_to_video(tmp_path, pass_through):
    PillowImage.fromarray(picture(size=(32, 48))).save(tmp_path / "in.png")
    pass_through(tmp_path / "in.png", tmp_path / "out.mp4")
    with open_source(str(tmp_path / "out.mp4")) as source:
        image = np.stack([f.image for f in source]).astype(int)
    assert image.shape == (1, 32, 48, 3)
    assert np.abs(image[0] - picture(size=(32, 48))).mean() < 4
