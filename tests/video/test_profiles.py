"""The ICC profile of a picture comes out of the other end, as Pillow reads it; where it cannot, that is said."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image as PillowImage
from PIL import ImageCms

from flashvsr_cli.options import EncodeOptions
from flashvsr_cli.video.profiles import MAX_PROFILE_BYTES, find_profile

SUFFIXES = [".png", ".jpg", ".tiff", ".webp"]


def picture(seed=0):
    y, x = np.mgrid[0:32, 0:48]
    return np.stack([x * 3 + seed, y * 4, x + y], -1).astype(np.uint8)


SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def profile(n_more=0):
    """One that FFmpeg could not have made up; longer than a segment of a JPEG file if asked."""
    made = bytearray(SRGB)
    made += bytes(i * 7 % 251 for i in range(n_more))
    made[:4] = len(made).to_bytes(4, "big")
    return bytes(made)


def save(path, content, **options):
    more = {"lossless": True} if path.suffix == ".webp" else {"quality": 95} if path.suffix == ".jpg" else {}
    PillowImage.fromarray(content).save(path, **more, **options)
    return path


@pytest.mark.parametrize("source", SUFFIXES)
@pytest.mark.parametrize("target", SUFFIXES)
def test_a_profile_survives(tmp_path, pass_through, source, target):
    clip = save(tmp_path / f"in{source}", picture(), icc_profile=profile(n_more=70_001))
    out = tmp_path / f"out{target}"
    source_read, sink = pass_through(clip, out, scale=2)
    assert not any("profile" in notice for notice in (*source_read.notices, *sink.notices))
    opened = PillowImage.open(out)
    assert opened.info["icc_profile"] == profile(n_more=70_001)
    expected = np.asarray(PillowImage.open(clip).convert("RGB")).repeat(2, 0).repeat(2, 1).astype(int)
    off = 8 if ".jpg" in (source, target) else 0
    assert np.abs(np.asarray(opened.convert("RGB")).astype(int) - expected).max() <= off
    if target == ".png":
        assert b"sRGB" not in out.read_bytes()  # which would contradict it


@pytest.mark.parametrize("target", [".png", ".tiff", ".webp"])
def test_beside_transparency(tmp_path, pass_through, target):
    content = np.dstack([picture(), picture()[..., 0]])
    pass_through(save(tmp_path / "in.png", content, icc_profile=profile()), tmp_path / f"out{target}")
    opened = PillowImage.open(tmp_path / f"out{target}")
    assert (opened.mode, opened.info["icc_profile"]) == ("RGBA", profile())
    assert np.array_equal(np.asarray(opened)[..., 3], content[..., 3])


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_none_comes_out_where_none_went_in(tmp_path, pass_through, suffix):
    pass_through(save(tmp_path / f"in{suffix}", picture()), tmp_path / f"out{suffix}")
    assert "icc_profile" not in PillowImage.open(tmp_path / f"out{suffix}").info


@pytest.mark.parametrize("target", ["out.bmp", "out.mp4", "out.y4m"])
def test_what_cannot_hold_one_says_so(tmp_path, pass_through, target):
    clip = save(tmp_path / "in.png", picture(), icc_profile=profile())
    _, sink = pass_through(clip, tmp_path / target, None if target == "out.bmp" else EncodeOptions())
    assert len([n for n in sink.notices if "colour profile" in n and "left out" in n]) == 1


def with_chunk(path, packed):
    plain = save(path, picture()).read_bytes()
    content = b"iCCPname\0\0" + packed
    chunk = struct.pack(">I", len(content) - 4) + content + struct.pack(">I", zlib.crc32(content))
    path.write_bytes(plain[:33] + chunk + plain[33:])
    return path


@pytest.mark.parametrize("kind", ["grey", "huge"])
def test_a_profile_that_does_not_fit_is_left_out_and_said(tmp_path, pass_through, kind):
    grey = profile()[:16] + b"GRAY" + profile()[20:]
    content = grey if kind == "grey" else profile() + bytes(MAX_PROFILE_BYTES)
    clip = with_chunk(tmp_path / "in.png", zlib.compress(content))
    source, _ = pass_through(clip, tmp_path / "out.png")
    assert source.notices == [f"The colour profile of {clip} is damaged, or not one of RGB pictures: left out."]
    assert "icc_profile" not in PillowImage.open(tmp_path / "out.png").info


def test_a_sequence_keeps_the_first_ones(tmp_path, pass_through):
    (tmp_path / "in").mkdir()
    for i, kept in enumerate((profile(), profile(), profile(n_more=5))):
        save(tmp_path / "in" / f"{i}.png", picture(i), icc_profile=kept)
    source, _ = pass_through(tmp_path / "in", f"{tmp_path}/out/")
    (notice,) = source.notices
    assert "2.png has another colour profile" in notice
    assert [PillowImage.open(p).info["icc_profile"] for p in sorted((tmp_path / "out").iterdir())] == [profile()] * 3


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_files_cut_anywhere_are_looked_through(tmp_path, suffix):
    kind = {".png": "png", ".jpg": "mjpeg", ".tiff": "tiff", ".webp": "webp"}[suffix]
    file = io.BytesIO(save(tmp_path / f"in{suffix}", picture(), icc_profile=profile()).read_bytes())
    whole = file.getvalue()
    assert find_profile(whole, kind) == profile()
    for length in range(16, len(whole), 7):
        find_profile(whole[:length], kind)
