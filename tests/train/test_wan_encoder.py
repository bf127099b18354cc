"""The Wan VAE's encoder: its shapes are the release's, and it streams."""

import hashlib

import torch

from flashvsr_cli.model.config import VAEDecoderConfig
from flashvsr_cli.model.vae_decoder import VAEDecoder
from flashvsr_cli.train.wan_encoder import WanEncoder

RELEASED_FINGERPRINT = "ccc42284ea13e1ad04693284c7a09be6"
"""md5 over keys and shapes of all 194 tensors of Wan2.1_VAE.pth."""


def test_encoder_and_decoder_together_have_the_released_shapes() -> None:
    with torch.device("meta"):
        encoder, decoder = WanEncoder(96, 16), VAEDecoder(VAEDecoderConfig(96, 16))
    shapes = {key: tuple(x.shape) for module in (encoder, decoder) for key, x in module.state_dict().items()}
    assert len(shapes) == 194
    facts = [fact for key, shape in shapes.items() for fact in (f"{key}:{'_'.join(map(str, shape))}", key)]
    assert hashlib.md5(",".join(sorted(facts)).encode(), usedforsecurity=False).hexdigest() == RELEASED_FINGERPRINT


def test_latents_depend_on_no_later_frame() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder = WanEncoder(4, 16).eval()
        frames = torch.rand(1, 9, 3, 32, 48) * 2 - 1
    with torch.no_grad():
        latents = encoder.encode(frames)
        assert latents.shape == (1, 16, 3, 4, 6)
        torch.testing.assert_close(encoder.encode(frames[:, :5]), latents[:, :, :2])
        changed = frames.clone()
        changed[:, 5] += 0.5
        difference = (encoder.encode(changed) - latents).abs().amax(dim=(0, 1, 3, 4))
    assert difference[:2].max() == 0
    assert difference[2] > 0
