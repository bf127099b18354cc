"""Random numbers that depend on what they are for and on nothing else.

A step's numbers follow from (seed, step, sample, purpose), so a run resumed at any step, or spread over more
processes, draws what an uninterrupted single process draws.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import torch
from torch import Tensor


class Purpose(IntEnum):
    """What a number is drawn for; the values are part of what a seed means."""

    TIME = 0
    NOISE = 1
    SCORE_TIME = 2
    SCORE_NOISE = 3
    FAKE_TIME = 4
    FAKE_NOISE = 5
    WINDOW = 6
    DROP = 7
    DATA = 8
    VALIDATION = 9


def generator_of(seed: int, *place: int) -> np.random.Generator:
    """A generator for one place in the run."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=place))


def to_device(numbers: Sequence[float] | float, device: torch.device, dtype: torch.dtype = torch.float32) -> Tensor:
    """Numbers as a tensor, without waiting for what the device still has to do."""
    return torch.tensor(numbers, dtype=dtype).to(device, non_blocking=True)


@dataclass(frozen=True)
class StepRandom:
    """The random numbers of one step."""

    seed: int
    step: int

    def numpy(self, index: int, purpose: Purpose) -> np.random.Generator:
        """For a sample or a pack."""
        return generator_of(self.seed, self.step, index, purpose)

    def normal(self, indices: list[int], purpose: Purpose, shape: tuple[int, ...], device: torch.device) -> Tensor:
        """Standard normal (len(indices), *shape) float32, a sample's numbers from its index alone."""
        out = torch.empty((len(indices), *shape), device=device)
        generator = torch.Generator(device)
        for row, index in zip(out, indices, strict=True):
            generator.manual_seed(int(self.numpy(index, purpose).integers(2**31)))
            row.normal_(generator=generator)
        return out
