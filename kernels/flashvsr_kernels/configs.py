"""Tile sizes of the portable kernels, as data per GPU generation.

Chosen once from shared memory and register budgets (and measured where kernels/README.md says so), never
searched for on the user's machine: a search costs minutes at the first frame.
"""

from dataclasses import dataclass

import torch

Capability = tuple[int, int]


@dataclass(frozen=True)
class AttentionConfig:
    """One launch configuration of the portable attention kernel.

    Attributes:
        block_m: query tokens per program, a divisor of 128.
        block_n: keys per step, a divisor of 128.
        n_warps: warps per program.
        n_stages: depth of the K and V pipeline.
    """

    block_m: int
    block_n: int
    n_warps: int
    n_stages: int


# First entry whose capability is not above the device's. 16-bit elements; keys are (capability, head dim).
_ATTENTION_16BIT: tuple[tuple[Capability, int, AttentionConfig], ...] = (
    ((12, 0), 128, AttentionConfig(128, 32, 8, 2)),  # consumer Blackwell: 99 KiB of shared memory
    ((12, 0), 64, AttentionConfig(128, 64, 8, 2)),
    ((9, 0), 128, AttentionConfig(128, 128, 8, 2)),  # Hopper, data-centre Blackwell: 227 KiB
    ((9, 0), 64, AttentionConfig(128, 128, 8, 3)),
    ((8, 6), 128, AttentionConfig(128, 32, 8, 2)),  # consumer Ampere and Ada: 99 KiB
    ((8, 6), 64, AttentionConfig(128, 64, 4, 2)),
    ((8, 0), 128, AttentionConfig(128, 64, 8, 3)),  # A100: 163 KiB
    ((8, 0), 64, AttentionConfig(128, 64, 4, 4)),
)
_ATTENTION_32BIT = AttentionConfig(32, 32, 4, 1)  # for comparison, not for speed: fits everywhere
_ATTENTION_INTERPRETED = AttentionConfig(128, 128, 4, 1)  # the interpreter pays per operation, not per element


def capability_of(device: torch.device) -> Capability | None:
    """Compute capability of a CUDA device, None for the CPU (Triton's interpreter)."""
    return torch.cuda.get_device_capability(device) if device.type == "cuda" else None


def attention_config(capability: Capability | None, head_dim: int, dtype: torch.dtype) -> AttentionConfig:
    """The configuration for a device.

    Raises:
        ValueError: if the device is older than Ampere or the head dim is neither 64 nor 128.
    """
    if head_dim not in (64, 128):
        raise ValueError(f"head dim {head_dim} is not supported, only 64 and 128")
    if capability is None:
        return _ATTENTION_INTERPRETED
    if dtype == torch.float32:
        return _ATTENTION_32BIT
    for least, dim, config in _ATTENTION_16BIT:
        if capability >= least and dim == head_dim:
            return config
    raise ValueError(f"compute capability {capability} is older than Ampere (8.0)")
