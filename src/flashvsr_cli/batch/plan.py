"""From folders, files and patterns to the inputs of a batch and their places below the output folder."""

import os
import stat
import unicodedata
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

from flashvsr_cli.errors import FlashVSRError, InputError, UsageError
from flashvsr_cli.video.encoding import MUXERS
from flashvsr_cli.video.faults import input_error
from flashvsr_cli.video.formats import IMAGE_SUFFIXES, VIDEO_SUFFIXES, Y4M_SUFFIX
from flashvsr_cli.video.image_reader import GLOB_CHARACTERS, NUMBER_FIELD, natural_key
from flashvsr_cli.video.targets import is_temporary_name

WRITABLE_SUFFIXES = frozenset({*(f".{extension}" for extension in MUXERS), Y4M_SUFFIX})
FALLBACK_SUFFIX = ".mkv"
ANY_DEPTH = "**"


@dataclass(frozen=True)
class BatchItem:
    """One file of a batch and where its result goes."""

    source: Path
    target: Path


@dataclass
class BatchPlan:
    """What a batch is about.

    Attributes:
        items: each input with its place, in natural order.
        refused: folders that could not be looked into, and inputs whose result would be another one's, and why.
        notices: what the user should know.
    """

    items: list[BatchItem] = field(default_factory=list)
    refused: list[tuple[Path, FlashVSRError]] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Found:
    """An input, and the name of its result below the output folder, still with the input's extension."""

    path: Path
    place: Path


def plan_batch(inputs: Sequence[str], target: Path, *, recursive: bool, extension: str | None) -> BatchPlan:
    """The inputs, each with its place below `target`.

    A folder stands for its videos and pictures, mirrored below `target`; a pattern (`*`, `?`, `[...]`, and `**` for
    any folders between) for the files that match, mirrored from its first part with a wildcard on; a file for
    itself. Hidden files, and results of an earlier run that lie below an input folder, are left out. Linked folders
    are followed, every folder once. A video keeps its extension unless `extension` says otherwise or its container
    can be read only. Of two inputs that would become the same output (names that differ in case are the same) the
    first is taken and the other refused, but one that keeps its name goes before one that does not.

    Args:
        inputs: folders, files and patterns.
        target: folder of the results.
        recursive: whether folders within folders are taken, too.
        extension: of all videos' results.

    Raises:
        InputError: there is nothing to do.
        UsageError: an input does not exist, an output would replace an input, or an input folder is the output folder.
    """
    plan = BatchPlan()
    _check_extension(extension)
    claimed: dict[str, BatchItem] = {}
    empty = []
    for text in inputs:
        found = _find(text, target, recursive, plan)
        if not found:
            empty.append(_nothing_in(text, recursive))
        for one in found:
            _claim(claimed, plan, BatchItem(one.path, target / _result_name(one.place, extension)))
    plan.items = list(claimed.values())
    if not plan.items and not plan.refused:
        raise empty[0]
    plan.notices = [error.message for error in empty]
    _refuse_replaced_inputs(plan.items)
    return plan


def _find(text: str, target: Path, recursive: bool, plan: BatchPlan) -> list[_Found]:
    """What one argument stands for, in natural order."""
    path = Path(text)
    mode = _mode(path)
    if stat.S_ISDIR(mode):
        depth = None if recursive else 1
        return _find_below(path, target, plan, depth, lambda place: _is_media(place.name))
    if stat.S_ISREG(mode):
        # A file that is called "-" must not be taken for standard input.
        return [_Found(path.absolute() if str(path) == "-" else path, Path(path.name))]
    if not mode and any(character in text for character in GLOB_CHARACTERS):
        base, pattern = _split_pattern(path)
        depth = None if ANY_DEPTH in pattern else len(pattern)
        accepts_all = _names_a_suffix(pattern[-1])
        return _find_below(
            base, target, plan, depth, lambda p: (accepts_all or _is_media(p.name)) and _matches(p.parts, pattern)
        )
    what = "is neither a file nor a folder" if mode else "does not exist"
    raise UsageError(f"{text} {what}.", "Give folders, files, or patterns in quotes; `flashvsr upscale` takes pipes.")


def _find_below(
    folder: Path, target: Path, plan: BatchPlan, depth: int | None, is_wanted: Callable[[Path], bool]
) -> list[_Found]:
    here, there = _real(folder), _real(target)
    if here == there:
        raise UsageError("Input and output folder are the same.", "Choose another folder with -o.")
    holds_results = there.is_relative_to(here)
    paths = [path for path in _walk(folder, depth, plan) if is_wanted(path.relative_to(folder))]
    return [
        _Found(path, path.relative_to(folder))
        for path in sorted(paths, key=natural_key)
        if not (holds_results and _real(path).is_relative_to(there))
    ]


def _walk(folder: Path, depth: int | None, plan: BatchPlan) -> Iterator[Path]:
    """Files so many folders deep; real folders before linked ones, each once, so that a loop of links ends."""
    seen: set[tuple[int, int]] = set()
    real, linked = deque([(folder, 1)]), deque[tuple[Path, int]]()
    while real or linked:
        here, level = (real or linked).popleft()
        try:
            facts = here.stat()
            if (facts.st_dev, facts.st_ino) in seen:
                continue
            seen.add((facts.st_dev, facts.st_ino))
            children = [child for child in here.iterdir() if not child.name.startswith(".")]
        except OSError as error:
            plan.refused.append((here, input_error(f"The folder {here}", error)))
            continue
        for child in children:
            mode = _mode(child)
            if stat.S_ISDIR(mode):
                if depth is None or level < depth:
                    (linked if child.is_symlink() else real).append((child, level + 1))
            elif stat.S_ISREG(mode) or not mode:  # a link to nowhere is an input that fails, not one that is forgotten
                yield child


def _mode(path: Path) -> int:
    """The kind of file behind all links; 0 if there is none or nobody may look."""
    try:
        return path.stat().st_mode
    except (OSError, ValueError):
        return 0


def _real(path: Path) -> Path:
    """The path with all links followed; `Path.resolve` refuses loops of links, which here are bad files."""
    return Path(os.path.realpath(path))


def _is_media(name: str) -> bool:
    return Path(name).suffix.lower() in VIDEO_SUFFIXES | IMAGE_SUFFIXES


def _split_pattern(path: Path) -> tuple[Path, tuple[str, ...]]:
    """The folder in front of the first part with a wildcard, and the parts from there on."""
    i_first = next(i for i, part in enumerate(path.parts) if any(c in part for c in GLOB_CHARACTERS))
    base, pattern = Path(*path.parts[:i_first]), path.parts[i_first:]
    if ".." in pattern:
        raise UsageError(f"{path} goes up again behind a wildcard.", "Begin the pattern at the folder that is meant.")
    if not stat.S_ISDIR(_mode(base)):
        raise UsageError(f"{base}, where the pattern {path} begins, is not a folder.", "Check the spelling.")
    return base, pattern


def _matches(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    if not pattern:
        return not parts
    if pattern[0] == ANY_DEPTH:
        rest = pattern[1:]
        return any(_matches(parts[i:], rest) for i in range(len(parts) + 1)) if rest else bool(parts)
    return bool(parts) and fnmatchcase(parts[0], pattern[0]) and _matches(parts[1:], pattern[1:])


def _names_a_suffix(part: str) -> bool:
    suffix = Path(part).suffix
    return bool(suffix) and not any(character in suffix for character in GLOB_CHARACTERS)


def _nothing_in(text: str, recursive: bool) -> InputError:
    if not Path(text).is_dir():
        return InputError(f"No video or picture matches {text}.", "Check the pattern; ** stands for any folders.")
    more = "" if recursive else ", or add --recursive"
    return InputError(f"{text} holds no video or picture.", f"Check the folder{more}.")


def _check_extension(extension: str | None) -> None:
    if extension is not None and not extension.removeprefix(".").isalnum():
        raise UsageError(f"{extension!r} is not an extension.", "Give for instance --extension mkv.")


def _result_name(place: Path, extension: str | None) -> Path:
    suffix = place.suffix.lower()
    if suffix in IMAGE_SUFFIXES:
        return place
    if suffix not in VIDEO_SUFFIXES:
        return place.with_name(f"{place.name}.{(extension or FALLBACK_SUFFIX).lstrip('.')}")
    if extension:
        return place.with_suffix(f".{extension.lstrip('.')}")
    return place if suffix in WRITABLE_SUFFIXES else place.with_suffix(FALLBACK_SUFFIX)


def _claim(claimed: dict[str, BatchItem], plan: BatchPlan, item: BatchItem) -> None:
    key = _one_name(item.target)
    first = claimed.setdefault(key, item)
    if _real(first.source) == _real(item.source):
        return
    both = _apart(first.source, item.source)
    if _keeps_name(item) and not _keeps_name(first):
        claimed[key], item, first = item, first, item
    error = UsageError(
        f"{both} would both become {first.target}: only {first.source} is taken.",
        "Rename one, omit --extension, or give the folder that holds both.",
    )
    plan.refused.append((item.source, error))


def _keeps_name(item: BatchItem) -> bool:
    return item.source.name == item.target.name


def _apart(one: Path, other: Path) -> str:
    return f"{one.name} and {other.name}" if one.name != other.name else f"{one} and {other}"


def _one_name(path: Path) -> str:
    """The same text for names that some file system takes for one: links followed, case and accents unified."""
    return unicodedata.normalize("NFC", str(_real(path))).casefold()


def _refuse_replaced_inputs(items: Sequence[BatchItem]) -> None:
    inputs = {_one_name(item.source): item.source for item in items}
    for item in items:
        replaced = inputs.get(_one_name(item.target))
        if replaced is not None:
            raise UsageError(f"The result of {item.source} would replace the input {replaced}.", "Choose another -o.")


def check_place(item: BatchItem, folder: Path) -> None:
    """Refuse to write where a result of this batch cannot go.

    Args:
        item: what is to be written.
        folder: the output folder, which nothing leaves whatever links lie in it.

    Raises:
        UsageError: the place is outside, is a link or a folder, or the name means something else to the writer.
    """
    target = item.target
    if not _real(target.parent).is_relative_to(_real(folder)):
        raise UsageError(f"{target.parent} is a link that leads out of {folder}.", "Remove the link.")
    if target.is_symlink():
        raise UsageError(f"{target} is a link, and what it leads to would be replaced.", "Remove the link.")
    if target.is_dir():
        raise UsageError(f"{target} is a folder.", "Rename it, or choose another output folder.")
    if target.suffix.lower() in IMAGE_SUFFIXES and NUMBER_FIELD.search(target.name):
        raise UsageError(f"The name {target.name} stands for numbered pictures.", "Rename the input.")
    if is_temporary_name(target.name):
        raise UsageError(f"{target.name} is a name of unfinished results.", "Rename the input.")
