"""The transformer in GPU kernels: the same sums as `DiT.forward`, with far fewer trips through memory.

Per block: one product gives q and k, a kernel normalises, rotates and writes the keys into the cache page, v's product
writes into its page directly, gates and residuals are part of the next layer norm, GELU of its product.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import flashvsr_kernels
from flashvsr_cli.model.dit import Conditioning, DiT, DiTBlock
from flashvsr_cli.model.transformer import ChunkContext
from flashvsr_cli.transfer import upload
from flashvsr_kernels.block_map import build_block_map
from flashvsr_kernels.block_sparse_attention import block_sparse_attention
from flashvsr_kernels.fp8_attention import block_sparse_attention_fp8, write_v
from flashvsr_kernels.fp8_linear import Fp8Weight, fp8_linear, gelu_quantize_rows, quantize_rows
from flashvsr_kernels.norm import residual_layer_norm, residual_layer_norm_fp8, rms_norm
from flashvsr_kernels.qk_rope import write_qk

Activation = Tensor | tuple[Tensor, Tensor]
"""What a product takes: (n_tokens, D), or the same in e4m3 with its (n_tokens, 1) scales."""


@dataclass(frozen=True)
class _Linear:
    """Weight (in, out), a transposed view, and bias (out,)."""

    weight: Tensor
    bias: Tensor

    @classmethod
    def of(cls, *layers: nn.Linear) -> "_Linear":
        """One product for the layers side by side."""
        if len(layers) == 1:
            return cls(layers[0].weight.T, layers[0].bias)
        return cls(torch.cat([x.weight for x in layers]).T, torch.cat([x.bias for x in layers]))

    def __call__(self, x: Activation, out: Tensor | None = None) -> Tensor:
        assert isinstance(x, Tensor)
        return torch.addmm(self.bias, x, self.weight, out=out)

    def feed_forward(self, x: Activation, second: "_Linear") -> Tensor:
        """second(GELU(self(x))), the GELU (tanh) in the product's epilogue where that is exact."""
        assert isinstance(x, Tensor)
        # The epilogue keeps the digits of half precision, and no more: in float32 its error is 2e-6. On a CPU that
        # operator computes the exact GELU and not the tanh form that the weights were trained with.
        if x.is_cuda and x.dtype.itemsize == 2:
            return second(torch._addmm_activation(self.bias, x, self.weight, use_gelu=True))
        return second(F.gelu(self(x), approximate="tanh"))


@dataclass(frozen=True)
class _Fp8Linear:
    """The same with weights and inputs in e4m3; scales per output channel and per token need no calibration."""

    weight: Fp8Weight
    bias: Tensor

    @classmethod
    def of(cls, *layers: nn.Linear) -> "_Fp8Linear":
        """One product for the layers side by side."""
        return cls(Fp8Weight.of(torch.cat([x.weight for x in layers])), torch.cat([x.bias for x in layers]))

    def __call__(self, x: Activation, out: Tensor | None = None) -> Tensor:
        return fp8_linear(x if isinstance(x, tuple) else quantize_rows(x), self.weight, self.bias, out)

    def feed_forward(self, x: Activation, second: "_Fp8Linear") -> Tensor:
        """second(GELU(self(x))), the GELU (tanh) as part of the quantisation."""
        return second(gelu_quantize_rows(self(x)))


def _split(x: Activation, n_parts: int) -> list[Activation]:
    """Equal runs of rows."""
    if isinstance(x, Tensor):
        return list(x.chunk(n_parts))
    return list(zip(x[0].chunk(n_parts), x[1].chunk(n_parts), strict=True))


class _FusedBlock:
    """Weights of one block in the form the kernels want; modulation is constant at inference and so folded.

    Products whose input comes out of a norm take it in e4m3 if `linear` does. The projections behind attentions stay
    in the weights' dtype: to quantise for them alone costs what they would gain.
    """

    def __init__(
        self,
        block: DiTBlock,
        block_time: Tensor,
        prompt: tuple[Tensor, Tensor],
        linear: type[_Linear] | type[_Fp8Linear],
    ) -> None:
        shift1, scale1, gate1, shift2, scale2, gate2 = (block.modulation.float() + block_time.float())[0].unbind(0)
        self.norm1, self.norm2 = (1 + scale1, shift1), (1 + scale2, shift2)
        self.gate1, self.gate2 = gate1, gate2
        self.norm3 = (block.norm3.weight.float(), block.norm3.bias.float())
        attn, cross = block.self_attn, block.cross_attn
        self.qk, self.v, self.o = linear.of(attn.q, attn.k), linear.of(attn.v), _Linear.of(attn.o)
        self.norm_q, self.norm_k = attn.norm_q.weight, attn.norm_k.weight
        self.cross_q, self.cross_o, self.cross_norm_q = linear.of(cross.q), _Linear.of(cross.o), cross.norm_q.weight
        self.ffn_in, self.ffn_out = linear.of(block.ffn[0]), linear.of(block.ffn[2])  # type: ignore[arg-type]
        self.prompt_k, self.prompt_v = prompt


class FusedTransformer:
    """See `transformer.Transformer`.

    Args:
        dit: after `fold_constants`; its blocks are taken apart.
        conditioning: what `fold_constants` returned.
        low_res_layers: linear layers of the low-resolution projection.
        fp8: whether products take e4m3 where that is faster (bfloat16 weights, Ada or newer).
    """

    name = "triton"
    notice: str | None = None

    def __init__(
        self, dit: DiT, conditioning: Conditioning, low_res_layers: nn.ModuleList, *, fp8: bool = False
    ) -> None:
        self.config = dit.config
        self._dit = dit
        self._conditioning = conditioning
        device = dit.patch_embedding.weight.device
        self.stores_fp8 = device.type == "cpu" or flashvsr_kernels.supports_fp8(device)
        self._norm: Callable[..., Activation] = residual_layer_norm_fp8 if fp8 else residual_layer_norm
        linear = _Fp8Linear if fp8 else _Linear
        self._takes_fp8 = fp8
        self._low_res_layers = []
        for layer in range(len(low_res_layers)):
            self._low_res_layers.append(linear.of(low_res_layers[layer]))  # type: ignore[arg-type]
            if fp8:
                low_res_layers[layer] = nn.Identity()
        self._blocks = []
        for layer in range(dit.config.n_blocks):
            block: DiTBlock = dit.blocks[layer]  # type: ignore[assignment]
            self._blocks.append(_FusedBlock(block, conditioning.block_time, conditioning.prompts[layer], linear))
            # Drops what was copied into the block's own layout before the next block needs room.
            dit.blocks[layer] = nn.Identity()

    def __call__(self, noise: Tensor, features: Tensor, chunk: ChunkContext) -> Tensor:
        """See `Transformer`."""
        # One copy to the device per chunk tells every layer its pages.
        tables = upload(torch.tensor(chunk.pages, dtype=torch.int32), noise.device)
        # Triton launches on the current device, wherever its arguments are.
        with torch.cuda.device_of(noise):
            return self._run(noise, features, chunk, tables)

    def _run(self, noise: Tensor, features: Tensor, chunk: ChunkContext, tables: Tensor) -> Tensor:
        """`tables`: (n_layers, n_pages) int32 on the device, `chunk.pages`."""
        x, grid = self._dit.embed_patches(noise)
        low_res: Activation = quantize_rows(features) if self._takes_fp8 else features
        delta, gate = None, None
        for layer, block in enumerate(self._blocks):
            tokens = self._low_res_layers[layer](low_res) if layer < len(self._low_res_layers) else None
            normed = self._norm(x, delta, gate, tokens, weight=block.norm1[0], bias=block.norm1[1])
            attended = self._self_attend(block, normed, chunk, chunk.pages[layer], tables[layer])
            normed = self._norm(x, block.o(attended), block.gate1, weight=block.norm3[0], bias=block.norm3[1])
            crossed = self._cross_attend(block, normed)
            normed = self._norm(x, crossed, None, weight=block.norm2[0], bias=block.norm2[1])
            delta, gate = block.ffn_in.feed_forward(normed, block.ffn_out), block.gate2  # type: ignore[arg-type]
        if delta is not None and gate is not None:
            x = torch.addcmul(x, delta, gate.to(x.dtype))
        return self._dit.unembed(x, self._conditioning.time, grid)

    def _self_attend(
        self, block: _FusedBlock, x: Activation, chunk: ChunkContext, pages: list[int], table: Tensor
    ) -> Tensor:
        cache, n_heads = chunk.cache, self.config.n_heads
        q, k = block.qk(x).chunk(2, dim=1)
        new_pages = table[-chunk.n_pairs :]
        if cache.is_fp8:
            write_v(
                block.v(x),
                v_pages=cache.values,
                v_log2_scales=cache.value_log2_scales,
                new_pages=new_pages,
                n_heads=n_heads,
            )
        else:
            for page, rows in zip(pages[-chunk.n_pairs :], _split(x, chunk.n_pairs), strict=True):
                block.v(rows, out=cache.values[page])
        key_means = cache.key_means.unflatten(-1, (n_heads, -1))
        q, q_means = write_qk(
            q,
            k,
            block.norm_q,
            block.norm_k,
            *chunk.rotary,
            k_pages=cache.keys,
            k_means_pages=key_means,
            new_pages=new_pages,
            n_heads=n_heads,
        )
        block_map = build_block_map(
            q_means,
            key_means,
            table,
            rows=chunk.window_grid[0],
            cols=chunk.window_grid[1],
            local_range=chunk.local_range,
            rank=chunk.plan.rank,
        )
        if cache.is_fp8:
            scales = cache.value_log2_scales
            return block_sparse_attention_fp8(q, cache.keys, cache.values, scales, block_map, block.norm_q.dtype)
        return block_sparse_attention(q, cache.keys, cache.values, block_map)

    def _cross_attend(self, block: _FusedBlock, x: Activation) -> Tensor:
        q = rms_norm(block.cross_q(x), block.cross_norm_q)
        heads = q.unflatten(-1, (self.config.n_heads, -1)).transpose(0, 1)[None]
        attended = F.scaled_dot_product_attention(heads, block.prompt_k, block.prompt_v)
        return block.cross_o(attended[0].transpose(0, 1).flatten(1))
