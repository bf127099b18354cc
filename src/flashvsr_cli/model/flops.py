"""How many floating-point operations a steady chunk takes, stage by stage, counted from sizes.

A multiply-add counts as two. Counted is what the model defines (dense products, attention on kept blocks), not what an
implementation saves or wastes; norms, activations and colour are left out.
"""

from collections.abc import Mapping

from flashvsr_cli.geometry import Geometry
from flashvsr_cli.model.attention import sparsity_rank
from flashvsr_cli.model.config import DiTConfig, LowResProjectionConfig, StateDict, TinyDecoderConfig
from flashvsr_cli.model.lq_projection import KERNEL_FRAMES
from flashvsr_cli.model.tiny_decoder import DETAIL_BLOCK
from flashvsr_cli.model.windows import TOKENS_PER_WINDOW
from flashvsr_cli.options import Settings
from flashvsr_cli.schedule import FRAMES_PER_LATENT, NEXT_CHUNK_EMITS, NEXT_CHUNK_LATENTS

TAPS = 9
LATENTS_PER_CHUNK = NEXT_CHUNK_LATENTS


def count_flops(states: Mapping[str, StateDict], geometry: Geometry, settings: Settings) -> dict[str, int]:
    """Operations of one steady chunk (8 frames) per stage: "projection", "transformer", "decoder" (tiny).

    Args:
        states: shapes of the tensors of every role (meta tensors will do).
        geometry: sizes of the picture.
        settings: how the model computes.
    """
    rows, columns = geometry.token_grid
    return {
        "projection": _projection(LowResProjectionConfig.of(states["lq_projection"]), rows * columns),
        "transformer": _transformer(
            DiTConfig.of(states["dit"]), states["prompt"]["posi_prompt"].shape[1], geometry.window_grid, settings
        ),
        "decoder": _decoder(TinyDecoderConfig.of(states["tiny_decoder"]), 4 * rows * columns),
    }


def _projection(config: LowResProjectionConfig, n_tokens: int) -> int:
    conv1 = 2 * config.in_channels * config.hidden1
    conv2 = config.hidden1 * config.hidden2
    linear = config.hidden2 * config.dim * config.n_layers
    per_token = KERNEL_FRAMES * TAPS * (conv1 + conv2) + linear
    return 2 * LATENTS_PER_CHUNK * n_tokens * per_token


def _transformer(config: DiTConfig, n_text: int, window_grid: tuple[int, int], settings: Settings) -> int:
    n_windows = window_grid[0] * window_grid[1]
    n_tokens = n_windows * TOKENS_PER_WINDOW
    # Steady state: one new pair beside what is remembered.
    n_key_pairs = max(2, int(settings.kv_ratio)) + 1
    dim = config.dim
    linear = n_tokens * (6 * dim * dim + 2 * dim * config.ffn_dim)
    kept_blocks = sparsity_rank(window_grid, n_key_pairs, settings.sparse_ratio) * config.n_heads
    attention = kept_blocks * TOKENS_PER_WINDOW**2 * config.head_dim * 2
    cross = 2 * n_tokens * n_text * dim
    return 2 * config.n_blocks * (linear + attention + cross)


def _decoder(config: TinyDecoderConfig, n_latent_pixels: int) -> int:
    n_pixels, n_steps = n_latent_pixels, LATENTS_PER_CHUNK
    first, last = config.channels[0], config.channels[-1]
    total = n_steps * n_pixels * TAPS * (config.in_channels * first + first * first)
    stages = zip(config.channels, config.channels[1:], config.blocks, config.grow, strict=False)
    for i_stage, (channels, following, n_blocks, grow) in enumerate(stages):
        total += n_steps * n_pixels * n_blocks * TAPS * 4 * channels * channels
        n_pixels *= 4
        total += n_steps * n_pixels * grow * (channels * channels + TAPS * channels * following)
        n_steps *= grow
        if i_stage == 0 and config.has_detail:
            total += n_steps * n_pixels * TAPS * 3 * DETAIL_BLOCK**2 * following
    assert n_steps == NEXT_CHUNK_EMITS == LATENTS_PER_CHUNK * FRAMES_PER_LATENT
    total += n_steps * n_pixels * TAPS * (last * last + last * 3)
    return 2 * total
