"""Random checkpoints far smaller than any useful one, and clips to put through them."""

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from flashvsr_cli import Upscaler
from flashvsr_cli.model.config import DiTConfig, LowResProjectionConfig, TinyDecoderConfig, VAEDecoderConfig
from flashvsr_cli.model.dit import DiT
from flashvsr_cli.model.lq_projection import LowResProjection
from flashvsr_cli.model.tiny_decoder import TinyDecoder
from flashvsr_cli.model.vae_decoder import VAEDecoder

DIM = 128


def randomise(module: nn.Module, seed: int) -> dict[str, torch.Tensor]:
    """Weights that keep activations near unit size, gains near one; every tensor random, none left at 0 or 1."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for key, tensor in module.state_dict().items():
        noise = torch.randn(tensor.shape, generator=generator)
        fan_in = tensor[0].numel() if tensor.ndim > 1 else 1
        if "gamma" in key or key.endswith(("norm_q.weight", "norm_k.weight", "norm3.weight")):
            state[key] = 1 + 0.1 * noise
        elif tensor.ndim > 1 and "modulation" not in key:
            state[key] = noise / fan_in**0.5
        else:
            state[key] = 0.1 * noise
    module.load_state_dict(state)
    return state


@pytest.fixture
def rng() -> torch.Generator:
    return torch.Generator().manual_seed(20251012)


@pytest.fixture(scope="session")
def make_random() -> Callable[..., nn.Module]:
    """`make_random(module, seed)` fills a module with random weights and returns it, without gradients."""

    def make(module: nn.Module, seed: int = 0) -> nn.Module:
        randomise(module, seed)
        return module.requires_grad_(False).eval()

    return make


@pytest.fixture(scope="session")
def mini_folder() -> Path:
    return Path(__file__).parents[1] / "golden" / "mini"


@pytest.fixture(scope="session")
def micro_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint in the released layout: one block of one head, decoders of a few channels."""
    folder = tmp_path_factory.mktemp("micro")
    dit = DiT(DiTConfig(DIM, n_heads=1, n_blocks=1, ffn_dim=64, freq_dim=16, text_dim=8, latent_channels=16))
    projection = LowResProjection(LowResProjectionConfig(768, 8, 8, DIM, n_layers=1), "v1.1")
    tiny = TinyDecoder(TinyDecoderConfig(784, (8, 8, 8, 8)))
    vae = VAEDecoder(VAEDecoderConfig(dim=4, latent_channels=16))
    save_file(randomise(dit, 1), folder / "diffusion_pytorch_model_streaming_dmd.safetensors")
    torch.save(randomise(projection, 2), folder / "LQ_proj_in.ckpt")
    torch.save(randomise(tiny, 3), folder / "TCDecoder.ckpt")
    torch.save(randomise(vae, 4), folder / "Wan2.1_VAE.pth")
    torch.save(torch.randn(1, 6, 8, generator=torch.Generator().manual_seed(5)), folder / "posi_prompt.pth")
    return folder


@pytest.fixture(scope="session")
def load_micro(micro_folder: Path) -> Callable[..., Upscaler]:
    """`load_micro(version, decoder, dtype)`, each combination loaded once."""

    @cache
    def load(version: str = "v1.1", decoder: str = "tiny", dtype: str = "float32") -> Upscaler:
        return Upscaler.load(str(micro_folder), version=version, decoder=decoder, device="cpu", dtype=dtype)

    return load


@pytest.fixture(scope="session")
def make_clip() -> Callable[..., Iterator[np.ndarray]]:
    """`make_clip(n_frames, (height, width))`: a drifting pattern with some noise, every frame different."""

    def make(n_frames: int, size: tuple[int, int], dtype: type = np.uint8, seed: int = 0) -> Iterator[np.ndarray]:
        generator = np.random.default_rng(seed)
        peak = np.iinfo(dtype).max
        y, x = np.indices(size)
        phases = generator.uniform(0, 6, 3)
        for i_frame in range(n_frames):
            waves = np.sin(x[..., None] / 5 + y[..., None] / 9 + phases + i_frame / 4)
            picture = 0.5 + 0.35 * waves + generator.normal(0, 0.04, (*size, 3))
            yield np.clip(picture * peak, 0, peak).round().astype(dtype)

    return make
