"""Kernel tests run through Triton's interpreter on machines without a CUDA device."""

import os
from pathlib import Path

import pytest
import torch

if not torch.cuda.is_available():
    # Read by triton.jit when a kernel is defined, so it has to be set before any kernel module is imported.
    os.environ["TRITON_INTERPRET"] = "1"


@pytest.fixture(scope="session")
def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture
def rng(device: torch.device) -> torch.Generator:
    return torch.Generator(device).manual_seed(20251012)


@pytest.fixture(scope="session")
def golden() -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(Path(__file__).parents[1] / "golden" / "mini" / "cases.safetensors")
