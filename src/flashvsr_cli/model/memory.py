"""How much memory a stream needs, from sizes alone.

The largest moments of a chunk are the feed-forward of a transformer block and the decoder's last stages; everything
else is weights, the key-value cache, and frames waiting for their turn. Half precision is counted as the GPU kernels
compute, not plain torch, and with it the workspace that cuBLAS takes. The driver's context is not counted.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

from flashvsr_cli.geometry import Geometry
from flashvsr_cli.model.config import DiTConfig, LowResProjectionConfig, StateDict, TinyDecoderConfig, VAEDecoderConfig
from flashvsr_cli.model.kv_cache import count_pages
from flashvsr_cli.model.vae_decoder import TIME_TAPS
from flashvsr_cli.model.windows import TOKENS_PER_WINDOW
from flashvsr_cli.options import Settings
from flashvsr_cli.schedule import (
    FIRST_CHUNK_LATENTS,
    FIRST_CHUNK_READS,
    FRAMES_PER_LATENT,
    LATENTS_PER_PAIR,
)

FLOAT32_BYTES = 4
FP8_LAYER = re.compile(r"blocks\.\d+\.(self_attn\.[qkv]|cross_attn\.q|ffn\.[02])\.weight|linear_layers\.\d+\.weight")
"""Weights that lie in e4m3 if products take it: those behind a norm and the projection's linear layers, see `fused`."""
PIXELS_PER_DECODER_UNIT = 64
"""Output pixels of one pixel of the decoder's first stage."""
WORKSPACE_BYTES = 32 << 20
"""What the first matrix product takes on Hopper and keeps, the most of all GPUs."""
TOKEN_COPIES = 7
"""Tensors of (tokens, dim) beside the feed-forward's hidden one: residual, norm, parts of attention, the result."""
FOLDED_AWAY = ("text_embedding.", "time_embedding.", "time_projection.", ".cross_attn.k.", ".cross_attn.v.")


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes on the device that computes.

    Attributes:
        weights: parameters that stay.
        cache: keys and values of earlier frames.
        frames: enlarged frames waiting to be emitted.
        work: the largest set of intermediate results alive at once.
        workspace: what cuBLAS takes for itself; counted with half precision, whatever the device.
    """

    weights: int
    cache: int
    frames: int
    work: int
    workspace: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.cache + self.frames + self.work + self.workspace


def count_parameters(states: Mapping[str, StateDict]) -> int:
    """Parameters that stay on the device once constants are folded."""
    return sum(
        prod(tensor.shape)
        for role, state in states.items()
        for key, tensor in state.items()
        if role != "prompt" and not any(part in key for part in FOLDED_AWAY)
    )


def estimate_memory(
    states: Mapping[str, StateDict],
    geometry: Geometry,
    settings: Settings,
    bytes_per_value: int,
    *,
    fp8: bool = False,
) -> MemoryEstimate:
    """Estimate what a stream needs.

    Args:
        states: shapes of the tensors of every role (meta tensors will do); the prompt may be missing.
        geometry: sizes of the picture.
        settings: how the model computes.
        bytes_per_value: 4 for float32, 2 for bfloat16 and float16.
        fp8: whether the transformer's products take e4m3 numbers.
    """
    config = DiTConfig.of(states["dit"])
    rows, columns = geometry.window_grid
    n_windows = rows * columns
    page_tokens = n_windows * TOKENS_PER_WINDOW
    n_pages = count_pages(config.n_blocks, settings.kv_ratio)
    cached_bytes = 1 if settings.kv_precision == "fp8" else bytes_per_value
    cache = n_pages * config.dim * (2 * page_tokens * cached_bytes + n_windows * FLOAT32_BYTES)
    height, width = geometry.padded
    # Waiting as bytes; the frames of one latent also as what the decoder takes.
    frames = height * width * 3 * (FIRST_CHUNK_READS + FRAMES_PER_LATENT * bytes_per_value)
    features = LowResProjectionConfig.of(states["lq_projection"]).hidden2 * bytes_per_value
    first_tokens = page_tokens * (FIRST_CHUNK_LATENTS // LATENTS_PER_PAIR)
    decoder = _decoder_work(states, bytes_per_value) * height * width // PIXELS_PER_DECODER_UNIT * bytes_per_value
    return MemoryEstimate(
        weights=_weight_bytes(states, config, bytes_per_value, fp8=fp8),
        cache=cache,
        frames=frames,
        work=max(first_tokens * (_token_bytes(config, bytes_per_value, fp8=fp8) + features), decoder),
        workspace=0 if bytes_per_value == FLOAT32_BYTES else WORKSPACE_BYTES,
    )


def _weight_bytes(states: Mapping[str, StateDict], config: DiTConfig, bytes_per_value: int, *, fp8: bool) -> int:
    """Parameters, and the prompt's keys and values in every block."""
    n_text = states["prompt"]["posi_prompt"].shape[1] if "prompt" in states else 0
    n_values = count_parameters(states) + config.n_blocks * 2 * n_text * config.dim
    n_low = 0
    if fp8:
        tensors = [*states["dit"].items(), *states["lq_projection"].items()]
        n_low = sum(prod(tensor.shape) for key, tensor in tensors if FP8_LAYER.fullmatch(key))
    return n_values * bytes_per_value - n_low * (bytes_per_value - 1)


def _token_bytes(config: DiTConfig, bytes_per_value: int, *, fp8: bool) -> int:
    """Bytes per token in the feed-forward of a block."""
    # In float32 plain torch computes, where the GELU has a result of its own; in e4m3 it is the next product's input.
    hidden = 2 * FLOAT32_BYTES if bytes_per_value == FLOAT32_BYTES else bytes_per_value + fp8
    return config.ffn_dim * hidden + TOKEN_COPIES * config.dim * bytes_per_value


def _decoder_work(states: Mapping[str, StateDict], bytes_per_value: int) -> int:
    """Values alive in the decoder's largest moment, per 64 output pixels."""
    if "vae" in states:
        # A residual block on four frames: its input, the normalised input, three time taps stacked, and the result.
        channels = VAEDecoderConfig.of(states["vae"]).dim
        return PIXELS_PER_DECODER_UNIT * FRAMES_PER_LATENT * channels * (3 + TIME_TAPS)
    config = TinyDecoderConfig.of(states["tiny_decoder"])
    past = largest = 0
    n_steps, n_pixels, before = 1, 1, 0
    for channels, n_blocks, grow in zip(config.channels, config.blocks, config.grow, strict=False):
        step = channels * n_pixels
        past += n_blocks * step
        # A memory block: its input, that stacked with the step before each, and the first result; its last step is
        # kept. Plain torch, which computes in float32, makes the steps before as a tensor of their own.
        n_alive = 5 if bytes_per_value == FLOAT32_BYTES else 4
        largest = max(largest, (n_alive * n_steps + 1 if n_blocks else n_steps) * step)
        before = n_steps * step
        n_steps, n_pixels = n_steps * grow, 4 * n_pixels
    # Behind the last enlargement one picture at a time: what goes into its wide convolution and what comes out, beside
    # what the picture is made from and the finished ones; the kernel of the last convolution has nine float32 sums.
    sums = 0 if bytes_per_value == FLOAT32_BYTES else 9 * FLOAT32_BYTES // bytes_per_value
    picture = n_pixels * (2 * config.channels[-1] + sums + 3 * FRAMES_PER_LATENT)
    # The second stage's input stays until the last picture is made, and what the detail was added to beside it.
    second = config.grow[0] * config.channels[1] * 4 * (1 + config.has_detail)
    return past + max(largest, second + before + picture)
