"""Where high-resolution clips come from: photographs, procedural pictures, shards of videos."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import av
import numpy as np
import torch
from torch import Tensor

from flashvsr_cli.dataset.motion import Picture, render_layers
from flashvsr_cli.dataset.procedural import draw_picture
from flashvsr_cli.errors import InputError

Random = np.random.Generator
PHOTO_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp")
INDEX = "index.jsonl"
LAYERS_SHARE = 0.35
"""Share of camera-motion clips with a second picture in front of the first."""


class Source(Protocol):
    """Makes clips."""

    def clip(self, rng: Random, n_frames: int, size: tuple[int, int]) -> Tensor:
        """(n_frames, 3, height, width) float32, levels 0..255."""
        ...


def read_photo(path: Path) -> Tensor:
    """(3, H, W) uint8 of the first picture in a file.

    Raises:
        InputError: the file holds none.
    """
    try:
        with av.open(str(path)) as container:
            image = next(container.decode(video=0)).to_ndarray(format="rgb24")
    except (av.FFmpegError, StopIteration, OSError) as error:
        raise InputError(f"{path} holds no picture that can be read.", "Remove it from the folder.") from error
    return torch.from_numpy(image).permute(2, 0, 1).contiguous()


def list_photos(folders: Sequence[str], *, without: Sequence[str] = (), only: Sequence[str] = ()) -> list[Path]:
    """Picture files of folders, sorted, filtered by parts of their names.

    Raises:
        InputError: a folder does not exist.
    """
    paths: list[Path] = []
    for folder in map(Path, folders):
        if not folder.is_dir():
            raise InputError(f"{folder} is not a folder.", "Correct data.photos in the stage's TOML.")
        paths += sorted(path for path in folder.rglob("*") if path.suffix.lower() in PHOTO_SUFFIXES)
    return [path for path in paths if _is_wanted(path.name, without, only)]


def _is_wanted(name: str, without: Sequence[str], only: Sequence[str]) -> bool:
    return not any(part in name for part in without) and (not only or any(part in name for part in only))


class PictureSource:
    """Clips by camera motion over pictures, sometimes two at once."""

    def __init__(self, pictures: Sequence[Picture]) -> None:
        self._pictures = pictures

    def clip(self, rng: Random, n_frames: int, size: tuple[int, int]) -> Tensor:
        """See `Source`."""
        choice = rng.integers(len(self._pictures), size=2)
        front = self._pictures[choice[1]] if rng.random() < LAYERS_SHARE else None
        return render_layers(self._pictures[choice[0]], front, rng, n_frames, size)


def load_photos(paths: Sequence[Path], device: torch.device) -> PictureSource:
    """A source of photographs, held on the device."""
    return PictureSource([Picture.of(read_photo(path).to(device)) for path in paths])


def draw_pictures(rng: Random, count: int, side: int, device: torch.device) -> PictureSource:
    """A source of procedural pictures."""
    return PictureSource([Picture.of(draw_picture(rng, side, device)) for _ in range(count)])


def read_index(
    folders: Sequence[str], kind: str, *, without: Sequence[str] = (), only: Sequence[str] = ()
) -> list[tuple[Path, int]]:
    """Files of a kind ("video" or "photo") in shards, and their frames, filtered by parts of their original names.

    Raises:
        InputError: a folder has no index.
    """
    files = []
    for folder in map(Path, folders):
        index = folder / INDEX
        if not index.is_file():
            raise InputError(f"{folder} has no {INDEX}.", "Make it with `flashvsr dataset build`.")
        records = map(json.loads, index.read_text(encoding="utf-8").splitlines())
        files += [
            (folder / record["file"], record["n_frames"])
            for record in records
            if record["kind"] == kind and _is_wanted(record["source"], without, only)
        ]
    return files


class ShardSource:
    """Clips cut out of the videos of shards that `flashvsr dataset` wrote."""

    def __init__(self, videos: Sequence[tuple[Path, int]], device: torch.device) -> None:
        self._device = device
        self._videos = videos

    def clip(self, rng: Random, n_frames: int, size: tuple[int, int]) -> Tensor:
        """See `Source`; a clip that is too short runs back and forth."""
        path, n_available = self._videos[int(rng.integers(len(self._videos)))]
        start = int(rng.integers(max(1, n_available - n_frames + 1)))
        with av.open(str(path)) as container:
            decoded = container.decode(video=0)
            frames = [
                f.to_ndarray(format="rgb24")
                for i, f in zip(range(start + n_frames), decoded, strict=False)
                if i >= start
            ]
        order = np.abs((np.arange(n_frames) + len(frames) - 1) % max(1, 2 * len(frames) - 2) - (len(frames) - 1))
        height, width = frames[0].shape[:2]
        if height < size[0] or width < size[1]:
            raise InputError(f"{path} is smaller than {size[1]}x{size[0]}.", "Set a smaller data.size.")
        top, left = int(rng.integers(height - size[0] + 1)), int(rng.integers(width - size[1] + 1))
        clip = np.stack([frames[i][top : top + size[0], left : left + size[1]] for i in order])
        return torch.from_numpy(clip).to(self._device).permute(0, 3, 1, 2).float()
