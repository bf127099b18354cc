"""From what the user calls a model to verified local files.

A model is a name in weights.toml (part of this package, or downloaded into the Hugging Face Hub's own cache), a folder
in the released layout, or one .safetensors file of this project. Imports no torch; huggingface_hub only when it is
needed.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import get_args

from flashvsr_cli import weights_hub
from flashvsr_cli.errors import WeightsError
from flashvsr_cli.options import Decoder, Version
from flashvsr_cli.weights_check import OnBytes, OnProgress, Stage, check_file, hash_file, on_bytes_of
from flashvsr_cli.weights_registry import (
    DECODER_ROLE,
    FOLDER_LAYOUT,
    ROLES,
    SINGLE_FILE_FORMAT,
    SINGLE_FILE_FORMAT_VERSION,
    KnownFile,
    KnownModel,
    Registry,
    Role,
    needed_roles,
    read_registry,
    read_safetensors_header,
)

DEFAULT_VERSION: Version = "v1.1"
_VERSION_NEXT_STEP = "Leave --model-version out, or choose the --model of that version."


@dataclass(frozen=True)
class Checkpoint:
    """Local files that together are one model.

    Attributes:
        name: what the user called it.
        version: which rule the LQ projection's cache follows.
        files: the file of each role; a single-file checkpoint has the same path for every role.
        is_single_file: whether keys carry their role as a prefix.
        metadata: the strings of a single file's header; see `model/traits.py`.
    """

    name: str
    version: Version
    files: Mapping[Role, Path]
    is_single_file: bool = False
    metadata: Mapping[str, str] = field(default_factory=dict)

    def sha256(self, on_progress: OnProgress | None = None) -> dict[str, str]:
        """SHA-256 per file name; files are read only if they are new or have changed.

        Raises:
            WeightsError: if a file cannot be read.
        """
        paths = sorted(set(self.files.values()))
        return {
            path.name: hash_file(path, _hashing(on_progress, path, i_file, len(paths)))
            for i_file, path in enumerate(paths)
        }


def resolve_checkpoint(
    model: str,
    *,
    version: Version | None = None,
    decoder: Decoder = "tiny",
    download: bool = True,
    on_progress: OnProgress | None = None,
) -> Checkpoint:
    """Find, fetch if need be, and verify the files of a model.

    Args:
        model: a name in weights.toml, a folder in the released layout, or a .safetensors of this project.
        version: what the user says it is; None takes it from weights.toml, the hashes or the file's metadata.
        decoder: which decoder's weights are needed.
        download: whether missing files of a known model may be fetched.
        on_progress: told about downloads and hashing.

    Raises:
        WeightsError: if a file is missing, cannot be fetched, is not as listed, or has another version.
    """
    registry = read_registry()
    if model in registry.models:
        return _resolve_known(registry.model(model), version, decoder, download, on_progress)
    path = Path(model).expanduser()
    if path.is_dir():
        return _resolve_folder(path, registry, version, decoder, on_progress)
    if path.is_file():
        return resolve_single_file(path, version, decoder)
    raise registry.unknown(model)


def download_model(
    name: str,
    *,
    decoders: tuple[Decoder, ...] = ("tiny",),
    force: bool = False,
    on_progress: OnProgress | None = None,
) -> list[Path]:
    """Fetch and verify the files of a model of weights.toml; files already there are kept unless `force`.

    Raises:
        WeightsError: if the name is unknown or a file cannot be fetched or is not what it should be.
    """
    model = read_registry().model(name)
    files = tuple(dict.fromkeys(file for decoder in decoders for file in model.files_for(decoder)))
    return [_fetch(file, name, force, on_progress, i_file, len(files)) for i_file, file in enumerate(files)]


def _resolve_known(
    model: KnownModel,
    version: Version | None,
    decoder: Decoder,
    download: bool,
    on_progress: OnProgress | None,
) -> Checkpoint:
    if version is not None and version != model.version:
        raise WeightsError(f"Model {model.name} is {model.version}, not {version}.", _VERSION_NEXT_STEP)
    files = model.files_for(decoder)
    paths: dict[Role, Path] = {}
    for i_file, file in enumerate(files):
        if not download and weights_hub.local_path(file) is None:
            raise WeightsError(
                f"{file.file_name} of model {model.name} has not been downloaded.",
                f"Run `flashvsr weights download {model.name} --decoder {decoder}`.",
            )
        path = _fetch(file, model.name, False, on_progress, i_file, len(files))
        if file.role is None:
            return replace(resolve_single_file(path, model.version, decoder), name=model.name)
        paths[file.role] = path
    return Checkpoint(model.name, model.version, paths)


def _fetch(file: KnownFile, model: str, force: bool, on_progress: OnProgress | None, i_file: int, n_files: int) -> Path:
    """The verified local copy of a file of weights.toml; what is part of this package is never fetched."""

    def report(stage: Stage) -> OnBytes:
        return on_bytes_of(on_progress, stage, file.file_name, file.n_bytes, i_file, n_files)

    next_step = weights_hub.how_to_mend(file, model)
    path = None if force and not file.is_packaged else weights_hub.local_path(file)
    if path is None:
        path = weights_hub.download(file, next_step, force, report("download"), report("verify"))
    check_file(path, file, next_step, report("verify"))
    return path


def find_in_folder(folder: Path, role: Role) -> Path | None:
    """The first accepted file of a role in a folder of the released layout; None if there is none."""
    return next((folder / name for name in FOLDER_LAYOUT[role] if (folder / name).is_file()), None)


def _resolve_folder(
    folder: Path,
    registry: Registry,
    version: Version | None,
    decoder: Decoder,
    on_progress: OnProgress | None,
) -> Checkpoint:
    files: dict[Role, Path] = {}
    for role in needed_roles(decoder):
        path = find_in_folder(folder, role)
        if path is None:
            raise WeightsError(
                f"{folder} lacks {' or '.join(FOLDER_LAYOUT[role])}, the model's {role} weights.",
                "Put the file there, or use --model v1.1 to have everything downloaded."
                if role != DECODER_ROLE["full"]
                else "Put the file there, or use --decoder tiny.",
            )
        files[role] = path
    return Checkpoint(str(folder), folder_version(files, registry, version, on_progress), files)


def folder_version(
    files: Mapping[Role, Path], registry: Registry, version: Version | None, on_progress: OnProgress | None
) -> Version:
    """The version that the files' hashes agree on, else what the user says, else the default.

    A DiT and an LQ projection of different versions load without complaint and give ghost images.

    Raises:
        WeightsError: if two files are of different versions, or one is not of `version`.
    """
    certain: dict[Path, Version] = {}
    for i_file, (role, path) in enumerate(files.items()):
        known = _identify(role, path, registry, _hashing(on_progress, path, i_file, len(files)))
        if known is not None and len(known.versions) == 1:
            certain[path] = known.versions[0]
    if len(set(certain.values())) > 1:
        facts = " and ".join(f"{path.name} is of {found}" for path, found in certain.items())
        raise WeightsError(
            f"{facts}: files of two versions do not work together.",
            "Take both files from one version, or use --model v1.1.",
        )
    for path, found in certain.items():
        if version is not None and version != found:
            raise WeightsError(f"{path.name} is of {found}, but --model-version says {version}.", _VERSION_NEXT_STEP)
        return found
    return version or DEFAULT_VERSION


def _identify(role: Role, path: Path, registry: Registry, on_bytes: OnBytes) -> KnownFile | None:
    """What the file is by its hash; hashed only if its size is that of a file this role can be."""
    try:
        n_bytes = path.stat().st_size
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error.strerror}.", "Check its permissions.") from error
    if not any(file.role == role and file.has_size(n_bytes) for file in registry.files):
        return None
    return registry.identify(hash_file(path, on_bytes))


def resolve_single_file(path: Path, version: Version | None, decoder: Decoder | None) -> Checkpoint:
    """The checkpoint in one file of this project; with no decoder given, any roles will do.

    Raises:
        WeightsError: if it is another kind of file, damaged, of another version, or lacks a role.
    """
    header = read_safetensors_header(path)
    if header.metadata.get("format") != SINGLE_FILE_FORMAT:
        raise WeightsError(
            f"{path} is not a checkpoint of this project.",
            "Give --model the folder that holds the released files, or the name of a model.",
        )
    if header.metadata.get("format_version") != SINGLE_FILE_FORMAT_VERSION:
        raise WeightsError(
            f"{path} has format version {header.metadata.get('format_version')}, which is not known here.",
            "Upgrade flashvsr-cli.",
        )
    stored = next((known for known in get_args(Version) if known == header.metadata.get("version")), None)
    if stored is None:
        raise WeightsError(f"{path} does not say which version it follows.", "Save it again with a version.")
    if version is not None and version != stored:
        raise WeightsError(f"{path.name} is of {stored}, but --model-version says {version}.", _VERSION_NEXT_STEP)
    present = {key.split(".", 1)[0] for key in header.entries}
    for role in needed_roles(decoder) if decoder else ():
        if role not in present:
            raise WeightsError(f"{path} holds no {role} weights.", "Choose the other --decoder, or another --model.")
    files = {role: path for role in ROLES if role in present}
    return Checkpoint(str(path), stored, files, is_single_file=True, metadata=header.metadata)


def _hashing(on_progress: OnProgress | None, path: Path, i_file: int, n_files: int) -> OnBytes:
    n_bytes = path.stat().st_size if path.exists() else 0
    return on_bytes_of(on_progress, "verify", path.name, n_bytes, i_file, n_files)
