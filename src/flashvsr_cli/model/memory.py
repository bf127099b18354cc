"""How much memory a stream needs, from sizes alone.

The largest moments of a chunk are the feed-forward of a transformer block and the decoder's full-resolution layers;
everything else is weights, the key-value cache, and frames waiting for their turn.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

from flashvsr_cli.geometry import Geometry
from flashvsr_cli.model.config import DiTConfig, StateDict, TinyDecoderConfig, VAEDecoderConfig
from flashvsr_cli.model.kv_cache import count_pages
from flashvsr_cli.model.vae_decoder import TIME_TAPS
from flashvsr_cli.model.windows import TOKENS_PER_WINDOW
from flashvsr_cli.options import Settings
from flashvsr_cli.schedule import (
    FIRST_CHUNK_EMITS,
    FIRST_CHUNK_LATENTS,
    FIRST_CHUNK_READS,
    FRAMES_PER_LATENT,
    LATENTS_PER_PAIR,
)

FLOAT32_BYTES = 4
FOLDED_AWAY = ("text_embedding.", "time_embedding.", "time_projection.", ".cross_attn.k.", ".cross_attn.v.")


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes on the device that computes.

    Attributes:
        weights: parameters that stay.
        cache: keys and values of earlier frames.
        frames: enlarged frames waiting to be emitted.
        work: the largest set of intermediate results alive at once.
    """

    weights: int
    cache: int
    frames: int
    work: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.cache + self.frames + self.work


def count_parameters(states: Mapping[str, StateDict]) -> int:
    """Parameters that stay on the device once constants are folded."""
    return sum(
        prod(tensor.shape)
        for role, state in states.items()
        for key, tensor in state.items()
        if role != "prompt" and not any(part in key for part in FOLDED_AWAY)
    )


def estimate_memory(
    states: Mapping[str, StateDict], geometry: Geometry, settings: Settings, bytes_per_value: int
) -> MemoryEstimate:
    """Estimate what a stream needs.

    Args:
        states: shapes of the tensors of every role (meta tensors will do).
        geometry: sizes of the picture.
        settings: how the model computes.
        bytes_per_value: 4 for float32, 2 for bfloat16 and float16.
    """
    config = DiTConfig.of(states["dit"])
    rows, columns = geometry.window_grid
    n_windows = rows * columns
    page_tokens = n_windows * TOKENS_PER_WINDOW
    n_pages = count_pages(config.n_blocks, settings.kv_ratio)
    cached_bytes = 1 if settings.kv_precision == "fp8" else bytes_per_value
    cache = n_pages * config.dim * (2 * page_tokens * cached_bytes + n_windows * FLOAT32_BYTES)

    first_tokens = page_tokens * (FIRST_CHUNK_LATENTS // LATENTS_PER_PAIR)
    feed_forward = first_tokens * (2 * config.ffn_dim + 3 * config.dim) * bytes_per_value
    height, width = geometry.padded
    # Waiting as bytes; those being emitted also as floats and as what the decoder takes.
    waiting = FIRST_CHUNK_READS * height * width * 3
    frames = waiting + FIRST_CHUNK_EMITS * height * width * 3 * (FLOAT32_BYTES + bytes_per_value)
    return MemoryEstimate(
        weights=count_parameters(states) * bytes_per_value,
        cache=cache,
        frames=frames,
        work=max(feed_forward, _decoder_work(states) * height * width * bytes_per_value),
    )


def _decoder_work(states: Mapping[str, StateDict]) -> int:
    """Values alive per output pixel in the decoder's last layers."""
    if "tiny_decoder" in states:
        channels = TinyDecoderConfig.of(states["tiny_decoder"]).channels
        # One of the two time steps of a latent frame's last enlargement at a time: what goes into its last wide
        # convolution and what comes out, beside the picture of a quarter of the size that it came from.
        return FRAMES_PER_LATENT // 2 * (2 * channels[3] + channels[2] // 4)
    # A residual block on four frames: its input, the normalised input, three time taps stacked, and the result.
    return FRAMES_PER_LATENT * VAEDecoderConfig.of(states["vae"]).dim * (3 + TIME_TAPS)
