"""What FFmpeg and the operating system report, as sentences for the user."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from av.error import FFmpegError

from flashvsr_cli.errors import InputError, OutputError

NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


def reason(error: Exception) -> str:
    """The cause of an error in a few words."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return text[:1].lower() + text[1:].rstrip(".")


def input_error(name: str, error: Exception) -> InputError:
    """The `InputError` for a failure to read `name`."""
    return InputError(f"{name} cannot be read: {reason(error)}.", "Check the file and its permissions.")


def output_error(name: str, error: Exception) -> OutputError:
    """The `OutputError` for a failure to write `name`."""
    return OutputError(f"{name} cannot be written: {reason(error)}.", _advice(error))


@contextmanager
def output_faults(name: str) -> Iterator[None]:
    """Turns errors of writing `name` into `OutputError`."""
    try:
        yield
    except (FFmpegError, OSError) as error:
        raise output_error(name, error) from error


def _advice(error: Exception) -> str:
    number = getattr(error, "errno", None)
    if number in NO_SPACE:
        return "Free some space, or write to another disk."
    if number == errno.EFBIG:
        return "The file would exceed a size limit: raise it, or write to another disk."
    if number == errno.EPIPE:
        return "The program that read the output has ended: look at its messages."
    if number == errno.EEXIST:
        return "It has appeared since the run began: use --overwrite to replace it, or choose another name."
    if number in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "Change the permissions, or choose another output."
    return "Choose another output, codec or container."
