"""The transformer as streaming runs it: a backend for a whole chunk, chosen once when a network is loaded.

Every backend computes the same function. `PlainTransformer` is `DiT.forward` with sparse attention over the paged
cache, in plain torch; `fused.FusedTransformer` is the same in GPU kernels.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

import flashvsr_kernels
from flashvsr_cli.errors import DeviceError
from flashvsr_cli.model.attention import SparseAttention, SparsityPlan, TorchSparseAttention
from flashvsr_cli.model.config import DiTConfig
from flashvsr_cli.model.dit import Conditioning, DiT, Rotary
from flashvsr_cli.model.kv_cache import PagedKVCache
from flashvsr_cli.model.windows import window_means
from flashvsr_cli.options import Backend


@dataclass(frozen=True)
class ChunkContext:
    """What the layers of one chunk share.

    Attributes:
        cache: of the stream.
        pages: per layer, the pages its queries attend to, oldest first; the last `n_pairs` are the chunk's own.
        n_pairs: time pairs of the chunk.
        plan: which blocks may be kept.
        rotary: cosines and sines of the chunk's positions.
        window_grid: rows and columns of windows in a time pair.
        local_range: side of the square of windows that a window may look at.
    """

    cache: PagedKVCache
    pages: list[list[int]]
    n_pairs: int
    plan: SparsityPlan
    rotary: Rotary
    window_grid: tuple[int, int]
    local_range: int


class Transformer(Protocol):
    """Predicts the velocity of one chunk and writes its keys and values into the cache.

    Attributes:
        name: of the backend.
        config: sizes.
        stores_fp8: whether it can work on a cache in e4m3.
        notice: what the user should know about the choice of this backend, if anything.
    """

    name: str
    config: DiTConfig
    stores_fp8: bool
    notice: str | None

    def __call__(self, noise: Tensor, features: Tensor, chunk: ChunkContext) -> Tensor:
        """Run all layers.

        Args:
            noise: (1, C, F, H/8, W/8) float32.
            features: (F*h*w, C) in window order, what the low-resolution projection made of the frames; through its
                b-th linear layer they are added before block b.
            chunk: what the layers share.

        Returns:
            (1, C, F, H/8, W/8) velocity in the weights' dtype.
        """
        ...


class PlainTransformer:
    """`DiT.forward` with a sparse attention."""

    stores_fp8 = False

    def __init__(
        self,
        dit: DiT,
        conditioning: Conditioning,
        low_res_layers: nn.ModuleList,
        attention: SparseAttention,
        notice: str | None = None,
    ) -> None:
        self.name = attention.name
        self.notice = notice
        self.config = dit.config
        self._dit = dit
        self._conditioning = conditioning
        self._low_res_layers = low_res_layers
        self._attention = attention

    def __call__(self, noise: Tensor, features: Tensor, chunk: ChunkContext) -> Tensor:
        """See `Transformer`."""
        # One layer's tokens at a time, when their turn comes: together they are the largest tensors of a chunk.
        low_res_tokens = (layer(features) for layer in self._low_res_layers)

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            pages = chunk.pages[layer]
            new = (k.chunk(chunk.n_pairs), v.chunk(chunk.n_pairs))
            for page, new_k, new_v in zip(pages[-chunk.n_pairs :], *new, strict=True):
                chunk.cache.keys[page] = new_k
                chunk.cache.values[page] = new_v
                chunk.cache.key_means[page] = window_means(new_k)
            return self._attention(q, chunk.cache, pages, chunk.plan)

        return self._dit(noise, low_res_tokens, self._conditioning, chunk.rotary, attend)


def choose_transformer(
    dit: DiT,
    conditioning: Conditioning,
    low_res_layers: nn.ModuleList,
    backend: Backend = "auto",
    *,
    fp8: bool = False,
) -> Transformer:
    """A backend for a loaded transformer; takes ownership of its weights.

    Args:
        dit: after `fold_constants`, on its device in its dtype.
        conditioning: what `fold_constants` returned.
        low_res_layers: linear layers of the low-resolution projection.
        backend: "triton" (GPU kernels), "torch" (plain), or "auto": kernels for half precision on a GPU that runs them.
        fp8: whether products take e4m3 where that is faster.

    Raises:
        DeviceError: "triton" or e4m3 was asked for and cannot run here, or e4m3 with another dtype than bfloat16.
    """
    weight = dit.patch_embedding.weight
    kernels_run = flashvsr_kernels.is_available(weight.device)
    if backend == "triton" and not kernels_run:
        raise DeviceError(
            f"The GPU kernels do not run on {weight.device}.",
            "Use --backend auto; `flashvsr doctor` says what this machine has.",
        )
    if fp8 and not (backend != "torch" and kernels_run and flashvsr_kernels.supports_fp8(weight.device)):
        raise DeviceError(
            f"fp8 needs the GPU kernels on an NVIDIA GPU, Ada or Hopper or newer, not {weight.device}.",
            "Use --precision bf16.",
        )
    if fp8 and weight.dtype != torch.bfloat16:
        raise DeviceError(f"fp8 goes with bfloat16, not with {weight.dtype}.", "Leave the dtype out, or fp8.")
    if backend == "triton" or (backend == "auto" and kernels_run and weight.is_cuda and weight.dtype.itemsize == 2):
        from flashvsr_cli.model.fused import FusedTransformer

        return FusedTransformer(dit, conditioning, low_res_layers, fp8=fp8)
    notice = None
    if backend == "auto" and weight.is_cuda and not kernels_run:
        notice = (
            f"The GPU kernels do not run on {weight.device}: the transformer is computed in plain torch, slower and "
            "with more memory; `flashvsr doctor` says what this machine has."
        )
    return PlainTransformer(dit, conditioning, low_res_layers, TorchSparseAttention(), notice)
