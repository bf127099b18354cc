"""What a batch remembers in its output folder: one line of JSON per finished or failed file, only ever appended.

The last line about a result says what happened last, the last one with state "done" how the file that is there was
made. A line that cannot be read, as the last one after a power cut, is passed over.
"""

import errno
import hashlib
import json
import os
import stat
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from flashvsr_cli import __version__
from flashvsr_cli.errors import OutputError
from flashvsr_cli.video.faults import output_error

RECORD_NAME = ".flashvsr-batch.jsonl"
FORMAT = 1
BLOCK_BYTES = 4 * 2**20
State = Literal["done", "failed"]


@dataclass(frozen=True)
class Stamp:
    """What changes when a file is written to: its size and time of change."""

    n_bytes: int
    changed_ns: int

    @classmethod
    def of(cls, path: Path) -> "Stamp":
        """That of a file. Raises `OSError`."""
        facts = path.stat()
        return cls(facts.st_size, facts.st_mtime_ns)


@dataclass(frozen=True)
class Entry:
    """One line.

    Attributes:
        result: the result's path below the output folder.
        state: "done" or "failed".
        settings: all that decides the result beside the input's content, as a JSON object; empty if it failed.
        source: the input as it was when it was opened; None if it was not there.
        sha256: of the whole input; None if it was not hashed.
        output: the result when it was done; None if it failed.
        error: why it failed.
        n_attempts: how often it was tried.
    """

    result: str
    state: State
    settings: dict[str, Any]
    source: Stamp | None = None
    sha256: str | None = None
    output: Stamp | None = None
    error: str | None = None
    n_attempts: int = 1

    def to_line(self) -> bytes:
        """As it is stored, with its newline."""
        facts = {"record": FORMAT, "flashvsr": __version__, **asdict(self)}
        return json.dumps(facts, separators=(",", ":")).encode() + b"\n"

    @classmethod
    def from_line(cls, line: bytes) -> "Entry":
        """Raises `ValueError`, `KeyError` or `TypeError` if it is none."""
        facts = json.loads(line)
        if facts["record"] != FORMAT or facts["state"] not in ("done", "failed"):
            raise ValueError("a line of another version")
        sha256, error = facts["sha256"], facts["error"]
        return cls(
            result=_checked(facts["result"], str),
            state=facts["state"],
            settings=_checked(facts["settings"], dict),
            source=_read_stamp(facts["source"]),
            sha256=None if sha256 is None else _checked(sha256, str),
            output=_read_stamp(facts["output"]),
            error=None if error is None else _checked(error, str),
            n_attempts=_checked(facts["n_attempts"], int),
        )


def _checked(value: Any, kind: type) -> Any:
    if not isinstance(value, kind):
        raise TypeError(f"{value!r} is no {kind.__name__}")
    return value


def _read_stamp(facts: dict[str, Any] | None) -> Stamp | None:
    return None if facts is None else Stamp(_checked(facts["n_bytes"], int), _checked(facts["changed_ns"], int))


class Record:
    """The record of one output folder.

    Args:
        folder: the output folder; need not exist before something is added.

    Attributes:
        last: the last line about each result, by its path below the folder.
        made: the last line with state "done" about each result.
        notices: what the user should know.

    Raises:
        OutputError: there is a record, but it cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / RECORD_NAME
        self._lock = threading.Lock()
        self.last: dict[str, Entry] = {}
        self.made: dict[str, Entry] = {}
        self.notices: list[str] = []
        self._read()

    def key(self, target: Path) -> str:
        """What a result is called here."""
        return target.relative_to(self._folder).as_posix()

    def add(self, entry: Entry) -> None:
        """Append a line and bring it to the disk. May be called from any thread.

        Raises:
            OutputError: it cannot be written.
        """
        with self._lock:
            self._remember(entry)
            try:
                self._append(entry.to_line())
            except OSError as error:
                raise output_error(f"The record {self._path}", error) from error

    def _append(self, line: bytes) -> None:
        # Through a link the line would go into somebody else's file.
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o666)
        try:
            n_bytes = os.fstat(fd).st_size
            is_torn = n_bytes > 0 and os.pread(fd, 1, n_bytes - 1) != b"\n"
            data = b"\n" + line if is_torn else line
            if os.write(fd, data) < len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(fd)
        finally:
            os.close(fd)

    def _read(self) -> None:
        n_damaged = 0
        try:
            if not stat.S_ISREG(self._path.lstat().st_mode):
                raise OutputError(f"{self._path}, the record of the batch, is no regular file.", "Remove it.")
            with self._path.open("rb") as file:
                for line in file:
                    try:
                        self._remember(Entry.from_line(line))
                    except (ValueError, KeyError, TypeError, RecursionError):
                        n_damaged += bool(line.strip())
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            raise OutputError(
                f"The record {self._path} cannot be read: {error.strerror}.", "Change its permissions, or remove it."
            ) from error
        if n_damaged:
            lines = "1 line" if n_damaged == 1 else f"{n_damaged} lines"
            self.notices.append(f"{lines} of {self._path} cannot be read and counted as not there.")

    def _remember(self, entry: Entry) -> None:
        self.last[entry.result] = entry
        if entry.state == "done":
            self.made[entry.result] = entry


def hash_content(path: Path, is_stopped: Callable[[], bool] = lambda: False) -> str | None:
    """The SHA-256 of a whole file; None if `is_stopped` came true before the end.

    Of all of it: an input that was only changed in its middle is another one.

    Raises:
        OSError: it cannot be read.
    """
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while block := file.read(BLOCK_BYTES):
            if is_stopped():
                return None
            digest.update(block)
    return digest.hexdigest()
