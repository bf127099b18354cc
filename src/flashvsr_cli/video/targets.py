"""Files and folders that appear under their final name only when complete."""

import atexit
import errno
import fcntl
import os
import re
import shutil
import stat
import uuid
import zlib
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from flashvsr_cli.errors import OutputError
from flashvsr_cli.video.pipes import Writable

MAX_STEM_CHARS = 40


class ByteTarget(Protocol):
    """A file or pipe that is filled and then ends with `commit` or `abort`."""

    n_bytes: int

    def write(self, data: Writable) -> int:
        """Writes all of `data`."""
        ...

    def commit(self) -> None:
        """Makes the output final."""
        ...

    def abort(self) -> None:
        """Removes what can be removed, unless it was committed. Idempotent."""
        ...

    def interrupt(self) -> None:
        """Makes a blocked write give up; may be called from any thread."""
        ...


def temporary_beside(target: Path) -> Path:
    """A hidden name in the same folder, unique to this process, with the target's extension.

    It tells the writing process and the target, of which it may hold the beginning only.
    """
    mark = f".part-{os.getpid()}-{_mark_of(target)}{uuid.uuid4().hex[:8]}"
    return target.with_name(f".{target.stem[:MAX_STEM_CHARS]}{mark}{target.suffix}")


def _mark_of(target: Path) -> str:
    return f"{zlib.crc32(os.fsencode(target.name)):08x}"


def journal_of(target: Path) -> Path:
    """Where the state of a resumable run is kept."""
    return target.with_name(f".{target.name}.resume")


def remove_abandoned(target: Path) -> None:
    """Removes temporaries of a target whose writers were killed.

    A writer is gone if no process has its number and nobody holds the lock of its temporary: the number alone may
    belong to another container or machine that shares the folder, and the lock alone is not known to every file system.
    """
    head = re.escape(f".{target.stem[:MAX_STEM_CHARS]}.part-")
    shape = re.compile(rf"{head}(\d+)-{_mark_of(target)}[0-9a-f]{{8}}{re.escape(target.suffix)}")
    for path in target.parent.iterdir():
        match = shape.fullmatch(path.name)
        if match is None or _is_running(int(match[1])) or _is_locked(path):
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _is_running(pid: int) -> bool:
    """Whether another process has that number; this one's temporaries are told by their locks."""
    if pid == os.getpid():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def _is_locked(path: Path) -> bool:
    """Whether a process holds the lock of a temporary, or may hold it."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return True
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(fd)
    return False


def _lock(fd: int) -> None:
    """Says that a temporary is being written, as long as the descriptor is open."""
    with suppress(OSError):  # A file system without locks: `_is_locked` takes its files for locked.
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _begin_anew(target: Path) -> None:
    """Clears away what killed runs left, unless a run is to be resumed: its own session does it then."""
    if not journal_of(target).exists():
        remove_abandoned(target)


def prepare_target(location: str) -> Path:
    """The file that `location` stands for, with links followed.

    Raises:
        OutputError: if its folder does not exist or cannot be written, or if it is not a regular file.
    """
    target = Path(os.path.realpath(location))
    if not target.parent.is_dir():
        raise OutputError(f"The folder {target.parent} does not exist.", "Create it, or choose another output.")
    if target.exists() and not stat.S_ISREG(target.stat().st_mode):
        raise OutputError(f"{location} exists and is not a file.", "Choose another name for the output.")
    if not os.access(target.parent, os.W_OK | os.X_OK):
        raise OutputError(
            f"The folder {target.parent} cannot be written.", "Change its permissions, or choose another."
        )
    return target


_unfinished: dict[Path, int] = {}


@atexit.register
def _remove_unfinished() -> None:
    """Removes the temporaries of this process that nobody settled, such as those a signal took from their owners."""
    for path, pid in list(_unfinished.items()):  # a writer's thread may still settle one
        if pid != os.getpid():
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


class PartFile:
    """A file written under a temporary name and renamed by `commit`; the file object that PyAV fills.

    Args:
        target: the final path; its folder exists.
        overwrite: whether `commit` may replace a file that appears meanwhile; one that is there already it may.

    Raises:
        OSError: from the constructor if the temporary cannot be made, later from `write`.
    """

    def __init__(self, target: Path, *, overwrite: bool = False) -> None:
        self.target = target
        self._replaces = overwrite or target.exists()
        _begin_anew(target)
        self.path = temporary_beside(target)
        self.name = str(self.path)
        _unfinished[self.path] = os.getpid()
        self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        _lock(self._fd)
        self._is_open = True
        self._is_settled = False
        self.n_bytes = 0

    @property
    def closed(self) -> bool:
        """Whether the descriptor is closed; PyAV then leaves out the trailer when it frees a container."""
        return not self._is_open

    def readable(self) -> bool:
        """False: the file protocol."""
        return False

    def writable(self) -> bool:
        """True: the file protocol."""
        return True

    def seekable(self) -> bool:
        """True: the file protocol."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Moves the position."""
        return os.lseek(self._fd, offset, whence)

    def tell(self) -> int:
        """The position."""
        return os.lseek(self._fd, 0, os.SEEK_CUR)

    def write(self, data: Writable) -> int:
        """Writes all of `data`."""
        view = memoryview(data).cast("B")
        written = 0
        while written < len(view):
            written += os.write(self._fd, view[written:])
        return written

    def interrupt(self) -> None:
        """Nothing: writing to a file does not wait for anybody."""

    def commit(self) -> None:
        """Brings the bytes to the disk and gives the file its final name.

        Raises:
            FileExistsError: a file of that name has appeared.
        """
        os.fsync(self._fd)
        self.n_bytes = os.fstat(self._fd).st_size
        _give_name(self.path, self.target, replaces=self._replaces)
        self._settle()
        self._close()
        sync_folder(self.target.parent)

    def abort(self) -> None:
        """Removes the temporary, unless it has been committed."""
        self._close()
        if not self._is_settled:
            self.path.unlink(missing_ok=True)
            self._settle()

    def _settle(self) -> None:
        self._is_settled = True
        _unfinished.pop(self.path, None)

    def _close(self) -> None:
        if self._is_open:
            self._is_open = False
            os.close(self._fd)


class PartFolder:
    """A folder filled under a temporary name beside its target.

    A sequence is one result: it shows up as a whole or not at all. A target that does not exist yet appears by one
    rename. Into a folder that exists the files are moved one by one, each whole, after all of them were written.

    Args:
        target: the final folder; its parent exists.
        overwrite: whether files of the same names may be replaced in it.
    """

    def __init__(self, target: Path, *, overwrite: bool = False) -> None:
        self.target = target
        self._replaces = overwrite
        _begin_anew(target)
        self.path = temporary_beside(target)
        self._is_settled = False
        _unfinished[self.path] = os.getpid()
        self.path.mkdir()
        self._fd = os.open(self.path, os.O_RDONLY)
        _lock(self._fd)

    def commit(self) -> None:
        """Gives the folder, or every file in it, its final name.

        Raises:
            FileExistsError: the folder has a file of such a name; none was moved.
        """
        sync_folder(self.path)
        if self.target.exists():
            paths = sorted(self.path.iterdir())
            if not self._replaces:
                _refuse_taken(self.target / path.name for path in paths)
            for path in paths:
                _give_name(path, self.target / path.name, replaces=self._replaces)
            self.path.rmdir()
            sync_folder(self.target)
        else:
            self.path.rename(self.target)
        self._settle()
        sync_folder(self.target.parent)

    def abort(self) -> None:
        """Removes the temporary folder, unless it has been committed."""
        if not self._is_settled:
            shutil.rmtree(self.path)
            self._settle()

    def _settle(self) -> None:
        self._is_settled = True
        _unfinished.pop(self.path, None)
        os.close(self._fd)


def _give_name(path: Path, target: Path, *, replaces: bool) -> None:
    """Moves a finished file to its final name; unless it `replaces` what is there, that is a `FileExistsError`."""
    if replaces:
        path.replace(target)
        return
    try:
        os.link(path, target)  # unlike a rename, it never replaces
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links, or a folder that has gone: then the rename says so
        _refuse_taken([target])
        path.rename(target)
    else:
        path.unlink()


def _refuse_taken(targets: Iterable[Path]) -> None:
    for target in targets:
        if os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))


def sync_folder(folder: Path) -> None:
    """Brings a folder's entries to the disk, so that a rename survives a power cut."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def is_temporary_name(name: str) -> bool:
    """Whether a file name is one that `temporary_beside` makes."""
    return re.fullmatch(r"\..*\.part-\d+-[0-9a-f]{8,16}(\.[^.]*)?", name) is not None
