"""What is known about checkpoints before their tensors are read: weights.toml, folder layout, file headers.

Imports neither torch nor huggingface_hub.
"""

import json
import os
import struct
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from flashvsr_cli.errors import WeightsError
from flashvsr_cli.options import Decoder, Version

Role = Literal["dit", "lq_projection", "tiny_decoder", "vae", "prompt"]

ROLES: tuple[Role, ...] = get_args(Role)
DECODER_ROLE: Mapping[Decoder, Role] = {"tiny": "tiny_decoder", "full": "vae"}
"""The role that only one of the decoders needs; every other role is always needed."""

FOLDER_LAYOUT: Mapping[Role, tuple[str, ...]] = {
    "dit": ("diffusion_pytorch_model_streaming_dmd.safetensors",),
    "lq_projection": ("LQ_proj_in.ckpt", "LQ_proj_in.safetensors"),
    "tiny_decoder": ("TCDecoder.ckpt", "TCDecoder.safetensors"),
    "vae": ("Wan2.1_VAE.pth",),
    "prompt": ("posi_prompt.pth", "Prompt.safetensors"),
}
"""Accepted file names of each role in a checkpoint folder, the first one found is taken."""

SINGLE_FILE_FORMAT = "flashvsr-cli"
SINGLE_FILE_FORMAT_VERSION = "1"

REGISTRY_ENV = "FLASHVSR_WEIGHTS_TOML"
REGISTRY_FORMAT = 1
_SAFETENSORS_HEADER_LIMIT = 100_000_000  # the format's own limit


def needed_roles(decoder: Decoder) -> tuple[Role, ...]:
    """The roles that upscaling with that decoder reads."""
    unused = {role for name, role in DECODER_ROLE.items() if name != decoder}
    return tuple(role for role in ROLES if role not in unused)


@dataclass(frozen=True)
class KnownFile:
    """One file of weights.toml.

    Attributes:
        role: what it is for; None for a single file that holds every role.
        versions: the model versions it belongs to.
        repository: Hub repository and `revision`, `path` inside it; None if the file cannot be downloaded.
        is_packaged: whether it is part of this package, at `path`.
        n_bytes: its size.
        inferred: the facts that were not read off the file itself, e.g. "bytes".
    """

    name: str
    role: Role | None
    versions: tuple[Version, ...]
    repository: str | None
    revision: str
    path: str
    n_bytes: int
    sha256: str
    inferred: frozenset[str]
    is_packaged: bool = False

    @property
    def file_name(self) -> str:
        """The last part of its path in the repository."""
        return self.path.rsplit("/", 1)[-1]

    def has_size(self, n_bytes: int) -> bool:
        """Whether a file of that size can be this one; always true where the size is only inferred."""
        return n_bytes == self.n_bytes or "bytes" in self.inferred


@dataclass(frozen=True)
class KnownModel:
    """One name that `--model` understands."""

    name: str
    version: Version
    summary: str
    license: str
    files: tuple[KnownFile, ...]

    def files_for(self, decoder: Decoder) -> tuple[KnownFile, ...]:
        """The files that upscaling with that decoder reads.

        Raises:
            WeightsError: if the model has no such decoder.
        """
        roles = needed_roles(decoder)
        files = tuple(file for file in self.files if file.role is None or file.role in roles)
        if not any(file.role in (None, DECODER_ROLE[decoder]) for file in files):
            raise WeightsError(
                f"Model {self.name} comes without the {decoder} decoder.",
                "Choose the other --decoder, or another --model.",
            )
        return files


@dataclass(frozen=True)
class Registry:
    """The contents of weights.toml.

    Attributes:
        default: the model for a CUDA device, unless the user names one.
        default_cpu: the same for a CPU.
        models, files: by name; all of them.
    """

    default: str
    default_cpu: str
    models: Mapping[str, KnownModel]
    files: tuple[KnownFile, ...]

    def model(self, name: str) -> KnownModel:
        """The model of that name.

        Raises:
            WeightsError: if there is none.
        """
        if name not in self.models:
            raise self.unknown(name)
        return self.models[name]

    def unknown(self, name: str) -> WeightsError:
        """The error for something that is neither a model's name nor a path."""
        return WeightsError(
            f"There is no model named {name!r}, and no such folder or file either.",
            f"Use one of {', '.join(self.models)}, or the path of a folder or a .safetensors file.",
        )

    def identify(self, sha256: str) -> KnownFile | None:
        """The file with that hash, if it is known."""
        return next((file for file in self.files if file.sha256 == sha256), None)


def find_registry() -> Path:
    """Where weights.toml lies: $FLASHVSR_WEIGHTS_TOML, in the installed package, or at the checkout's root.

    Raises:
        WeightsError: if it is at none of these places.
    """
    override = os.environ.get(REGISTRY_ENV)
    package = Path(__file__).resolve().parent
    candidates = [Path(override)] if override else [package / "weights.toml", package.parents[1] / "weights.toml"]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise WeightsError(
        f"{candidates[0]} is missing, so the known models cannot be listed.",
        f"Correct {REGISTRY_ENV}." if override else "Install flashvsr-cli again.",
    )


def read_registry(path: Path | None = None) -> Registry:
    """Read weights.toml, by default the one of `find_registry`.

    Raises:
        WeightsError: if it is missing or says something that has no meaning.
    """
    path = path or find_registry()
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
        if document["format"] != REGISTRY_FORMAT:
            raise ValueError(f"format {document['format']} is not {REGISTRY_FORMAT}")
        files = {name: _parse_file(name, table) for name, table in document["files"].items()}
        models = {name: _parse_model(name, table, files) for name, table in document["models"].items()}
        default, default_cpu = document["default"], document.get("default_cpu", document["default"])
        for name in (default, default_cpu):
            if name not in models:
                raise ValueError(f"the default model {name!r} is not listed")
    except KeyError as error:
        raise WeightsError(f"{path} lacks {error}.", "Install flashvsr-cli again, or mend the file.") from error
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise WeightsError(
            f"{path} cannot be used: {error}.", "Install flashvsr-cli again, or mend the file."
        ) from error
    return Registry(default, default_cpu, models, tuple(files.values()))


def _parse_file(name: str, table: Mapping[str, Any]) -> KnownFile:
    role, versions, sha256 = table["role"], tuple(table["versions"]), table["sha256"]
    if role != "all" and role not in ROLES:
        raise ValueError(f"role {role!r} of {name} is unknown")
    if not versions or not set(versions) <= set(get_args(Version)):
        raise ValueError(f"versions of {name} are unknown")
    if len(sha256) != 64 or int(sha256, 16) < 0:
        raise ValueError(f"sha256 of {name} is not 64 hexadecimal digits")
    repository, packaged = table.get("repository"), table.get("packaged")
    return KnownFile(
        name=name,
        role=None if role == "all" else role,
        versions=versions,
        repository=repository,
        revision=table["revision"] if repository else "",
        path=table["path"] if repository else packaged or name,
        n_bytes=int(table["bytes"]),
        sha256=sha256.lower(),
        inferred=frozenset(table.get("inferred", ())),
        is_packaged=packaged is not None,
    )


def _parse_model(name: str, table: Mapping[str, Any], files: Mapping[str, KnownFile]) -> KnownModel:
    version = table["version"]
    if version not in get_args(Version):
        raise ValueError(f"version {version!r} of model {name} is unknown")
    chosen = tuple(files[file] for file in table["files"])
    for file in chosen:
        if version not in file.versions or not (file.repository or file.is_packaged):
            raise ValueError(f"{file.name} does not belong in model {name}")
    return KnownModel(name, version, table["summary"], table["license"], chosen)


@dataclass(frozen=True)
class SafetensorsHeader:
    """The head of a safetensors file, checked against the file's length.

    Attributes:
        metadata: the free-form strings.
        entries: per key the tensor's dtype name, shape, and first and past-the-last byte in the file.
    """

    metadata: Mapping[str, str]
    entries: Mapping[str, tuple[str, tuple[int, ...], int, int]]


def read_safetensors_header(path: Path) -> SafetensorsHeader:
    """Read the head of a safetensors file.

    Raises:
        WeightsError: if the file is missing, is no safetensors file, or is shorter than its head says.
    """
    try:
        with path.open("rb") as stream:
            n_file = os.fstat(stream.fileno()).st_size
            lead = stream.read(8)
            n_header = struct.unpack("<Q", lead)[0] if len(lead) == 8 else 0
            if not 2 <= n_header <= _SAFETENSORS_HEADER_LIMIT:
                raise damaged(path, "it is not a safetensors file")
            raw = stream.read(n_header)
    except OSError as error:
        raise WeightsError(
            f"{path} cannot be read: {error.strerror}.", "Check the path and its permissions."
        ) from error
    if len(raw) < n_header:
        raise damaged(path, "it is cut short")
    try:
        document: dict[str, Any] = json.loads(raw)
        metadata = {str(key): str(value) for key, value in document.pop("__metadata__", {}).items()}
        entries = {}
        for key, entry in document.items():
            begin, end = entry["data_offsets"]
            entries[key] = (entry["dtype"], tuple(entry["shape"]), 8 + n_header + begin, 8 + n_header + end)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise damaged(path, "its header is not readable") from error
    n_needed = max((end for *_, end in entries.values()), default=8 + n_header)
    if n_file < n_needed:
        raise damaged(path, f"it is cut short: {n_file} of {n_needed} bytes")
    return SafetensorsHeader(metadata, entries)


def damaged(path: Path, reason: str) -> WeightsError:
    """The error for a file whose contents cannot be used."""
    return WeightsError(
        f"{path} is damaged: {reason}.",
        "Get the file again; for a model of `flashvsr weights list`: `flashvsr weights download NAME --force`.",
    )
