"""Sizes of a checkpoint, read off the shapes of its tensors, so that small and full-size ones load alike."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from torch import Tensor

DEFAULT_HEAD_DIM = 128
PATCH = 2
RELEASED_GROW = (1, 2, 2)
RELEASED_BLOCKS = (3, 3, 3)
_STAGES = ("5|6|7", "11|12|13", "17|18|19")
"""Layers of the tiny decoder that may be memory blocks."""
StateDict = Mapping[str, "Tensor"]


def _count(state: StateDict, pattern: str) -> int:
    """How many different numbers stand at the group of `pattern` among the keys."""
    return len({match.group(1) for key in state if (match := re.match(pattern, key))})


@dataclass(frozen=True)
class DiTConfig:
    """Sizes of the diffusion transformer.

    Source: Wan2.1-T2V-1.3B, whose layout FlashVSR keeps: 1536, 12 heads, 30 blocks, ffn 8960.
    """

    dim: int
    n_heads: int
    n_blocks: int
    ffn_dim: int
    freq_dim: int
    text_dim: int
    latent_channels: int

    @property
    def head_dim(self) -> int:
        """Channels of one head."""
        return self.dim // self.n_heads

    @classmethod
    def of(cls, state: StateDict, head_dim: int = DEFAULT_HEAD_DIM) -> "DiTConfig":
        """Read the sizes; the head dimension stands in no tensor's shape and is 128 in every released checkpoint."""
        dim, latent_channels = state["patch_embedding.weight"].shape[:2]
        return cls(
            dim=dim,
            n_heads=dim // head_dim,
            n_blocks=_count(state, r"blocks\.(\d+)\."),
            ffn_dim=state["blocks.0.ffn.0.weight"].shape[0],
            freq_dim=state["time_embedding.0.weight"].shape[1],
            text_dim=state["text_embedding.0.weight"].shape[1],
            latent_channels=latent_channels,
        )


@dataclass(frozen=True)
class LowResProjectionConfig:
    """Sizes of the low-resolution projection (full size: 768 -> 2048 -> 3072 -> 1536, one linear layer)."""

    in_channels: int
    hidden1: int
    hidden2: int
    dim: int
    n_layers: int

    @classmethod
    def of(cls, state: StateDict) -> "LowResProjectionConfig":
        """Read the sizes."""
        hidden1, in_channels = state["conv1.weight"].shape[:2]
        return cls(
            in_channels=in_channels,
            hidden1=hidden1,
            hidden2=state["conv2.weight"].shape[0],
            dim=state["linear_layers.0.weight"].shape[0],
            n_layers=_count(state, r"linear_layers\.(\d+)\."),
        )


@dataclass(frozen=True)
class TinyDecoderConfig:
    """Sizes of the tiny conditional decoder (full size: 784 in, stages of 512, 256, 128, 128).

    Attributes:
        in_channels: of the condition and the latent together.
        channels: of the four stages.
        predicts_residual: whether the output is the difference to the low-resolution frames (our small models) or the
            picture in [0, 1] (the released one).
        grow: time steps that a step becomes behind each of the first three stages; 4 in all.
        blocks: memory blocks of the first three stages, at most 3 each.
        has_detail: whether a convolution also brings the low-resolution frames to the second stage, at 1/4 of the size
            and frame by frame; the released model has none.
    """

    in_channels: int
    channels: tuple[int, int, int, int]
    predicts_residual: bool = False
    grow: tuple[int, int, int] = RELEASED_GROW
    blocks: tuple[int, int, int] = RELEASED_BLOCKS
    has_detail: bool = False

    @classmethod
    def of(cls, state: StateDict, *, predicts_residual: bool = False) -> "TinyDecoderConfig":
        """Read the sizes; what the output means stands in no tensor's shape."""
        first, in_channels = state["decoder.1.weight"].shape[:2]
        second, third, last = (state[f"decoder.{layer}.weight"].shape[0] for layer in (10, 16, 22))
        grown = (state[f"decoder.{layer}.conv.weight"].shape for layer in (9, 15, 21))
        grow = tuple(shape[0] // shape[1] for shape in grown)
        blocks = tuple(_count(state, rf"decoder\.({stage})\.conv\.0\.weight") for stage in _STAGES)
        return cls(
            in_channels,
            (first, second, third, last),
            predicts_residual,
            cast(tuple[int, int, int], grow),
            cast(tuple[int, int, int], blocks),
            "detail.weight" in state,
        )


@dataclass(frozen=True)
class VAEDecoderConfig:
    """Sizes of the Wan 2.1 VAE decoder (full size: dim 96, 16 latent channels)."""

    dim: int
    latent_channels: int

    @classmethod
    def of(cls, state: StateDict) -> "VAEDecoderConfig":
        """Read the sizes."""
        return cls(state["decoder.head.0.gamma"].shape[0], state["conv2.weight"].shape[0])
