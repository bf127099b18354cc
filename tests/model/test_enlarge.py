"""The plain enlargement against Pillow, and its way back to integers."""

import numpy as np
import pytest
import torch
from PIL import Image

from flashvsr_cli.enlarge import FRAMES_TOGETHER, enlarge_frames, enlarge_levels, to_integers
from flashvsr_cli.geometry import plan_geometry
from flashvsr_cli.transfer import Downloads

CASES = [
    ((17, 23), 1.5),
    ((17, 23), 4),
    ((31, 40), 2),
    ((5, 7), 3),
    ((64, 96), 4),
    ((33, 20), 2.7),
    ((128, 128), 1),
    ((1, 1), 4),
    ((2, 90), 1.5),
    ((40, 700), 4),
]


def noisy(size: tuple[int, int], dtype: type, n_frames: int = 2) -> np.ndarray:
    """Full-range noise: bicubic overshoots in both passes."""
    return np.random.default_rng(size[0]).integers(0, np.iinfo(dtype).max + 1, (n_frames, *size, 3), dtype=dtype)


@pytest.mark.parametrize(("size", "scale"), CASES)
def test_bytes_are_pillows(size: tuple[int, int], scale: float) -> None:
    frames, geometry = noisy(size, np.uint8), plan_geometry(size, scale)
    height, width = geometry.target
    expected = np.stack(
        [np.asarray(Image.fromarray(f).resize((width, height), Image.Resampling.BICUBIC)) for f in frames]
    )
    enlarged = enlarge_frames(torch.from_numpy(frames), geometry)
    actual = ((enlarged.double() + 1) * 127.5).permute(0, 2, 3, 1).numpy()
    assert np.abs(actual - actual.round()).max() < 1e-4
    assert np.array_equal(actual.round()[:, :height, :width], expected)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_frames_together_are_frames_one_by_one(monkeypatch: pytest.MonkeyPatch, dtype: type) -> None:
    frames, geometry = torch.from_numpy(noisy((33, 20), dtype, 7)), plan_geometry((33, 20), 4)
    one_by_one = enlarge_levels(frames, geometry)
    monkeypatch.setitem(FRAMES_TOGETHER, "cpu", 4)
    torch.testing.assert_close(enlarge_levels(frames, geometry), one_by_one)


@pytest.mark.parametrize(("size", "scale"), CASES)
def test_deep_pictures_take_two_clipped_passes_without_rounding(size: tuple[int, int], scale: float) -> None:
    frames, geometry = noisy(size, np.uint16), plan_geometry(size, scale)
    height, width = geometry.target
    enlarged = enlarge_frames(torch.from_numpy(frames), geometry)
    for i_frame in range(len(frames)):
        for channel in range(3):
            picture = Image.fromarray(frames[i_frame, :, :, channel].astype(np.float32), mode="F")
            for new_size in ((width, size[0]), (width, height)):
                resized = np.asarray(picture.resize(new_size, Image.Resampling.BICUBIC))
                picture = Image.fromarray(resized.clip(0, 65535), mode="F")
            actual = (enlarged[i_frame, channel, :height, :width].double().numpy() + 1) * 32767.5
            assert np.abs(actual - np.asarray(picture)).max() < 0.5


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_padding_repeats_the_last_row_and_column(dtype: type) -> None:
    geometry = plan_geometry((33, 40), 4)
    enlarged = enlarge_frames(torch.from_numpy(noisy((33, 40), dtype)), geometry)
    assert enlarged.shape == (2, 3, 256, 256)
    assert enlarged.dtype == torch.float32
    assert torch.equal(enlarged[:, :, 132:, :160], enlarged[:, :, 131:132, :160].expand(-1, -1, 124, -1))
    assert torch.equal(enlarged[:, :, :, 160:], enlarged[:, :, :, 159:160].expand(-1, -1, -1, 96))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_integers_survive_the_way_there_and_back(dtype: type) -> None:
    peak = np.iinfo(dtype).max
    values = np.arange(peak + 1, dtype=dtype).reshape(1, 256, -1, 1).repeat(3, axis=3)
    x = torch.from_numpy(values.astype(np.float32)).permute(0, 3, 1, 2) / peak * 2 - 1
    (back,) = Downloads(np.dtype(dtype)).put(to_integers(x, np.dtype(dtype)))
    assert back.dtype == dtype
    np.testing.assert_array_equal(back, values[0])


def test_integers_are_rounded_not_truncated() -> None:
    x = torch.tensor([-1, -0.997, -0.995, 0.999, 1.0]).reshape(1, 1, 1, 5).expand(-1, 3, -1, -1)
    assert to_integers(x, np.dtype(np.uint8))[0, 0, :, 0].tolist() == [0, 0, 1, 255, 255]
