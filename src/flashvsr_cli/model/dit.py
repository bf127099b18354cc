"""The one-step diffusion transformer (Wan2.1 layout). Module names are the checkpoint's keys.

`DiT.forward` takes everything that changes from call to call as arguments: how to attend to oneself is a function,
so streaming inference (cache, sparse) and training (mask) share every weight and every line here.

Source: Wan2.1-T2V-1.3B as used by FlashVSR. Timestep and prompt never change at inference, so their effect is
computed once (`DiT.fold_constants`) and the layers that made it are dropped.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flashvsr_cli.model.config import PATCH, DiTConfig
from flashvsr_cli.model.rope import rotate
from flashvsr_cli.model.windows import from_window_order, to_window_order

EPS = 1e-6
ONE_STEP_TIMESTEP = 1000.0

Grid = tuple[int, int, int]
Rotary = tuple[Tensor, Tensor]
SelfAttend = Callable[[int, Tensor, Tensor, Tensor], Tensor]
"""(layer, q, k, v), each (n_tokens, D) in window order, rotated -> (n_tokens, D)."""


@dataclass(frozen=True)
class Conditioning:
    """What timestep and prompt contribute.

    Attributes:
        time: (1, D), added to the head's modulation.
        block_time: (1, 6, D), added to every block's modulation: shift, scale, gate of attention, then of ffn.
        prompts: per block, keys and values of the cross-attention, each (1, n_heads, n_text, d).
    """

    time: Tensor
    block_time: Tensor
    prompts: tuple[tuple[Tensor, Tensor], ...]


class RMSNorm(nn.Module):
    """RMS-norm over the last dimension, computed in float32, with a gain."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (..., D)."""
        return F.rms_norm(x, (x.shape[-1],), self.weight, EPS)


class Attention(nn.Module):
    """Projections of one attention; q and k are normalised over the whole width, not per head."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(dim, dim) for _ in range(4))
        self.norm_q, self.norm_k = RMSNorm(dim), RMSNorm(dim)


def modulated_norm(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """LayerNorm(x) * (1 + scale) + shift over the last dimension; x (n_tokens, D), scale and shift (D,)."""
    return F.layer_norm(x, (x.shape[-1],), 1 + scale, shift, EPS)


class DiTBlock(nn.Module):
    """Self-attention, cross-attention to the prompt, feed-forward."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        dim = config.dim
        self.n_heads = config.n_heads
        self.self_attn = Attention(dim)
        self.cross_attn = Attention(dim)
        self.norm3 = nn.LayerNorm(dim, EPS)
        self.ffn = nn.Sequential(nn.Linear(dim, config.ffn_dim), nn.GELU("tanh"), nn.Linear(config.ffn_dim, dim))
        self.modulation = nn.Parameter(torch.zeros(1, 6, dim))

    def embed_prompt(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values (1, n_heads, n_text, d) of the prompt (1, n_text, D)."""
        attn = self.cross_attn
        return self._heads(attn.norm_k(attn.k(context))), self._heads(attn.v(context))

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.n_heads, -1)).transpose(-3, -2)

    def forward(
        self,
        x: Tensor,
        block_time: Tensor,
        prompt: tuple[Tensor, Tensor],
        rotary: Rotary,
        attend: Callable[[Tensor, Tensor, Tensor], Tensor],
    ) -> Tensor:
        """One block on tokens (n_tokens, D) in window order."""
        shift1, scale1, gate1, shift2, scale2, gate2 = (self.modulation + block_time)[0].to(x.dtype).unbind(0)

        attn = self.self_attn
        y = modulated_norm(x, scale1, shift1)
        q = rotate(attn.norm_q(attn.q(y)), *rotary)
        k = rotate(attn.norm_k(attn.k(y)), *rotary)
        x = torch.addcmul(x, attn.o(attend(q, k, attn.v(y))), gate1)

        attn = self.cross_attn
        q = self._heads(attn.norm_q(attn.q(self.norm3(x)))[None])
        x = x + attn.o(F.scaled_dot_product_attention(q, *prompt)[0].transpose(0, 1).flatten(1))

        return torch.addcmul(x, self.ffn(modulated_norm(x, scale2, shift2)), gate2)


class Head(nn.Module):
    """Modulated norm and projection to the latent patch; output channels are (row, column, channel)."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.head = nn.Linear(config.dim, PATCH * PATCH * config.latent_channels)
        self.modulation = nn.Parameter(torch.zeros(1, 2, config.dim))

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """(n_tokens, D) -> (n_tokens, 4 * C)."""
        shift, scale = (self.modulation + time[:, None])[0].to(x.dtype).unbind(0)
        return self.head(modulated_norm(x, scale, shift))


def timestep_embedding(timestep: Tensor, n_channels: int) -> Tensor:
    """Sinusoid (B, n_channels) float64 of timesteps (B,): cosines first, then sines, computed in float64."""
    half = n_channels // 2
    exponents = torch.arange(half, dtype=torch.float64, device=timestep.device) / half
    angles = torch.outer(timestep.double(), 10000.0**-exponents)
    return torch.cat((angles.cos(), angles.sin()), dim=-1)


class DiT(nn.Module):
    """The transformer. Predicts the noise-to-data velocity: x0 = noise - prediction at timestep 1000."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.config = config
        dim = config.dim
        kernel = (1, PATCH, PATCH)
        self.patch_embedding = nn.Conv3d(config.latent_channels, dim, kernel, stride=kernel)
        self.text_embedding: nn.Sequential | None = nn.Sequential(
            nn.Linear(config.text_dim, dim), nn.GELU("tanh"), nn.Linear(dim, dim)
        )
        self.time_embedding: nn.Sequential | None = nn.Sequential(
            nn.Linear(config.freq_dim, dim), nn.SiLU(), nn.Linear(dim, dim)
        )
        self.time_projection: nn.Sequential | None = nn.Sequential(nn.SiLU(), nn.Linear(dim, 6 * dim))
        self.blocks = nn.ModuleList(DiTBlock(config) for _ in range(config.n_blocks))
        self.head = Head(config)

    def _typed_blocks(self) -> list[DiTBlock]:
        return cast(list[DiTBlock], list(self.blocks))

    def condition(self, timestep: Tensor, prompt: Tensor) -> Conditioning:
        """Embed timesteps (1,) and a prompt (1, n_text, text_dim); computed in the parameters' dtype.

        Raises:
            RuntimeError: after `fold_constants` has dropped the embedding layers.
        """
        if self.text_embedding is None or self.time_embedding is None or self.time_projection is None:
            raise RuntimeError("this transformer's embeddings were folded into constants")
        dtype = self.patch_embedding.weight.dtype
        time = self.time_embedding(timestep_embedding(timestep, self.config.freq_dim).to(dtype))
        block_time = self.time_projection(time).unflatten(1, (6, self.config.dim))
        context = self.text_embedding(prompt.to(dtype))
        return Conditioning(time, block_time, tuple(block.embed_prompt(context) for block in self._typed_blocks()))

    @torch.no_grad()
    def fold_constants(self, prompt: Tensor) -> Conditioning:
        """Embed the one timestep and the fixed prompt, then drop every layer that only they needed."""
        conditioning = self.condition(torch.tensor([ONE_STEP_TIMESTEP], device=prompt.device), prompt)
        self.text_embedding = self.time_embedding = self.time_projection = None
        for block in self._typed_blocks():
            del block.cross_attn.k, block.cross_attn.v, block.cross_attn.norm_k
        return conditioning

    def forward(
        self,
        latents: Tensor,
        low_res_tokens: Iterable[Tensor],
        conditioning: Conditioning,
        rotary: Rotary,
        attend: SelfAttend,
    ) -> Tensor:
        """Predict the velocity of one chunk.

        Args:
            latents: (1, C, F, H/8, W/8) noise.
            low_res_tokens: tensors (F*h*w, D) in window order; the b-th is added before block b.
            conditioning: of timestep and prompt.
            rotary: cosines and sines of the chunk's positions.
            attend: self-attention of a layer.

        Returns:
            (1, C, F, H/8, W/8) in the parameters' dtype.
        """
        x, grid = self.embed_patches(latents)
        remaining_tokens = iter(low_res_tokens)
        for layer, block in enumerate(self.blocks):
            tokens = next(remaining_tokens, None)
            if tokens is not None:
                x = x + tokens

            def attend_layer(q: Tensor, k: Tensor, v: Tensor, layer: int = layer) -> Tensor:
                return attend(layer, q, k, v)

            x = block(x, conditioning.block_time, conditioning.prompts[layer], rotary, attend_layer)
        return self.unembed(x, conditioning.time, grid)

    def embed_patches(self, latents: Tensor) -> tuple[Tensor, Grid]:
        """(1, C, F, H/8, W/8) -> tokens (F*h*w, D) in window order, and (F, h, w)."""
        _, channels, n_latents, height, width = latents.shape
        rows, columns = height // PATCH, width // PATCH
        # A convolution whose stride is its kernel is a product with the patches.
        patches = latents.reshape(channels, n_latents, rows, PATCH, columns, PATCH)
        patches = to_window_order(patches.permute(1, 2, 4, 0, 3, 5).flatten(3))
        weight = self.patch_embedding.weight
        tokens = F.linear(patches.to(weight.dtype), weight.flatten(1), self.patch_embedding.bias)
        return tokens, (n_latents, rows, columns)

    def unembed(self, x: Tensor, time: Tensor, grid: Grid) -> Tensor:
        """Tokens (F*h*w, D) in window order -> the head's (1, C, F, H/8, W/8)."""
        n_latents, rows, columns = grid
        patches = from_window_order(self.head(x, time), grid).unflatten(-1, (PATCH, PATCH, -1))
        return patches.permute(5, 0, 1, 3, 2, 4).reshape(1, -1, n_latents, PATCH * rows, PATCH * columns)
