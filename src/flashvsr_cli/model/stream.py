"""One clip on its way through the network, chunk by chunk, with everything that has to be remembered in between.

The weights (`Network`) hold no state, so that any number of streams can share them.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from flashvsr_cli.errors import DeviceError
from flashvsr_cli.geometry import Geometry
from flashvsr_cli.model.attention import plan_sparsity
from flashvsr_cli.model.dit import Conditioning, DiT
from flashvsr_cli.model.frames import Frames
from flashvsr_cli.model.kv_cache import PagedKVCache
from flashvsr_cli.model.lq_projection import LowResProjection, ProjectionState
from flashvsr_cli.model.rope import rotary_table
from flashvsr_cli.model.tiny_decoder import DecoderState, TinyDecoder
from flashvsr_cli.model.transformer import ChunkContext, Transformer
from flashvsr_cli.model.vae_decoder import VAEDecoder, VAEState
from flashvsr_cli.options import Settings
from flashvsr_cli.schedule import LATENTS_PER_PAIR, Chunk

PIXELS_PER_LATENT = 8


@dataclass(frozen=True)
class Network:
    """The weights, on one device and in one dtype, and what computes the transformer."""

    projection: LowResProjection
    dit: DiT
    conditioning: Conditioning
    decoder: TinyDecoder | VAEDecoder
    transformer: Transformer
    device: torch.device
    dtype: torch.dtype

    @property
    def has_kernels(self) -> bool:
        """Whether GPU kernels compute the transformer, and so may compute what is around it.

        Not under Triton's interpreter, which takes a second for a small frame.
        """
        return self.transformer.name == "triton" and self.device.type == "cuda"


class Stream:
    """The state of one clip. Every buffer has its final size after the second chunk."""

    def __init__(self, network: Network, geometry: Geometry, settings: Settings) -> None:
        self._network = network
        self._geometry = geometry
        self._settings = settings
        self._projection_state = ProjectionState()
        self._features: list[Tensor] = []
        self._tiny_state: DecoderState = {}
        self._vae_state: VAEState = {}
        if settings.kv_precision == "fp8" and not network.transformer.stores_fp8:
            raise DeviceError(
                "An fp8 cache needs the GPU kernels on Ada, Hopper or newer; here the "
                f"{network.transformer.name} backend computes on {network.device}.",
                "Leave --kv-precision out.",
            )
        rows, columns = geometry.window_grid
        config = network.dit.config
        self._cache = PagedKVCache(
            config.n_blocks,
            rows * columns,
            config.dim,
            settings.kv_ratio,
            device=network.device,
            dtype=torch.float8_e4m3fn if settings.kv_precision == "fp8" else network.dtype,
            n_heads=config.n_heads,
        )

    def noise_shape(self, chunk: Chunk) -> tuple[int, int, int, int, int]:
        """Shape (1, C, F, H/8, W/8) of the noise that `push` wants for a chunk."""
        height, width = (side // PIXELS_PER_LATENT for side in self._geometry.padded)
        return (1, self._network.dit.config.latent_channels, len(chunk.latents), height, width)

    @torch.inference_mode()
    def project(self, read: Frames) -> None:
        """Take in the low-resolution frames of a chunk, in the groups of `Chunk.split_read`, before `push`.

        Args:
            read: (T, 3, H, W) in [-1, 1], enlarged and padded; a slice at a time is taken.
        """
        self._features.append(self._network.projection.features(read, self._projection_state))

    @torch.inference_mode()
    def push(self, chunk: Chunk, emit: Frames, noise: Tensor) -> Iterator[Tensor]:
        """Compute one chunk; chunks must come in order, each once and to its end.

        Args:
            chunk: from `schedule.plan_chunk`.
            emit: (len(chunk.emit), 3, H, W) the low-resolution frames that this chunk emits, in [-1, 1];
                a slice at a time is taken.
            noise: of shape `noise_shape(chunk)`.

        Yields:
            The chunk's frames in order, in groups (1 to 4, 3, H, W) in the network's dtype, before the colour fix;
            nominally in [-1, 1]. The first group of a clip comes long before the last.
        """
        latents = self.denoise(chunk, self.take_features(), noise)
        yield from self.decode(latents, emit)

    @torch.inference_mode()
    def take_features(self) -> Tensor:
        """What `project` made since the last call: (F*h*w, C) in window order."""
        features = torch.cat(self._features) if len(self._features) > 1 else self._features[0]
        self._features.clear()
        return features

    @torch.inference_mode()
    def denoise(self, chunk: Chunk, features: Tensor, noise: Tensor) -> Tensor:
        """x0 of a chunk in float32, shaped like `noise`: one step of the transformer."""
        network, cache = self._network, self._cache
        config = network.dit.config
        n_pairs = len(chunk.latents) // LATENTS_PER_PAIR
        tables = cache.plan_chunk(n_pairs)
        plan = plan_sparsity(
            self._geometry.window_grid,
            len(tables[0]),
            sparse_ratio=self._settings.sparse_ratio,
            local_range=self._settings.local_range,
            n_heads=config.n_heads,
            device=network.device,
        )
        rotary = rotary_table(chunk.latents, self._geometry.token_grid, config.head_dim, network.device)
        context = ChunkContext(
            cache, tables, n_pairs, plan, rotary, self._geometry.window_grid, self._settings.local_range
        )
        noise = noise.to(network.device, torch.float32)
        return noise - network.transformer(noise, features, context).float()

    @torch.inference_mode()
    def decode(self, latents: Tensor, emit: Frames) -> Iterator[Tensor]:
        """Frames of a chunk's x0 (1, C, F, H/8, W/8), in groups as `push` yields them."""
        decoder, latents = self._network.decoder, latents.to(self._network.dtype)
        if isinstance(decoder, TinyDecoder):
            yield from decoder.decode(latents, emit, self._tiny_state)
        else:
            # The official pipeline clamps the full decoder's frames before the colour fix, and not the tiny one's.
            yield from map(_clamp, decoder.decode(latents, self._vae_state))


def draw_noise(seed: int, i_chunk: int, shape: tuple[int, ...], *, i_shot: int = 0) -> Tensor:
    """Standard normal noise (float32, CPU) that depends on seed, chunk and shot alone, on every device alike."""
    # PyTorch's CPU generator looks at 32 bits of its seed; this one spreads all bits of both numbers.
    key = (i_chunk, i_shot) if i_shot else (i_chunk,)
    generator = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))
    return torch.from_numpy(generator.standard_normal(shape, dtype=np.float32))


def _clamp(frames: Tensor) -> Tensor:
    return frames.clamp_(-1, 1)
