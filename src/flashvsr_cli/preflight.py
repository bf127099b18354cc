"""What is refused before a model is loaded: outputs that would destroy something or that nobody would read."""

import fcntl
import os
import re
import sys
from pathlib import Path

from flashvsr_cli.errors import OutputError, UsageError
from flashvsr_cli.video.image_reader import NUMBER_FIELD
from flashvsr_cli.video.images import IMAGE_SUFFIXES

PIPE = "-"


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
    path = Path(target)
    if source != PIPE and _is_same(Path(source), path):
        raise OutputError(f"{target} is the input itself.", "Choose another name for the output.")
    pictures = _pictures_at(target)
    if pictures and source != PIPE and _is_same(_folder_of(source), pictures[0].parent):
        raise OutputError(f"{pictures[0].parent} holds the input's pictures.", "Choose another folder for the output.")
    if pictures and not overwrite:
        raise OutputError(
            f"{target} has pictures already, {pictures[0].name} for one.",
            "Use --overwrite to replace those of the same name, or choose another folder.",
        )
    if path.is_file() and not overwrite:
        raise OutputError(f"{target} exists already.", "Use --overwrite to replace it, or choose another name.")


def check_report(report: Path, target: str | None = None) -> None:
    """Refuse a report that could not be written after all the work.

    Raises:
        OutputError: its folder does not exist, or it is a folder itself.
        UsageError: report and frames would both go to stdout, or into one file.
    """
    if target is not None and str(report) == target:
        raise UsageError("Output and report have the same name.", "Choose another name for the report.")
    if str(report) == PIPE:
        _refuse_closed_stdout()
        return
    if report.is_dir():
        raise OutputError(f"The report {report} is a folder.", "Name a file in it.")
    if not report.parent.is_dir():
        raise OutputError(f"The folder {report.parent} of the report does not exist.", "Create it first.")


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
