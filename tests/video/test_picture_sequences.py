"""Sequences whose pictures differ in name, depth or transparency, or have gaps: none is lost, and changes are said."""

from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image as PillowImage

from flashvsr_cli.options import InputOptions
from flashvsr_cli.video.reader import open_source

SIZE = (12, 16)


def shade(number: int) -> np.ndarray:
    return np.full((*SIZE, 3), 20 * number, np.uint8)


def save(folder, *names: str) -> None:
    """Pictures that can be told apart by their brightness, in the order of the names."""
    folder.mkdir(exist_ok=True)
    for number, name in enumerate(names, 1):
        PillowImage.fromarray(shade(number)).save(folder / name, **({"quality": 100} if name.endswith("jpg") else {}))


def read_notices(location) -> list[str]:
    with open_source(str(location)) as source:
        list(source)
    return source.notices


@pytest.mark.parametrize(
    ("names", "written"),
    [
        (("1-2.png", "1.jpg", "1.png"), {"1.png", "1-2.png", "1-3.png"}),
        (("a.bmp", "a.jpg", "a.png", "a.tif"), {"a.png", "a-2.png", "a-3.png", "a-4.png"}),
        (("a-2.bmp", "a-2.png", "a.jpg", "a.png"), {"a.png", "a-2.png", "a-2-2.png", "a-3.png"}),
        (("B.png", "b.jpg"), {"B.png", "b-2.png"}),
    ],
)
def test_pictures_of_one_name_are_all_kept(tmp_path, pass_through, names, written):
    save(tmp_path / "in", *names)
    pass_through(tmp_path / "in", f"{tmp_path}/out/")
    out = {path.name: round(float(np.asarray(PillowImage.open(path)).mean())) for path in (tmp_path / "out").iterdir()}
    assert set(out) == written
    assert sorted(out.values()) == [20 * number for number in range(1, len(names) + 1)]


def test_a_single_picture_keeps_its_name_in_a_folder(tmp_path, pass_through):
    save(tmp_path / "pics", "s_001.png", "s_002.png")
    pass_through(tmp_path / "pics" / "s_002.png", f"{tmp_path}/single/")
    assert [path.name for path in (tmp_path / "single").iterdir()] == ["s_002.png"]


@pytest.mark.parametrize(("target", "written"), [("", ["s_4.png", "s_5.png"]), ("x%03d.png", ["x004.png", "x005.png"])])
def test_pictures_from_a_later_start_keep_their_names(tmp_path, pass_through, target, written):
    save(tmp_path / "in", *(f"s_{number}.png" for number in range(1, 8)))
    part = InputOptions(frame_rate=Fraction(10), start=Fraction("0.25"), max_frames=2)
    pass_through(tmp_path / "in", f"{tmp_path}/out/{target}", input_options=part)
    out = sorted((tmp_path / "out").iterdir())
    assert [path.name for path in out] == written
    assert [int(np.asarray(PillowImage.open(path)).mean()) for path in out] == [80, 100]


def test_depth_and_transparency_that_the_first_picture_lacks(tmp_path):
    save(tmp_path / "in", "1.png", "2.png")
    clear = PillowImage.fromarray(np.dstack([shade(3), shade(5)[..., 0]]))
    for number in (3, 4):
        clear.save(tmp_path / "in" / f"{number}.png")
    PillowImage.fromarray(np.full(SIZE, 40000, np.uint16)).save(tmp_path / "in" / "5.png")
    name = f"The first picture of {tmp_path / 'in'}"
    assert read_notices(tmp_path / "in") == [
        f"{name} has 8 bits: 1 with more are rounded to 8.",
        f"{name} is opaque: the transparency of 2 is left out.",
    ]
    with open_source(str(tmp_path / "in"), InputOptions(max_frames=3)) as source:
        list(source)
    assert source.notices == [f"{name} is opaque: the transparency of 1 is left out."]


def test_nothing_is_said_where_nothing_is_lost(tmp_path):
    (tmp_path / "in").mkdir()
    encoder = av.CodecContext.create("png", "w")
    encoder.width, encoder.height, encoder.pix_fmt, encoder.time_base = *SIZE[::-1], "rgba64be", Fraction(1)
    deep = av.VideoFrame.from_ndarray(np.full((*SIZE, 4), 9000, np.uint16), "rgba64le").reformat(format="rgba64be")
    (tmp_path / "in" / "1.png").write_bytes(b"".join(bytes(p) for p in (*encoder.encode(deep), *encoder.encode(None))))
    PillowImage.fromarray(shade(1)).save(tmp_path / "in" / "2.png")
    assert read_notices(tmp_path / "in") == []


@pytest.mark.parametrize(
    ("numbers", "missing"),
    [
        ((1, 2, 4, 5), "number 3"),
        ((1, 2, 4, 5, 9), "4 numbers, 3 for one"),
        ((10, 20, 40), "number 30"),
        ((1, 2, 3), None),
        ((10, 20, 30), None),
        ((1, 5), None),
        ((7,), None),
    ],
)
def test_gaps_between_the_numbers_of_a_folder_are_said(tmp_path, numbers, missing):
    save(tmp_path / "in", *(f"take2_{number:03d}_x.png" for number in numbers))
    sentence = f"{tmp_path / 'in'} lacks {missing}: the pictures follow each other without a gap."
    assert read_notices(tmp_path / "in") == ([sentence] if missing else [])


@pytest.mark.parametrize("names", [("a1.png", "b2.png", "a4.png"), ("1.png", "2.png", "4.png", "cover.png")])
def test_names_that_are_no_sequence_have_no_gaps(tmp_path, names):
    save(tmp_path / "in", *names)
    assert read_notices(tmp_path / "in") == []
