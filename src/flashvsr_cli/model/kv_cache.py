"""The streaming key-value cache as pages that are never copied.

One page holds the keys and values of one time pair in one layer. A layer writes the new pair into the free page,
attends to its pages, and gives its oldest page back, which the next layer fills: the whole model needs
`n_layers * kept + 1` pages, nothing moves, and nothing grows with the length of the clip.

Source: FlashVSR, section 3.1. After a chunk at most one pair is dropped, as in the released pipeline, so with a
kv_ratio below 2 two pairs stay: three come with the first chunk and one leaves.
"""

import torch

from flashvsr_cli.model.windows import TOKENS_PER_WINDOW
from flashvsr_cli.schedule import FIRST_CHUNK_LATENTS, LATENTS_PER_PAIR

FIRST_CHUNK_PAIRS = FIRST_CHUNK_LATENTS // LATENTS_PER_PAIR


def count_pages(n_layers: int, kv_ratio: float) -> int:
    """Pages a stream needs: what every layer keeps between chunks, and the one being written."""
    return n_layers * max(FIRST_CHUNK_PAIRS - 1, int(kv_ratio)) + 1


class PagedKVCache:
    """Keys and values of all layers; in e4m3 they take half the memory of 16-bit ones.

    Attributes:
        keys: (n_pages, M * 128, D), after normalisation and rotation, tokens in window order.
        values: the same shape; in e4m3 (n_pages, M, n_heads, d, 128), as `flashvsr_kernels.fp8_attention` wants them.
        value_log2_scales: (n_pages, M, n_heads) float32 in e4m3, empty otherwise.
        key_means: (n_pages, M, D) float32, the mean of the keys over each window.
    """

    def __init__(
        self,
        n_layers: int,
        n_windows: int,
        dim: int,
        kv_ratio: float,
        *,
        device: torch.device,
        dtype: torch.dtype,
        n_heads: int = 1,
    ) -> None:
        self._limit = int(kv_ratio)
        n_pages = count_pages(n_layers, kv_ratio)
        shape = (n_pages, n_windows * TOKENS_PER_WINDOW, dim)
        self.is_fp8 = dtype == torch.float8_e4m3fn
        self.keys = torch.empty(shape, device=device, dtype=dtype)
        value_shape: tuple[int, ...] = shape
        scale_shape: tuple[int, ...] = (0,)
        if self.is_fp8:
            value_shape = (n_pages, n_windows, n_heads, dim // n_heads, TOKENS_PER_WINDOW)
            scale_shape = value_shape[:3]
        self.values = torch.empty(value_shape, device=device, dtype=dtype)
        self.value_log2_scales = torch.empty(scale_shape, device=device, dtype=torch.float32)
        self.key_means = torch.empty((n_pages, n_windows, dim), device=device, dtype=torch.float32)
        self._free = list(range(n_pages))
        self._held: list[list[int]] = [[] for _ in range(n_layers)]

    def plan_chunk(self, n_pairs: int) -> list[list[int]]:
        """Advance by one chunk of `n_pairs` new pairs.

        Returns:
            Per layer, the pages its queries attend to, oldest first; the last `n_pairs` are to be written first.
            Layers must run in order: a page that one layer gives back is written by a later one.
        """
        tables = []
        for held in self._held:
            held += [self._free.pop(0) for _ in range(n_pairs)]
            tables.append(list(held))
            if len(held) > self._limit:
                self._free.insert(0, held.pop(0))
        return tables

    @property
    def n_bytes(self) -> int:
        """Device memory held."""
        tensors = (self.keys, self.values, self.value_log2_scales, self.key_means)
        return sum(x.numel() * x.element_size() for x in tensors)
