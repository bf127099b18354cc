"""Sizes and hashes of files, each file hashed once and remembered.

What was hashed is kept in `verified.json` in `cache_folder()`, by path, size and modification time, so that a
file of several gigabytes is read in full only when it is new or has changed.
"""

import hashlib
import json
import logging
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from flashvsr_cli.errors import WeightsError
from flashvsr_cli.weights_registry import KnownFile

CACHE_ENV = "FLASHVSR_CACHE_DIR"
_BLOCK_BYTES = 4 << 20
_MEMORY_LIMIT = 1000

_log = logging.getLogger(__name__)

Stage = Literal["download", "verify"]

OnBytes = Callable[[int], None]
"""Called with the number of bytes dealt with so far."""


@dataclass(frozen=True)
class Progress:
    """How far the fetching of one file is.

    Attributes:
        file_name: the file.
        stage: "download", or "verify" while a file is hashed.
        n_done: bytes dealt with, of `n_total`; a resumed download starts above 0.
        i_file: index of the file among the `n_files` of the model.
    """

    file_name: str
    stage: Stage
    n_done: int
    n_total: int
    i_file: int = 0
    n_files: int = 1


OnProgress = Callable[[Progress], None]
"""What a caller passes to be told about downloads and hashing."""


def on_bytes_of(
    on_progress: OnProgress | None,
    stage: Stage,
    file_name: str,
    n_total: int,
    i_file: int = 0,
    n_files: int = 1,
) -> OnBytes:
    """`on_progress` for one stage of one file, as a function of the bytes done."""

    def on_bytes(n_done: int) -> None:
        if on_progress is not None:
            on_progress(Progress(file_name, stage, n_done, n_total, i_file, n_files))

    return on_bytes


def cache_folder() -> Path:
    """This tool's own cache: $FLASHVSR_CACHE_DIR, or `flashvsr-cli` in the user's cache folder.

    Downloaded weights are not kept here but in the cache of huggingface_hub.
    """
    override = os.environ.get(CACHE_ENV)
    if override:
        return Path(override).expanduser()
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or "~/AppData/Local")
    elif sys.platform == "darwin":
        base = Path("~/Library/Caches")
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    return base.expanduser() / "flashvsr-cli"


def hash_file(path: Path, on_bytes: OnBytes | None = None, *, afresh: bool = False) -> str:
    """The file's SHA-256 in hexadecimal, from memory if the file has not changed since it was last hashed.

    Args:
        path: the file.
        on_bytes: told how far the hashing is; not called when the hash is remembered.
        afresh: read the file even if its hash is remembered.

    Raises:
        WeightsError: if it cannot be read.
    """
    remembered = None if afresh else remembered_hash(path)
    if remembered is not None:
        return remembered
    digest = hashlib.sha256()
    n_done = 0
    try:
        with path.open("rb", buffering=0) as stream:
            key = _key(path)
            while block := stream.read(_BLOCK_BYTES):
                digest.update(block)
                n_done += len(block)
                if on_bytes is not None:
                    on_bytes(n_done)
    except OSError as error:
        raise WeightsError(
            f"{path} cannot be read: {error.strerror}.", "Check the path and its permissions."
        ) from error
    _remember(key, digest.hexdigest())
    return digest.hexdigest()


def remembered_hash(path: Path) -> str | None:
    """The file's SHA-256 if it was hashed before and has not changed since."""
    try:
        return _read_memory().get(_key(path))
    except OSError:
        return None


def check_file(path: Path, known: KnownFile, next_step: str, on_bytes: OnBytes | None = None) -> None:
    """Compare a file with what weights.toml says about it.

    Args:
        path: the file as it lies on disk.
        known: what it should be.
        next_step: what the user can do if it is something else.
        on_bytes: told how far the hashing is; not called when the hash is remembered.

    Raises:
        WeightsError: if the size or the hash differs.
    """
    try:
        n_bytes = path.stat().st_size
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error.strerror}.", next_step) from error
    if not known.has_size(n_bytes):
        raise WeightsError(
            f"{known.file_name} has {n_bytes} bytes instead of {known.n_bytes} and is not used ({path}).",
            next_step,
        )
    actual = hash_file(path, on_bytes)
    if actual != known.sha256:
        raise WeightsError(
            f"{known.file_name} has sha256 {actual[:12]}… instead of {known.sha256[:12]}… and is not used ({path}).",
            next_step,
        )


def _key(path: Path) -> str:
    status = path.stat()
    return f"{status.st_size}:{status.st_mtime_ns}:{path.resolve()}"


def _memory_path() -> Path:
    return cache_folder() / "verified.json"


def _read_memory() -> dict[str, str]:
    try:
        memory = json.loads(_memory_path().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}  # absent or damaged: it only saves time, so start anew
    return memory if isinstance(memory, dict) else {}


def _remember(key: str, sha256: str) -> None:
    memory = _read_memory()
    memory.pop(key, None)
    memory[key] = sha256
    memory = dict(list(memory.items())[-_MEMORY_LIMIT:])
    path = _memory_path()
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(memory, indent=0), encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        _log.warning("%s cannot be written (%s): weights are hashed again at every start.", path, error.strerror)
