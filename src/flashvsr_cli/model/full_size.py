"""The released checkpoints' sizes, for looking ahead without the files and for measuring speed without weights.

tests/model/test_full_size.py holds these sizes against the released files' fingerprints.
"""

import torch
from torch import Tensor, nn

from flashvsr_cli.model.config import DiTConfig, LowResProjectionConfig, TinyDecoderConfig, VAEDecoderConfig
from flashvsr_cli.model.dit import DiT
from flashvsr_cli.model.lq_projection import LowResProjection
from flashvsr_cli.model.tiny_decoder import TinyDecoder
from flashvsr_cli.model.vae_decoder import VAEDecoder
from flashvsr_cli.options import Decoder

DIT = DiTConfig(dim=1536, n_heads=12, n_blocks=30, ffn_dim=8960, freq_dim=256, text_dim=4096, latent_channels=16)
PROJECTION = LowResProjectionConfig(in_channels=768, hidden1=2048, hidden2=3072, dim=1536, n_layers=1)
TINY_DECODER = TinyDecoderConfig(in_channels=784, channels=(512, 256, 128, 128))
VAE = VAEDecoderConfig(dim=96, latent_channels=16)
PROMPT_SHAPE = (1, 512, 4096)
RANDOM_STD = 0.02


def full_size_states(decoder: Decoder = "tiny") -> dict[str, dict[str, Tensor]]:
    """Every role's tensors of a released checkpoint, as meta tensors: shapes without data."""
    with torch.device("meta"):
        modules: dict[str, nn.Module] = {
            "dit": DiT(DIT),
            "lq_projection": LowResProjection(PROJECTION, "v1.1"),
            **({"tiny_decoder": TinyDecoder(TINY_DECODER)} if decoder == "tiny" else {"vae": VAEDecoder(VAE)}),
        }
        states = {role: dict(module.state_dict()) for role, module in modules.items()}
        states["prompt"] = {"posi_prompt": torch.empty(PROMPT_SHAPE)}
    return states


def random_states(
    states: dict[str, dict[str, Tensor]], *, device: torch.device, dtype: torch.dtype, seed: int = 0
) -> dict[str, dict[str, Tensor]]:
    """Weights of the same shapes that keep activations in range: gains near 1, everything else small."""
    generator = torch.Generator(device).manual_seed(seed)

    def draw(key: str, like: Tensor) -> Tensor:
        noise = torch.randn(like.shape, generator=generator, device=device, dtype=torch.float32)
        is_gain = ("norm" in key and not key.endswith("bias")) or key.endswith("gamma")
        if is_gain:
            return (1 + RANDOM_STD * noise).to(dtype)
        fan_in = like[0].numel() if like.ndim > 1 and not key.endswith("modulation") else 1
        std = fan_in**-0.5 if fan_in > 1 else RANDOM_STD
        return (std * noise).to(dtype)

    return {role: {key: draw(key, like) for key, like in state.items()} for role, state in states.items()}
