"""The full decoder against the whole clip at once in conv3d."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F

from flashvsr_cli.model.config import VAEDecoderConfig
from flashvsr_cli.model.vae_decoder import LATENT_MEAN, LATENT_STD, VAEDecoder

N_LATENTS = 5


@pytest.fixture(scope="module")
def decoder(make_random: Callable[..., VAEDecoder]) -> VAEDecoder:
    return make_random(VAEDecoder(VAEDecoderConfig(dim=4, latent_channels=16)), seed=7)


@pytest.fixture(scope="module")
def latents() -> torch.Tensor:
    return torch.randn(1, 16, N_LATENTS, 3, 4, generator=torch.Generator().manual_seed(8))


class WholeClip:
    """The decoder on all time steps at once: ordinary 3-D convolutions behind two zero slices."""

    def __init__(self, weights: dict[str, torch.Tensor]) -> None:
        self.w = weights

    def conv(self, x: torch.Tensor, name: str) -> torch.Tensor:
        weight = self.w[f"{name}.weight"]
        pad = weight.shape[-1] // 2
        x = F.pad(x, (pad, pad, pad, pad, weight.shape[2] - 1, 0))
        return F.conv3d(x, weight, self.w[f"{name}.bias"])

    def norm(self, x: torch.Tensor, name: str) -> torch.Tensor:
        gamma = self.w[f"{name}.gamma"].reshape(1, -1, 1, 1, 1)
        return x / x.square().sum(dim=1, keepdim=True).sqrt() * x.shape[1] ** 0.5 * gamma

    def residual(self, x: torch.Tensor, name: str) -> torch.Tensor:
        y = self.conv(F.silu(self.norm(x, f"{name}.residual.0")), f"{name}.residual.2")
        y = self.conv(F.silu(self.norm(y, f"{name}.residual.3")), f"{name}.residual.6")
        return y + (self.conv(x, f"{name}.shortcut") if f"{name}.shortcut.weight" in self.w else x)

    def attention(self, x: torch.Tensor, name: str) -> torch.Tensor:
        out = x.clone()
        y = self.norm(x, f"{name}.norm")
        for t in range(x.shape[2]):
            pixels = y[0, :, t].flatten(1).T
            qkv = pixels @ self.w[f"{name}.to_qkv.weight"][:, :, 0, 0].T + self.w[f"{name}.to_qkv.bias"]
            q, k, v = qkv.chunk(3, dim=1)
            mixed = (q @ k.T / q.shape[1] ** 0.5).softmax(dim=1) @ v
            mixed = mixed @ self.w[f"{name}.proj.weight"][:, :, 0, 0].T + self.w[f"{name}.proj.bias"]
            out[0, :, t] += mixed.T.reshape(x.shape[1], *x.shape[3:])
        return out

    def upsample(self, x: torch.Tensor, name: str) -> torch.Tensor:
        if f"{name}.time_conv.weight" in self.w:
            # The first step stays alone and is not seen by the convolution that doubles the others.
            doubled = self.conv(x[:, :, 1:], f"{name}.time_conv")
            early, late = doubled.chunk(2, dim=1)
            x = torch.cat((x[:, :, :1], torch.stack((early, late), dim=3).flatten(2, 3)), dim=2)
        x = x.repeat_interleave(2, dim=3).repeat_interleave(2, dim=4)
        weight, bias = self.w[f"{name}.resample.1.weight"], self.w[f"{name}.resample.1.bias"]
        return F.conv3d(x, weight[:, :, None], bias, padding=(0, 1, 1))

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        mean, std = (torch.tensor(values).reshape(1, -1, 1, 1, 1) for values in (LATENT_MEAN, LATENT_STD))
        x = self.conv(latents * std + mean, "conv2")
        x = self.conv(x, "decoder.conv1")
        x = self.residual(x, "decoder.middle.0")
        x = self.attention(x, "decoder.middle.1")
        x = self.residual(x, "decoder.middle.2")
        for i in range(15):
            layer = self.upsample if i in (3, 7, 11) else self.residual
            x = layer(x, f"decoder.upsamples.{i}")
        return self.conv(F.silu(self.norm(x, "decoder.head.0")), "decoder.head.2")


def test_decoder_is_the_whole_clip_in_conv3d(decoder: VAEDecoder, latents: torch.Tensor) -> None:
    frames = torch.cat(list(decoder.decode(latents, {})))
    expected = WholeClip(decoder.state_dict()).decode(latents)[0].transpose(0, 1)
    assert frames.shape == (4 * N_LATENTS - 3, 3, 24, 32)
    torch.testing.assert_close(frames, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("sizes", [[1, 4], [3, 2], [2, 1, 2], [1, 1, 1, 1, 1]])
def test_any_split_gives_the_same_frames(decoder: VAEDecoder, latents: torch.Tensor, sizes: list[int]) -> None:
    state: dict = {}
    parts = [frames for part in latents.split(sizes, dim=2) for frames in decoder.decode(part, state)]
    whole = list(decoder.decode(latents, {}))
    assert [len(part) for part in parts] == [1, 4, 4, 4, 4]
    torch.testing.assert_close(torch.cat(parts), torch.cat(whole), rtol=1e-5, atol=1e-5)


def test_full_size_has_the_released_decoder_layers() -> None:
    with torch.device("meta"):
        state = VAEDecoder(VAEDecoderConfig(dim=96, latent_channels=16)).state_dict()
    assert state["decoder.conv1.weight"].shape == (384, 16, 3, 3, 3)
    assert state["decoder.head.2.weight"].shape == (3, 96, 3, 3, 3)
    assert state["decoder.upsamples.4.shortcut.weight"].shape == (384, 192, 1, 1, 1)
    assert [key for key in state if "time_conv.weight" in key] == [
        "decoder.upsamples.3.time_conv.weight",
        "decoder.upsamples.7.time_conv.weight",
    ]
