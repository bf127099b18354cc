"""More than one process, by torchrun and FSDP2; a single process is the special case that needs nothing."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict, set_model_state_dict
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor

from flashvsr_cli.errors import UsageError
from flashvsr_cli.model.dit import DiTBlock

GATHER = StateDictOptions(full_state_dict=True, cpu_offload=True)
SPREAD = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)


@dataclass(frozen=True)
class World:
    """This process among all.

    Attributes:
        rank: its number.
        size: how many there are.
        device: the device it works on.
    """

    rank: int
    size: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        """Whether this process writes files and logs."""
        return self.rank == 0

    def share(self, n_packs: int) -> range:
        """The packs of a step that are this process's.

        Raises:
            UsageError: if they cannot be shared out evenly.
        """
        if n_packs % self.size:
            raise UsageError(
                f"{n_packs} packs cannot be shared out among {self.size} processes.",
                "Make batch / pack a multiple of the number of processes.",
            )
        count = n_packs // self.size
        return range(self.rank * count, (self.rank + 1) * count)

    def mean(self, value: Tensor) -> Tensor:
        """The mean of a number over all processes."""
        if self.size > 1:
            value = value.clone()
            dist.all_reduce(value)
            value /= self.size
        return value

    def first(self, value: float) -> float:
        """The first process's value, on every process."""
        if self.size == 1:
            return value
        shared = torch.tensor(value, dtype=torch.float64, device=self.device)
        dist.broadcast(shared, 0)
        return float(shared)


@contextmanager
def open_world(device: torch.device) -> Iterator[World]:
    """Join the processes that torchrun started; alone where it did not."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield World(0, 1, device)
        return
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield World(dist.get_rank(), size, device)
    finally:
        dist.destroy_process_group()


def shard(module: nn.Module, world: World) -> None:
    """Spread a module's weights over the processes: every transformer block by itself, and the rest."""
    if world.size == 1:
        return
    mesh = dist.init_device_mesh(world.device.type, (world.size,))
    for block in [part for part in module.modules() if isinstance(part, DiTBlock)]:
        fully_shard(block, mesh=mesh)
        # Called by itself to embed the prompt, outside the block's forward pass.
        register_fsdp_forward_method(block, "embed_prompt")
    fully_shard(module, mesh=mesh)


def gather_state(module: nn.Module) -> dict[str, Tensor]:
    """The whole state dict on the host of the first process; every process must call this."""
    return cast(dict[str, Tensor], get_model_state_dict(module, options=GATHER))


def spread_state(module: nn.Module, state: dict[str, Any], world: World) -> None:
    """Load a whole state dict, which only the first process needs to have."""
    options = SPREAD if world.size > 1 else StateDictOptions(full_state_dict=True)
    set_model_state_dict(module, state, options=options)


def whole(tensor: Tensor) -> Tensor:
    """The whole of a tensor that may be spread; every process must call this."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
