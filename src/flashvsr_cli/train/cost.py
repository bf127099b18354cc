"""Multiplications that one output pixel costs: everything between the enlarged input and the frame."""

from dataclasses import dataclass

from flashvsr_cli.geometry import plan_geometry
from flashvsr_cli.model.attention import REFERENCE_PIXELS
from flashvsr_cli.model.config import PATCH, DiTConfig, LowResProjectionConfig, TinyDecoderConfig
from flashvsr_cli.model.loading import PROMPT_KEY, load_state_dicts
from flashvsr_cli.model.tiny_decoder import DETAIL_BLOCK
from flashvsr_cli.model.traits import Traits
from flashvsr_cli.model.windows import TOKENS_PER_WINDOW
from flashvsr_cli.options import Settings
from flashvsr_cli.schedule import FRAMES_PER_LATENT
from flashvsr_cli.weights import resolve_checkpoint

PIXELS_PER_TOKEN = 256 * FRAMES_PER_LATENT
"""Output pixels, over space and time, that share a token."""


@dataclass(frozen=True)
class Cost:
    """Multiply-adds per output pixel in the steady state."""

    projection: float
    linear: float
    attention: float
    decoder: float

    @property
    def total(self) -> float:
        """All of it."""
        return self.projection + self.linear + self.attention + self.decoder


def count_macs(
    dit: DiTConfig,
    projection: LowResProjectionConfig,
    decoder: TinyDecoderConfig,
    *,
    n_text: int,
    settings: Settings,
    source: tuple[int, int] = (180, 320),
    scale: float = 4,
) -> Cost:
    """Count per pixel of the frames that the user gets; what is computed on padding is counted as well."""
    geometry = plan_geometry(source, scale)
    padding = geometry.padded[0] * geometry.padded[1] / (geometry.target[0] * geometry.target[1])
    n_windows = geometry.window_grid[0] * geometry.window_grid[1]
    n_pairs = max(1, int(settings.kv_ratio) + 1)
    visible = n_windows * n_pairs
    kept_blocks = min(visible, settings.sparse_ratio * REFERENCE_PIXELS / (2 * TOKENS_PER_WINDOW * 64))

    dim = dit.dim
    # Self-attention has four projections, cross-attention two whose input changes; then the feed-forward's two.
    per_block = 6 * dim * dim + 2 * dim * dit.ffn_dim + 2 * n_text * dim
    ends = 2 * dim * PATCH * PATCH * dit.latent_channels
    per_attention = 2 * dim * (kept_blocks * TOKENS_PER_WINDOW + visible / TOKENS_PER_WINDOW)
    taps = 4 * 9
    per_projection = (
        2 * taps * projection.in_channels * projection.hidden1
        + taps * projection.hidden1 * projection.hidden2
        + projection.n_layers * projection.hidden2 * dim
    )
    return Cost(
        projection=padding * per_projection / PIXELS_PER_TOKEN,
        linear=padding * (dit.n_blocks * per_block + ends) / PIXELS_PER_TOKEN,
        attention=padding * dit.n_blocks * per_attention / PIXELS_PER_TOKEN,
        decoder=padding * _decoder_macs(decoder),
    )


def _decoder_macs(decoder: TinyDecoderConfig) -> float:
    """Per pixel; a stage at 1/s of the side and 1/n of the frame rate has 1 / (s * s * n) positions per pixel."""
    first, last = decoder.channels[0], decoder.channels[-1]
    total, positions = 9.0 * (decoder.in_channels + first) * first, 1 / (64 * FRAMES_PER_LATENT)
    total *= positions
    stages = zip(decoder.channels, decoder.channels[1:], decoder.blocks, decoder.grow, strict=False)
    for i_stage, (channels, following, n_blocks, grow) in enumerate(stages):
        total += positions * n_blocks * 9 * 4 * channels * channels
        # A transposed 4x4 convolution with stride 2 (model/tiny_decoder.py).
        total += positions * grow * 16 * channels * following
        positions *= 4 * grow
        if i_stage == 0 and decoder.has_detail:
            total += positions * 9 * 3 * DETAIL_BLOCK**2 * following
    return total + 9 * last * last + 27 * last


def cost_of_model(model: str) -> Cost:
    """The cost of a checkpoint with the settings that it comes with, at 320x180 to 1280x720."""
    checkpoint = resolve_checkpoint(model)
    states = load_state_dicts(checkpoint, ("dit", "lq_projection", "tiny_decoder", "prompt"))
    traits = Traits.of(checkpoint.metadata)
    return count_macs(
        DiTConfig.of(states["dit"], traits.head_dim),
        LowResProjectionConfig.of(states["lq_projection"]),
        TinyDecoderConfig.of(states["tiny_decoder"]),
        n_text=states["prompt"][PROMPT_KEY].shape[1],
        settings=traits.settings,
    )
