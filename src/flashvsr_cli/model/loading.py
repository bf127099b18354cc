"""Checkpoint files to tensors, one at a time: read, checked, cast and moved before the next one is read.

The released DiT has 5.7 GB in float32; a caller that casts and moves while iterating never holds more than
one of its tensors on the host.
"""

import json
import math
import os
import pickle
import struct
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from flashvsr_cli.errors import WeightsError
from flashvsr_cli.weights import Checkpoint
from flashvsr_cli.weights_registry import (
    ROLES,
    SINGLE_FILE_FORMAT,
    SINGLE_FILE_FORMAT_VERSION,
    Role,
    damaged,
    read_safetensors_header,
)

PROMPT_KEY = "posi_prompt"

_STRAY_PREFIX: Mapping[Role, str] = {"lq_projection": "LQ_proj_in."}
"""Seen in front of every key in copies of the v1 projection."""

_UNUSED_PREFIXES: Mapping[Role, tuple[str, ...]] = {"vae": ("encoder.", "conv1.")}
"""The VAE's encoder and its last layer: only the decoder is needed."""

_DTYPES: Mapping[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


def iter_tensors(path: Path, *, prefix: str = "", skip: tuple[str, ...] = ()) -> Iterator[tuple[str, Tensor]]:
    """The tensors of one checkpoint file in the order they lie in, as stored, each with a storage of its own.

    Args:
        path: a .safetensors file, or a pickled flat dict of tensors or bare tensor (its key is "").
        prefix: only keys that begin with it, without it.
        skip: keys that begin with one of these (after `prefix`) are left out and not read.

    Raises:
        WeightsError: if the file is missing, damaged, or holds something else than tensors.
    """
    if not path.is_file():
        raise WeightsError(f"{path} does not exist.", "Check the path, or run `flashvsr weights download`.")
    pairs = _iter_safetensors if path.suffix == ".safetensors" else _iter_pickle
    return pairs(path, prefix, skip)


def iter_role(
    checkpoint: Checkpoint,
    role: Role,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
) -> Iterator[tuple[str, Tensor]]:
    """The tensors of one role under the keys of the released files, finite, cast and moved one by one.

    Args:
        checkpoint: where the files lie.
        role: which part of the model; the prompt is the one key "posi_prompt".
        dtype: floating tensors are cast to it; None keeps what is stored.
        device: where the tensors go.

    Raises:
        WeightsError: if a file is missing or damaged, or a value is not finite.
    """
    if role not in checkpoint.files:
        raise WeightsError(f"{checkpoint.name} holds no {role} weights.", "Choose another --decoder or --model.")
    path = checkpoint.files[role]
    prefix = f"{role}." if checkpoint.is_single_file else ""
    stray = _STRAY_PREFIX.get(role, "")
    for key, stored in iter_tensors(path, prefix=prefix, skip=_UNUSED_PREFIXES.get(role, ())):
        key = key.removeprefix(stray) if role != "prompt" or key else PROMPT_KEY
        yield key, _place(stored, path, key, dtype, torch.device(device))


def load_state_dicts(
    checkpoint: Checkpoint,
    roles: Iterable[Role],
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
) -> dict[Role, dict[str, Tensor]]:
    """The tensors of several roles; see `iter_role`.

    Raises:
        WeightsError: if a file is missing or damaged, a value is not finite, or the prompt is not there.
    """
    state_dicts = {role: dict(iter_role(checkpoint, role, dtype=dtype, device=device)) for role in roles}
    if "prompt" in state_dicts:
        require_keys(state_dicts["prompt"], [PROMPT_KEY], checkpoint.files["prompt"])
    return state_dicts


def check_tensors(path: Path) -> int:
    """Read every tensor of a file and return their number.

    Raises:
        WeightsError: if the file is damaged or a value is not finite.
    """
    n_tensors = 0
    for key, stored in iter_tensors(path):
        _place(stored, path, key, None, stored.device)
        n_tensors += 1
    return n_tensors


def require_keys(state_dict: Mapping[str, Tensor], expected: Iterable[str], path: Path) -> None:
    """Check that every expected tensor is there.

    Raises:
        WeightsError: naming the file and the first missing key.
    """
    missing = [key for key in expected if key not in state_dict]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise WeightsError(
            f"{path} lacks the tensor {missing[0]}{more}.",
            "It belongs to another model or is incomplete; get the file again, or use --model v1.1.",
        )


def save_single_file(path: Path, state_dicts: Mapping[Role, Mapping[str, Tensor]], metadata: Mapping[str, str]) -> None:
    """Write a checkpoint of this project: one .safetensors whose keys begin with their role.

    Args:
        path: the file to write; an existing one is replaced once the new one is complete.
        state_dicts: tensors per role, keys as in the released files, any device and dtype.
        metadata: strings for the header; "version" ("v1" or "v1.1") is required.

    Raises:
        WeightsError: if the version is missing, a role is unknown, or the file cannot be written.
    """
    if metadata.get("version") not in ("v1", "v1.1") or not set(state_dicts) <= set(ROLES):
        raise WeightsError(f"{path} needs a version and known roles.", "Pass metadata with version v1 or v1.1.")
    tensors = {f"{role}.{key}": tensor for role, state in state_dicts.items() for key, tensor in state.items()}
    fixed = {"format": SINGLE_FILE_FORMAT, "format_version": SINGLE_FILE_FORMAT_VERSION}
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as stream:
            stream.write(_safetensors_header(tensors, {**metadata, **fixed}))
            for tensor in tensors.values():
                stream.write(_bytes_of(tensor.detach().to("cpu").contiguous()))
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except OSError as error:
        raise WeightsError(f"{path} cannot be written: {error.strerror}.", "Check the folder and its space.") from error
    finally:
        temporary.unlink(missing_ok=True)


def _safetensors_header(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    names = {dtype: name for name, dtype in _DTYPES.items()}
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    begin = 0
    for key, tensor in tensors.items():
        end = begin + tensor.numel() * tensor.element_size()
        header[key] = {
            "dtype": names[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [begin, end],
        }
        begin = end
    raw = json.dumps(header, ensure_ascii=False).encode()
    raw += b" " * (-len(raw) % 8)
    return struct.pack("<Q", len(raw)) + raw


def _bytes_of(tensor: Tensor) -> memoryview:
    """The memory of a contiguous CPU tensor."""
    return tensor.reshape(-1).view(torch.uint8).numpy().data


def _iter_safetensors(path: Path, prefix: str, skip: tuple[str, ...]) -> Iterator[tuple[str, Tensor]]:
    # Read rather than mapped: mapped pages count as this process's memory until the file is closed.
    entries = read_safetensors_header(path).entries
    with path.open("rb") as stream:
        for key, (dtype_name, shape, begin, end) in sorted(entries.items(), key=lambda item: item[1][2]):
            if not key.startswith(prefix) or key.removeprefix(prefix).startswith(skip or ("\0",)):
                continue
            if dtype_name not in _DTYPES:
                raise WeightsError(
                    f"{path} stores {key} as {dtype_name}, which this program does not read.",
                    "Use a file in float32, float16 or bfloat16.",
                )
            dtype = _DTYPES[dtype_name]
            if end - begin != math.prod(shape) * dtype.itemsize:
                raise damaged(path, f"the size of {key} contradicts its shape")
            tensor = torch.empty(shape, dtype=dtype)
            stream.seek(begin)
            if stream.readinto(_bytes_of(tensor)) != end - begin:
                raise damaged(path, "it is cut short")
            yield key.removeprefix(prefix), tensor


def _iter_pickle(path: Path, prefix: str, skip: tuple[str, ...]) -> Iterator[tuple[str, Tensor]]:
    loaded = _load_pickle(path)
    pairs = {"": loaded} if isinstance(loaded, Tensor) else loaded
    if not isinstance(pairs, Mapping):
        raise WeightsError(f"{path} holds a {type(loaded).__name__} instead of tensors.", "Use the released file.")
    for key, value in pairs.items():
        if not isinstance(value, Tensor):
            raise WeightsError(f"{path} holds {key}, which is not a tensor.", "Use the released file: a flat dict.")
        if key.startswith(prefix) and not key.removeprefix(prefix).startswith(skip or ("\0",)):
            # A clone: the released tensors are views of larger storages, and mapped ones end with the file.
            yield key.removeprefix(prefix), value.detach().clone(memory_format=torch.contiguous_format)


def _load_pickle(path: Path) -> object:
    try:
        is_zip = zipfile.is_zipfile(path)
        with path.open("rb") as stream:
            begins_as_zip = stream.read(2) == b"PK"
        if begins_as_zip and not is_zip:
            raise damaged(path, "it is cut short")
        return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error.strerror}.", "Check its permissions.") from error
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{path} is damaged or holds more than tensors, and is not loaded.",
            "Use the released file; programs inside a checkpoint are never run.",
        ) from error
    except (RuntimeError, EOFError, ValueError, LookupError, AttributeError, zipfile.BadZipFile) as error:
        raise damaged(path, "it is not a readable PyTorch file") from error


def _place(stored: Tensor, path: Path, key: str, dtype: torch.dtype | None, device: torch.device) -> Tensor:
    """Cast and move one tensor and check that every value is finite."""
    if not stored.is_floating_point():
        return stored.to(device)
    placed = stored.to(device=device, dtype=dtype or stored.dtype)
    if _is_finite(placed):
        return placed
    if not _is_finite(stored):
        raise damaged(path, f"{key} has values that are not finite (NaN or infinity)")
    raise WeightsError(f"{key} of {path} does not fit into {dtype}.", "Use --precision bf16 or fp32.")


def _is_finite(tensor: Tensor) -> bool:
    """Whether no value is NaN or infinite; one pass without a temporary of the tensor's size."""
    if tensor.numel() == 0:
        return True
    low, high = torch.aminmax(tensor)  # both are NaN if any value is
    return math.isfinite(low.item()) and math.isfinite(high.item())
