"""Variants of the model that are measured before they are taken in: not shipped.

`GraphedTransformer` replays a steady chunk from a CUDA graph; `use_pixel_conv` ends the tiny decoder with our own
convolution.
"""

from dataclasses import dataclass, replace

import torch

from flashvsr_cli.model.conv import conv_relu, relu
from flashvsr_cli.model.fused import FusedTransformer
from flashvsr_cli.transfer import upload
from flashvsr_kernels.block_map import build_block_map
from flashvsr_kernels.block_sparse_attention import block_sparse_attention
from flashvsr_kernels.fp8_attention import block_sparse_attention_fp8, write_v
from flashvsr_kernels.pixel_conv import arrange_weight, conv_to_rgb
from flashvsr_kernels.qk_rope import write_qk

N_EAGER = 2  # steady chunks before one is captured: they compile the kernels and choose the products' algorithms


@dataclass
class _Captured:
    graph: torch.cuda.CUDAGraph
    noise: torch.Tensor
    tokens: list[torch.Tensor]
    rotary: tuple[torch.Tensor, torch.Tensor]
    tables: torch.Tensor
    out: torch.Tensor

    def replay(self, noise, tokens, rotary, tables):
        pairs = [(self.noise, noise), (self.tables, tables)]
        pairs += [*zip(self.tokens, tokens, strict=True), *zip(self.rotary, rotary, strict=True)]
        for static, given in pairs:
            static.copy_(given, non_blocking=True)
        self.graph.replay()
        return self.out


class GraphedTransformer(FusedTransformer):
    """The steady chunk from a graph. Which pages a layer uses changes with every chunk, so that nothing may depend on
    an address of a page: values go through a kernel that looks the page up.

    One stream at a time: the graph knows the addresses of one cache.
    """

    def __init__(self, eager):
        self.__dict__.update(eager.__dict__)
        self._n_seen = {}
        self._captured = {}
        self._cache = None

    def __call__(self, noise, low_res_tokens, chunk):
        if chunk.cache is not self._cache:
            self._cache = chunk.cache
            self._n_seen.clear()
            self._captured.clear()
        tables = upload(torch.tensor(chunk.pages, dtype=torch.int32), noise.device)
        key = (tuple(noise.shape), tuple(tables.shape), chunk.plan.rank)
        self._n_seen[key] = self._n_seen.get(key, 0) + 1
        if self._n_seen[key] <= N_EAGER:
            return self._run(noise, low_res_tokens, chunk, tables)
        if key not in self._captured:
            self._captured[key] = self._capture(noise, low_res_tokens, chunk, tables)
        return self._captured[key].replay(noise, low_res_tokens, chunk.rotary, tables)

    def _capture(self, noise, low_res_tokens, chunk, tables):
        static = [x.clone() for x in (noise, tables, *low_res_tokens, *chunk.rotary)]
        noise, tables, tokens, rotary = static[0], static[1], static[2:-2], tuple(static[-2:])
        graph = torch.cuda.CUDAGraph()
        # Capturing computes nothing, so the cache is as it was.
        with torch.cuda.graph(graph):
            out = self._run(noise, tokens, replace(chunk, rotary=rotary), tables)
        return _Captured(graph, noise, tokens, rotary, tables, out)

    def _self_attend(self, block, x, chunk, pages, table):
        del pages
        cache, n_heads = chunk.cache, self.config.n_heads
        q, k = block.qk(x).chunk(2, dim=1)
        v = block.v(x)
        new_pages = table[-chunk.n_pairs :]
        in_page = {"v": v, "v_pages": cache.values}
        if cache.is_fp8:
            scales = cache.value_log2_scales
            write_v(v, v_pages=cache.values, v_log2_scales=scales, new_pages=new_pages, n_heads=n_heads)
            in_page = {}
        key_means = cache.key_means.unflatten(-1, (n_heads, -1))
        q, q_means = write_qk(
            q, k, block.norm_q, block.norm_k, *chunk.rotary,
            k_pages=cache.keys, k_means_pages=key_means, new_pages=new_pages, n_heads=n_heads, **in_page,
        )  # fmt: skip
        rows, cols = chunk.window_grid
        block_map = build_block_map(
            q_means, key_means, table, rows=rows, cols=cols, local_range=chunk.local_range, rank=chunk.plan.rank
        )
        if cache.is_fp8:
            return block_sparse_attention_fp8(q, cache.keys, cache.values, scales, block_map, block.norm_q.dtype)
        return block_sparse_attention(q, cache.keys, cache.values, block_map)


def use_pixel_conv(decoder):
    """Lets a tiny decoder finish its pictures with `conv_to_rgb`."""
    last = decoder.decoder[26]
    weight = arrange_weight(last.weight)

    def finish_step(x):
        x = conv_relu(decoder.decoder[24], relu(x))
        return conv_to_rgb(x.contiguous(memory_format=torch.channels_last), weight, last.bias)

    decoder._finish_step = finish_step
