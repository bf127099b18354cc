"""The golden checkpoint through the GPU kernels: on a GPU, or under Triton's interpreter on the CPU."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from flashvsr_cli import Settings, Upscaler
from flashvsr_cli.enlarge import enlarge_frames
from flashvsr_cli.geometry import plan_geometry
from flashvsr_cli.model.attention import REFERENCE_PIXELS
from flashvsr_cli.model.config import DiTConfig
from flashvsr_cli.model.dit import DiT
from flashvsr_cli.model.fused import FusedTransformer
from flashvsr_cli.model.stream import Stream
from flashvsr_cli.schedule import iter_chunks

MINI = Path(__file__).parent / "mini"
CASE = json.loads((MINI / "cases.json").read_text())
LATENT_LIMIT = 1e-6
RATIO = CASE["topk_ratio"] * CASE["H"] * CASE["W"] / REFERENCE_PIXELS
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def relative_rms(actual: torch.Tensor, expected: torch.Tensor) -> float:
    difference = actual.double().cpu() - expected.double()
    return float(difference.norm() / expected.double().norm())


def denoise(upscaler: Upscaler, settings: Settings, n_chunks: int = 3) -> torch.Tensor:
    """x0 of the case's first chunks, (1, 16, F, 32, 48) float32 on the host."""
    golden = load_file(MINI / "cases.safetensors")
    frames = golden["input.lr_frames"]
    geometry = plan_geometry(frames.shape[1:3], 4)
    stream = Stream(upscaler.network, geometry, settings)
    low_res = enlarge_frames(frames.to(DEVICE), geometry)
    low_res = torch.cat((low_res, low_res[-1:].expand(CASE["F_total"] - len(frames), -1, -1, -1)))
    out = []
    for chunk in list(iter_chunks(len(frames)))[:n_chunks]:
        stream.project(low_res[chunk.read.start : chunk.read.stop])
        noise = golden["noise"][:, :, chunk.latents.start : chunk.latents.stop]
        out.append(stream.denoise(chunk, stream.take_features(), noise).cpu())
    return torch.cat(out, dim=2)


def latents(backend: str, dtype: str, n_chunks: int = 3) -> torch.Tensor:
    upscaler = Upscaler.load(str(MINI), version="v1.1", device=DEVICE, dtype=dtype, backend=backend)
    assert upscaler.network.transformer.name == backend
    return denoise(upscaler, Settings(sparse_ratio=RATIO, local_range=CASE["local_range"]), n_chunks)


def build_dit() -> DiT:
    """The case's transformer in bfloat16, not folded yet."""
    state = load_file(MINI / "diffusion_pytorch_model_streaming_dmd.safetensors", device=DEVICE)
    dit = DiT(DiTConfig.of(state)).to(DEVICE, torch.bfloat16).requires_grad_(False)
    dit.load_state_dict(state)
    return dit


@pytest.fixture(scope="module")
def expected() -> torch.Tensor:
    return load_file(MINI / "cases.safetensors")["v1.1.latents"]


def test_float32_agrees_with_the_official_operators(expected: torch.Tensor) -> None:
    assert relative_rms(latents("triton", "float32"), expected) <= LATENT_LIMIT


def test_bfloat16_is_as_good_as_plain_torch(expected: torch.Tensor) -> None:
    first_chunk = expected[:, :, :6]
    plain = relative_rms(latents("torch", "bfloat16", 1), first_chunk)
    fused = relative_rms(latents("triton", "bfloat16", 1), first_chunk)
    assert fused <= 2 * plain


def test_fp8_stays_near_bfloat16() -> None:
    """Products and cache in e4m3, as `--precision fp8 --kv-precision fp8` compute, on the case's first chunk."""
    upscaler = Upscaler.load(str(MINI), version="v1.1", device=DEVICE, dtype="bfloat16", backend="triton")
    reference = denoise(upscaler, Settings(sparse_ratio=RATIO, local_range=CASE["local_range"]), n_chunks=1)
    dit = build_dit()
    conditioning = dit.fold_constants(torch.load(MINI / "posi_prompt.pth", weights_only=True).to(DEVICE))
    layers = upscaler.network.projection.linear_layers
    fused = FusedTransformer(dit, conditioning, layers, fp8=True)
    upscaler.network = replace(upscaler.network, transformer=fused)
    settings = Settings(sparse_ratio=RATIO, local_range=CASE["local_range"], kv_precision="fp8")
    error = relative_rms(denoise(upscaler, settings, n_chunks=1), reference)
    assert 1e-4 < error < 0.02
