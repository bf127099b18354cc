"""What is refused before a model is loaded: outputs that would destroy something or that nobody would read."""

import fcntl
import os
import re
import sys
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from flashvsr_cli.errors import OutputError, UsageError
from flashvsr_cli.video.formats import IMAGE_SUFFIXES
from flashvsr_cli.video.image_reader import NUMBER_FIELD, is_pattern

PIPE = "-"
REPORT_HEAD = re.compile(rb'\s*\{\s*"flashvsr":\s*"')
REPORT_HEAD_BYTES = 64


def check_target(source: str, target: str, *, overwrite: bool) -> None:
    """Refuse a target that is the source, that exists (unless `overwrite`), or that is a terminal or closed.

    Raises:
        OutputError: if it is.
    """
    if target == PIPE:
        if sys.stdout.isatty():
            raise OutputError("Frames would go to the terminal.", "Pipe stdout into a program, or name a file with -o.")
        _refuse_closed_stdout()
        return
    _refuse_source(source, target)
    _refuse_existing(target, overwrite=overwrite)


def check_targets(sources: Collection[str], targets: Sequence[str], *, overwrite: bool) -> None:
    """`check_target` for several sources and targets, which may not take each other's place either.

    Raises:
        OutputError: a target is a source or would be among its pictures, or `check_target` refuses it.
        UsageError: a target would take the place of another one.
    """
    for i_target, target in enumerate(targets):
        place = Path(os.path.realpath(target))  # a link is written through
        for source in sources:
            _refuse_source(source, target)
            if PIPE not in (source, target) and _is_among(place, source):
                raise OutputError(f"{source} holds the input's pictures.", "Choose another folder for the output.")
        for other in targets[:i_target]:
            if other == target or (PIPE not in (other, target) and _is_part_of(place, other)):
                raise UsageError(f"{target} would take the place of {other}.", "Choose another name for one of them.")
        check_target(PIPE, target, overwrite=overwrite)


def _refuse_source(source: str, target: str) -> None:
    if PIPE in (source, target):
        return
    if _is_same(Path(source), Path(target)):
        raise OutputError(f"{target} is the input itself.", "Choose another name for the output.")
    pictures = _pictures_at(target)
    if pictures and _is_same(_folder_of(source), pictures[0].parent):
        raise OutputError(f"{pictures[0].parent} holds the input's pictures.", "Choose another folder for the output.")


def _refuse_existing(target: str, *, overwrite: bool) -> None:
    pictures = _pictures_at(target)
    if pictures and not overwrite:
        raise OutputError(
            f"{target} has pictures already, {pictures[0].name} for one.",
            "Use --overwrite to replace those of the same name, or choose another folder.",
        )
    if Path(target).is_file() and not overwrite:
        raise OutputError(f"{target} exists already.", "Use --overwrite to replace it, or choose another name.")


def check_report(report: Path, sources: Iterable[str], targets: Iterable[str], *, overwrite: bool) -> None:
    """Refuse a report that could not be written after all the work, or that would destroy something.

    Args:
        report: its file, or "-".
        sources, targets: inputs and outputs of the run, each a path, a pattern, or "-".
        overwrite: whether the report may replace what is no report, either.

    Raises:
        OutputError: its folder does not exist, or it cannot be a file there, or `check_report_file` refuses it.
        UsageError: report and frames would both go to stdout, or the report would replace an input or output.
    """
    if str(report) == PIPE:
        if PIPE in targets:
            raise UsageError("Output and report would both go to stdout.", "Name a file for one of them.")
        _refuse_closed_stdout()
        return
    if report.is_dir():
        raise OutputError(f"The report {report} is a folder.", "Name a file in it.")
    if not report.parent.is_dir():
        raise OutputError(f"The folder {report.parent} of the report does not exist.", "Create it first.")
    if not os.access(report.parent, os.W_OK | os.X_OK):
        raise OutputError(
            f"The folder {report.parent} of the report cannot be written.", "Change its permissions, or choose another."
        )
    for location in (*sources, *targets):
        if location != PIPE and _is_part_of(report, location):
            raise UsageError(
                f"The report {report} would take the place of {location}.", "Choose another name for the report."
            )
    check_report_file(report, overwrite=overwrite)


def check_report_file(report: Path, *, overwrite: bool) -> None:
    """Refuse to replace what is no earlier report of this tool, unless `overwrite`.

    Raises:
        OutputError: there is such a file, or something that is no file at all.
    """
    if not report.exists():
        return
    if not report.is_file():
        raise OutputError(f"The report {report} exists and is not a file.", "Name a file, or - for stdout.")
    if not overwrite and not _is_report(report):
        raise OutputError(
            f"{report} exists already and is no earlier report.",
            "Use --overwrite to replace it, or choose another name for the report.",
        )


def _is_report(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return REPORT_HEAD.match(file.read(REPORT_HEAD_BYTES)) is not None
    except OSError:
        return False


def _is_part_of(path: Path, location: str) -> bool:
    """Whether a file is a location itself, or may be one of the pictures that it stands for."""
    if os.path.realpath(path) == os.path.realpath(location) or _is_same(path, Path(location)):
        return True
    return _is_among(path, location)


def _is_among(path: Path, location: str) -> bool:
    """Whether a file may be one of the pictures that a folder or a pattern stands for."""
    is_sequence = Path(location).is_dir() or is_pattern(location)
    is_picture = path.suffix.lower() in IMAGE_SUFFIXES
    return is_sequence and is_picture and _is_same(path.parent, _folder_of(location))


def _refuse_closed_stdout() -> None:
    if fcntl.fcntl(sys.stdout, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:  # as `repair_streams` leaves it
        raise OutputError("Standard output is closed.", "Pipe it into a program, or name a file.")


def _is_same(one: Path, other: Path) -> bool:
    return one.exists() and other.exists() and one.samefile(other)


def _folder_of(source: str) -> Path:
    """Where the pictures of a folder, of a pattern, or of a single file lie."""
    return Path(source) if Path(source).is_dir() else Path(source).parent


def _pictures_at(target: str) -> list[Path]:
    """The pictures that a sequence written to `target` could replace, if it names one."""
    path = Path(target)
    if path.is_dir():
        return sorted(p for p in path.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
    field = NUMBER_FIELD.search(path.name)
    if field is not None and path.parent.is_dir():
        shape = re.compile(re.escape(path.name[: field.start()]) + r"\d+" + re.escape(path.name[field.end() :]))
        return sorted(p for p in path.parent.iterdir() if shape.fullmatch(p.name))
    return []
