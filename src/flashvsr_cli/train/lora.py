"""Low-rank adapters on the transformer's linear layers.

An adapter is a parametrisation of the weight itself: every forward pass uses `weight + scale * up @ down`, so the
merged weight is, bit by bit, the one that was trained with.

Source: LoRA, Hu et al. 2021; FlashVSR trains rank 384 on Wan2.1-1.3B.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

TARGETS = ("self_attn.q", "self_attn.k", "self_attn.v", "self_attn.o", "cross_attn.q", "cross_attn.o", "ffn.0", "ffn.2")
_ORIGINAL = ".parametrizations.weight.original"
_DOWN, _UP = ".parametrizations.weight.0.down", ".parametrizations.weight.0.up"


def adapted_weight(weight: Tensor, down: Tensor, up: Tensor, scale: float) -> Tensor:
    """The weight (out, in) with its adapter; down (rank, in), up (out, rank)."""
    return weight + scale * (up @ down)


class Adapter(nn.Module):
    """Adds a matrix of low rank; zero at first."""

    def __init__(self, weight: Tensor, rank: int, scale: float) -> None:
        super().__init__()
        out_features, in_features = weight.shape
        self.down = nn.Parameter(weight.new_empty(rank, in_features))
        self.up = nn.Parameter(weight.new_zeros(out_features, rank))
        nn.init.kaiming_uniform_(self.down, a=5**0.5)
        self.scale = scale

    def forward(self, weight: Tensor) -> Tensor:
        """The adapted weight (out, in)."""
        # Sums of low precision here would not be the ones that merging does.
        with torch.autocast(weight.device.type, enabled=False):
            return adapted_weight(weight, self.down, self.up, self.scale)


def add_adapters(dit: nn.Module, rank: int, alpha: float, seed: int) -> None:
    """Put an adapter on every linear layer of the transformer's blocks named in TARGETS, the same for the same seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for name, layer in list(dit.named_modules()):
            if isinstance(layer, nn.Linear) and name.endswith(TARGETS):
                parametrize.register_parametrization(layer, "weight", Adapter(layer.weight, rank, alpha / rank))


def is_adapter(key: str) -> bool:
    """Whether a parameter of that name belongs to an adapter."""
    return key.endswith((_DOWN, _UP))


def merge_state(state: Mapping[str, Tensor], scale: float) -> dict[str, Tensor]:
    """A state dict with adapters as the one without that computes the same.

    Args:
        state: of a module whose adapters all have this scale.
        scale: alpha / rank.
    """
    merged = {}
    for key, tensor in state.items():
        if key.endswith(_ORIGINAL):
            base = key.removesuffix(_ORIGINAL)
            merged[f"{base}.weight"] = adapted_weight(tensor, state[base + _DOWN], state[base + _UP], scale)
        elif not is_adapter(key):
            merged[key] = tensor
    return merged
