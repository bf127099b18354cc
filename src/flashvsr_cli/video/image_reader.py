"""Pictures as sources: one file, a folder, or a numbered sequence."""

import re
from collections.abc import Iterator
from itertools import pairwise
from math import ceil
from pathlib import Path

from flashvsr_cli.errors import InputError
from flashvsr_cli.options import InputOptions
from flashvsr_cli.video.cut import count_within, cut_frames, is_cut
from flashvsr_cli.video.formats import IMAGE_SUFFIXES
from flashvsr_cli.video.frame import Frame, to_depth
from flashvsr_cli.video.images import Picture, read_image
from flashvsr_cli.video.info import DEFAULT_RATE, SourceInfo, SourceKind
from flashvsr_cli.video.profiles import is_for_rgb
from flashvsr_cli.video.source import SourceBase

NUMBER_FIELD = re.compile(r"%(?:0(\d+))?d")
GLOB_CHARACTERS = "*?["
SHALLOW_BITS = 8


def is_pattern(location: str) -> bool:
    """Whether a location stands for many files (`%04d`, `*`) and is not itself the name of one."""
    is_one_file = Path(location).exists()
    return not is_one_file and (
        NUMBER_FIELD.search(location) is not None or any(character in location for character in GLOB_CHARACTERS)
    )


def expand_pattern(location: str) -> list[Path]:
    """The files that a printf or glob pattern stands for, in natural order.

    Raises:
        InputError: if there is none, or if a number is missing between the first and the last of a printf pattern.
    """
    field = NUMBER_FIELD.search(location)
    if field is None:
        anchor = Path(location).anchor
        paths = [p for p in Path(anchor).glob(location.removeprefix(anchor)) if p.is_file()]
        if not paths:
            raise InputError(f"No file matches {location}.", "Check the pattern; quote it for the shell.")
        return sorted(paths, key=natural_key)
    numbered = _numbered_files(location, field)
    if not numbered:
        raise InputError(f"No file matches {location}.", "Check the pattern and the number of digits.")
    first, last = min(numbered), max(numbered)
    if last - first + 1 != len(numbered):
        missing = next(n for n in range(first, last) if n not in numbered)
        raise InputError(
            f"{number_into(location, missing)} is missing from the sequence.", "Add it, or use a glob pattern (*)."
        )
    return [numbered[n] for n in range(first, last + 1)]


def _numbered_files(location: str, field: re.Match[str]) -> dict[int, Path]:
    pattern = Path(location)
    if NUMBER_FIELD.search(pattern.name) is None or "%" in location[: field.start()]:
        raise InputError(f"{location} has its number in a folder's name.", "Number the files, not the folders.")
    n_after = len(location) - field.end()
    before, after = pattern.name.split("%", 1)[0], pattern.name[len(pattern.name) - n_after :]
    shape = re.compile(re.escape(before) + r"(\d+)" + re.escape(after))
    numbered = {}
    for path in pattern.parent.iterdir() if pattern.parent.is_dir() else ():
        match = shape.fullmatch(path.name)
        if match and number_into(pattern.name, int(match[1])) == path.name:
            numbered[int(match[1])] = path
    return numbered


def number_into(pattern: str, number: int) -> str:
    """The file name of one number in a printf pattern."""
    field = NUMBER_FIELD.search(pattern)
    if field is None:
        return pattern
    width = int(field[1] or 0)
    return pattern[: field.start()] + str(number).zfill(width) + pattern[field.end() :]


def list_folder(folder: Path) -> list[Path]:
    """The pictures in a folder, in natural order (2 before 10); hidden files are left out.

    Raises:
        InputError: if there is none.
    """
    paths = [
        p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file() and not p.name.startswith(".")
    ]
    if not paths:
        raise InputError(f"The folder {folder} has no pictures.", "For a folder of videos use `flashvsr batch`.")
    return sorted(paths, key=natural_key)


def natural_key(path: Path) -> list[tuple[int, int | str]]:
    """A key that sorts the numbers in a path by value."""
    parts = re.split(r"(\d+)", str(path))
    return [(1, int(part)) if i % 2 else (0, part) for i, part in enumerate(parts)]


def describe_gap(name: str, paths: list[Path]) -> str | None:
    """A sentence about numbers that are missing where pictures differ in one number only; None if there are none.

    Numbers at equal distances, as 10, 20, 30, lack nothing.
    """
    parts = [re.fullmatch(r"(.*?)(\d+)(\D*)", path.stem) for path in paths]
    if len({part and (part[1], part[3]) for part in parts}) != 1:
        return None
    numbers = [int(part[2]) for part in parts if part]
    steps = [after - before for before, after in pairwise(numbers)]
    usual = min(steps, default=0)
    if usual < 1 or usual == max(steps):
        return None
    n_missing = sum(step // usual - 1 for step in steps)
    first = next(before + usual for before, step in zip(numbers, steps, strict=False) if step > usual)
    missing = f"number {first}" if n_missing == 1 else f"{n_missing} numbers, {first} for one"
    return f"{name} lacks {missing}: the pictures follow each other without a gap."


class ImageSource(SourceBase):
    """Pictures of one size, one frame each.

    Args:
        name: what messages call the input.
        paths: at least one file.
        options: `frame_rate` is the sequence's rate; 25 if not given.
        kind: "image" for one picture, "images" for a sequence of any length.

    Raises:
        InputError: if the first picture cannot be read.
    """

    def __init__(self, name: str, paths: list[Path], options: InputOptions, kind: SourceKind) -> None:
        super().__init__()
        self._paths = paths
        self._options = options
        self._first: Picture | None = read_image(paths[0], options)
        first = self._first
        rate = options.frame_rate or DEFAULT_RATE
        n_frames = count_within(options, len(paths), rate)[0] if is_cut(options) else len(paths)
        shown = paths[ceil((options.start or 0) * rate) :]
        number = re.search(r"(\d+)\D*$", shown[0].stem) if shown else None
        self.info = SourceInfo(
            name=name,
            kind=kind,
            size=first.image.shape[:2],
            time_base=1 / rate,
            pix_fmt=first.pixel_format.name,
            bit_depth=first.pixel_format.bits,
            codec=first.codec,
            container="image2",
            n_frames=n_frames,
            n_frames_is_exact=not is_cut(options),
            frame_rate=rate,
            duration=len(paths) / rate,
            color=first.color,
            rotation=90 * first.orientation.quarter_turns,
            is_mirrored=first.orientation.is_mirrored,
            has_alpha=first.pixel_format.has_alpha,
            frame_names=tuple(p.stem for p in shown),
            first_number=int(number[1]) if number else None,
            profile=first.profile if first.profile and is_for_rgb(first.profile) else None,
        )
        if first.profile != self.info.profile:
            self.notices.append(f"The colour profile of {paths[0]} is damaged, or not one of RGB pictures: left out.")
        self._profile = first.profile
        self._n_deeper, self._n_transparent = 0, 0
        gap = describe_gap(name, paths)
        if gap is not None:
            self.notices.append(gap)

    def __iter__(self) -> Iterator[Frame]:
        yield from cut_frames(self._iter_frames(), self._options, self.info.time_base, self.info.name)
        first = f"The first picture of {self.info.name}"
        if self._n_deeper:
            self.notices.append(f"{first} has 8 bits: {self._n_deeper} with more are rounded to 8.")
        if self._n_transparent:
            self.notices.append(f"{first} is opaque: the transparency of {self._n_transparent} is left out.")

    def _iter_frames(self) -> Iterator[Frame]:
        for i_frame, path in enumerate(self._paths):
            first, self._first = self._first, None
            picture = first if first is not None else read_image(path, self._options)
            size = picture.image.shape[:2]
            if size != self.info.size:
                raise InputError(
                    f"{path} is {size[1]}x{size[0]}, but the sequence began with "
                    f"{self.info.size[1]}x{self.info.size[0]}.",
                    "Bring the pictures to one size, or upscale them one by one with `flashvsr batch`.",
                )
            self.counters.frames += 1
            self._n_deeper += picture.pixel_format.bits > SHALLOW_BITS >= self.info.bit_depth
            self._n_transparent += picture.alpha is not None and not self.info.has_alpha
            if picture.profile != self._profile:
                self._profile = picture.profile
                self.notices.append(
                    f"{path} has another colour profile than the pictures before; the first one's is kept."
                )
            yield Frame(to_depth(picture.image, self.info.bit_depth), i_frame, 1, picture.alpha)
