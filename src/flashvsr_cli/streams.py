"""Standard streams that are closed, full, or that nobody reads any more.

Messages that cannot be written are lost, and the work goes on. Results that cannot be written are an error.
"""

import io
import os
import sys
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

STDIN, STDOUT, STDERR = 0, 1, 2


def repair_streams() -> None:
    """Makes the three streams fit for use, however the process was started; to be called before a file is opened.

    One that is closed becomes the empty device: files would take its number otherwise. Standard output becomes one
    that cannot be written, so that no result goes there without a word.
    """
    for fd, mode in ((STDIN, os.O_RDONLY), (STDOUT, os.O_RDONLY), (STDERR, os.O_WRONLY)):
        try:
            os.fstat(fd)
        except OSError:
            os.set_inheritable(os.open(os.devnull, mode), True)  # the lowest number that is free: this one
    # Python leaves out streams that it finds closed, which its type stubs do not say.
    stdin: TextIO | None = sys.stdin
    if stdin is None:
        sys.stdin = os.fdopen(STDIN, closefd=False)
    sys.stdout = _as_text(_Results(STDOUT, "w", closefd=False), sys.stdout)
    sys.stderr = _as_text(_Messages(STDERR, "w", closefd=False), sys.stderr, errors="backslashreplace")


class _Results(io.FileIO):
    """Standard output: a failure to write is one the user is told about."""

    def write(self, data: "ReadableBuffer", /) -> int:
        """Raises `OutputError`; `BrokenPipeError` stays what it is."""
        try:
            return super().write(data)
        except OSError as error:
            # What waits in buffers must not fail once more when the interpreter ends.
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())
            if isinstance(error, BrokenPipeError):
                raise
            from flashvsr_cli.video.faults import output_error  # loads PyAV, which --help does without

            raise output_error("standard output", error) from error


class _Messages(io.FileIO):
    """Standard error: what it does not take is lost."""

    def write(self, data: "ReadableBuffer", /) -> int:
        """Always all of it."""
        try:
            return super().write(data) or memoryview(data).nbytes  # None: a pipe that does not wait is full
        except OSError:
            return memoryview(data).nbytes


def _as_text(raw: io.FileIO, former: TextIO | None, errors: str | None = None) -> io.TextIOWrapper:
    """A text stream in place of the interpreter's own."""
    is_for_people = raw.isatty() or errors is not None
    encoding = former.encoding if former is not None else None
    errors = errors or (former.errors if former is not None else None)
    return io.TextIOWrapper(io.BufferedWriter(raw), encoding, errors, line_buffering=is_for_people)
