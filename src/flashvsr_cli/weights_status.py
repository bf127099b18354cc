"""What of which model is on this machine, and whether it is what it should be. Needs no network."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from flashvsr_cli import weights_hub
from flashvsr_cli.weights import find_in_folder, folder_version, resolve_single_file
from flashvsr_cli.weights_check import OnProgress, hash_file, on_bytes_of, remembered_hash
from flashvsr_cli.weights_registry import (
    FOLDER_LAYOUT,
    ROLES,
    KnownFile,
    KnownModel,
    Registry,
    Role,
    read_registry,
)


@dataclass(frozen=True)
class FileStatus:
    """One file of a model as it is on this machine.

    Attributes:
        known: what weights.toml says; None for a file it does not list.
        path: where it lies; None if it is not there.
        state: "missing", "present" (not hashed yet), "verified", "wrong", "unlisted" (no hash to compare).
        detail: a sentence about the state, if there is more to say.
        sha256: the file's own hash, if it was computed.
    """

    file_name: str
    role: Role | None
    known: KnownFile | None
    path: Path | None
    state: Literal["missing", "present", "verified", "unlisted", "wrong"]
    detail: str = ""
    sha256: str | None = None


@dataclass(frozen=True)
class ModelStatus:
    """One model of weights.toml and its files as they are on this machine."""

    model: KnownModel
    files: tuple[FileStatus, ...]


def list_models() -> list[ModelStatus]:
    """The models of weights.toml and which of their files are here; hashes nothing and needs no network.

    Raises:
        WeightsError: if weights.toml cannot be read.
    """
    return [
        ModelStatus(model, tuple(_file_status(file) for file in model.files))
        for model in read_registry().models.values()
    ]


def verify_model(model: str, *, on_progress: OnProgress | None = None) -> list[FileStatus]:
    """Hash every file of a model anew, whatever is remembered about it.

    Args:
        model: a name in weights.toml, or a folder or file.
        on_progress: told about the hashing.

    Raises:
        WeightsError: if the model is unknown, an unlisted file is damaged, or a folder mixes versions.
            Everything else that is wrong is in the result.
    """
    registry = read_registry()
    if model in registry.models:
        return [_verify_known(file, model, on_progress) for file in registry.model(model).files]
    path = Path(model).expanduser()
    if path.is_dir():
        return _verify_folder(path, registry, on_progress)
    if path.is_file():
        resolve_single_file(path, None, None)
        return [_verify_local(None, path, registry, on_progress)]
    raise registry.unknown(model)


def _verify_folder(folder: Path, registry: Registry, on_progress: OnProgress | None) -> list[FileStatus]:
    found = {role: path for role in ROLES if (path := find_in_folder(folder, role)) is not None}
    statuses = [_verify_local(role, path, registry, on_progress) for role, path in found.items()]
    folder_version(found, registry, None, None)
    missing = [role for role in ROLES if role not in found]
    return statuses + [FileStatus(FOLDER_LAYOUT[role][0], role, None, None, "missing") for role in missing]


def _file_status(file: KnownFile) -> FileStatus:
    path = weights_hub.local_path(file)
    if path is None:
        return FileStatus(file.file_name, file.role, file, None, "missing")
    sha256 = remembered_hash(path)
    state: Literal["present", "verified", "wrong"] = "present"
    if sha256 is not None:
        state = "verified" if sha256 == file.sha256 else "wrong"
    return FileStatus(file.file_name, file.role, file, path, state, sha256=sha256)


def _verify_known(file: KnownFile, model: str, on_progress: OnProgress | None) -> FileStatus:
    path = weights_hub.local_path(file)
    if path is None:
        return FileStatus(file.file_name, file.role, file, None, "missing")
    sha256 = hash_file(path, on_bytes_of(on_progress, "verify", file.file_name, file.n_bytes), afresh=True)
    if sha256 == file.sha256:
        return FileStatus(file.file_name, file.role, file, path, "verified", sha256=sha256)
    return FileStatus(file.file_name, file.role, file, path, "wrong", weights_hub.how_to_mend(file, model), sha256)


def _verify_local(role: Role | None, path: Path, registry: Registry, on_progress: OnProgress | None) -> FileStatus:
    sha256 = hash_file(path, on_bytes_of(on_progress, "verify", path.name, path.stat().st_size), afresh=True)
    known = registry.identify(sha256)
    if known is None:
        # With no hash to compare with, the tensors have to speak for the file; only this needs torch.
        from flashvsr_cli.model.loading import check_tensors

        detail = f"not in weights.toml; {check_tensors(path)} tensors are readable and finite"
        return FileStatus(path.name, role, None, path, "unlisted", detail, sha256)
    return FileStatus(path.name, role, known, path, "verified", f"of {' and '.join(known.versions)}", sha256)
