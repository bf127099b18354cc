"""Shapes of a checkpoint's tensors without their data."""

import torch
from safetensors import safe_open
from torch import Tensor

from flashvsr_cli.weights import Checkpoint


def load_shapes(checkpoint: Checkpoint) -> dict[str, dict[str, Tensor]]:
    """Meta tensors of every role, under the keys of the released files."""
    return {role: _shapes(checkpoint, role) for role in checkpoint.files if role != "prompt"}


def _shapes(checkpoint: Checkpoint, role: str) -> dict[str, Tensor]:
    path = checkpoint.files[role]  # type: ignore[index]
    prefix = f"{role}." if checkpoint.is_single_file else ""
    if path.suffix != ".safetensors":
        return torch.load(path, map_location="meta", weights_only=True, mmap=True)
    with safe_open(path, framework="pt") as file:
        return {
            key.removeprefix(prefix): torch.empty(file.get_slice(key).get_shape(), device="meta")
            for key in file.keys()  # noqa: SIM118 - not a dict
            if key.startswith(prefix)
        }
