"""Models of a size that trains in seconds."""

import pytest
import torch

from flashvsr_cli.options import Settings
from flashvsr_cli.train.config import ModelConfig
from flashvsr_cli.train.parts import Parts, build_random


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def toy_model() -> ModelConfig:
    return ModelConfig(
        dim=32,
        head_dim=16,
        n_blocks=2,
        ffn_dim=32,
        freq_dim=16,
        projection=(4, 8),
        decoder=(16, 8, 8, 4),
        encoder=8,
    )


@pytest.fixture
def toy_parts(toy_model: ModelConfig) -> Parts:
    settings = Settings(sparse_ratio=0.02, kv_ratio=3.0, local_range=1, color_fix="none")
    parts = build_random(toy_model, settings, seed=0)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        for weight in parts.parameters():
            # Random weights that matter: zero-initialised layers would make everything equal.
            torch.nn.init.normal_(weight, std=0.3 if weight.ndim == 1 else weight[0].numel() ** -0.5)
    return parts
