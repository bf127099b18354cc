"""The golden checkpoint: what the official operators compute, through the code the command runs."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from flashvsr_cli import Settings, Upscaler
from flashvsr_cli.color import fix_color
from flashvsr_cli.enlarge import enlarge_frames
from flashvsr_cli.geometry import plan_geometry
from flashvsr_cli.model.attention import REFERENCE_PIXELS, SparsityPlan, keep_mask
from flashvsr_cli.model.dit import ONE_STEP_TIMESTEP, timestep_embedding
from flashvsr_cli.model.stream import Stream
from flashvsr_cli.model.windows import from_window_order, local_window_mask, window_means
from flashvsr_cli.schedule import Chunk, count_chunks, iter_chunks

MINI = Path(__file__).parent / "mini"
CASE = json.loads((MINI / "cases.json").read_text())
LATENT_LIMIT = 1e-6
MEAN_LIMIT = 5e-6
FP16_LIMIT = 1e-3
EVERY = slice(3, None, 8)


@pytest.fixture(scope="module")
def golden() -> dict[str, torch.Tensor]:
    return load_file(MINI / "cases.safetensors")


@pytest.fixture(scope="module")
def settings() -> Settings:
    # The case gives top-k as the fraction itself; the setting counts relative to 768x1280.
    ratio = CASE["topk_ratio"] * CASE["H"] * CASE["W"] / REFERENCE_PIXELS
    return Settings(sparse_ratio=ratio, kv_ratio=CASE["kv_ratio"], local_range=CASE["local_range"])


def relative_rms(actual: torch.Tensor, expected: torch.Tensor) -> float:
    difference = actual.double() - expected.double()
    return float(difference.norm() / expected.double().norm())


class Run:
    """Everything one version computes on the case, chunk by chunk, by the objects that `Upscaler.upscale` uses."""

    def __init__(self, version: str, golden: dict[str, torch.Tensor], settings: Settings) -> None:
        upscalers = {
            decoder: Upscaler.load(str(MINI), version=version, decoder=decoder, device="cpu", dtype="float32")
            for decoder in ("tiny", "full")
        }
        frames = golden["input.lr_frames"]
        geometry = plan_geometry(frames.shape[1:3], 4)
        low_res = enlarge_frames(frames, geometry)
        low_res = torch.cat((low_res, low_res[-1:].expand(CASE["F_total"] - len(frames), -1, -1, -1)))
        streams = {name: Stream(up.network, geometry, settings) for name, up in upscalers.items()}
        self.enlarged = low_res
        self.tokens, latents, tiny, full = [], [], [], []
        for chunk in iter_chunks(len(frames)):
            read, emit = self._frames(chunk)
            noise = golden["noise"][:, :, chunk.latents.start : chunk.latents.stop]
            projection = upscalers["tiny"].network.projection
            features = projection.features(read, streams["tiny"]._projection_state)
            self.tokens.append([layer(features) for layer in projection.linear_layers])
            x0 = streams["tiny"].denoise(chunk, features, noise)
            latents.append(x0)
            tiny.extend(streams["tiny"].decode(x0, emit))
            if version == "v1.1":
                full.extend(upscalers["full"].network.decoder.decode(x0, streams["full"]._vae_state))
        self.latents = torch.cat(latents, dim=2)
        self.tiny = torch.cat(tiny)
        self.full = torch.cat(full) if full else None

    def _frames(self, chunk: Chunk) -> Iterator[torch.Tensor]:
        return (self.enlarged[r.start : r.stop] for r in (chunk.read, chunk.emit))


@pytest.fixture(scope="module", params=["v1.1", "v1"])
def version(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def run(version: str, golden: dict[str, torch.Tensor], settings: Settings) -> Run:
    with torch.inference_mode():
        return Run(version, golden, settings)


def as_golden(frames: torch.Tensor) -> torch.Tensor:
    """(T, 3, H, W) -> the stored sampling (1, 3, T, H/8, W/8)."""
    return frames.transpose(0, 1)[None, :, :, EVERY, EVERY]


def fixed(run: Run, frames: torch.Tensor, method: str) -> torch.Tensor:
    return fix_color(method, frames, run.enlarged[: len(frames)])


def test_schedule_agrees_with_the_case() -> None:
    assert count_chunks(CASE["n_frames"]) == CASE["chunks"]


def test_enlargement_is_identical(golden: dict[str, torch.Tensor]) -> None:
    frames = golden["input.lr_frames"]
    enlarged = enlarge_frames(frames, plan_geometry(frames.shape[1:3], 4))
    as_bytes = ((enlarged + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1)
    assert torch.equal(as_bytes[:, EVERY, EVERY], golden["lq.upscaled_u8_s8"])


def test_timestep_constants(golden: dict[str, torch.Tensor]) -> None:
    conditioning = Upscaler.load(str(MINI), device="cpu").network.conditioning
    torch.testing.assert_close(conditioning.time, golden["time.t"], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(conditioning.block_time, golden["time.t_mod"], rtol=1e-6, atol=1e-6)
    assert timestep_embedding(torch.tensor([ONE_STEP_TIMESTEP]), 64).dtype == torch.float64


@pytest.mark.parametrize("i_chunk", [0, 1])
def test_low_res_tokens(run: Run, version: str, golden: dict[str, torch.Tensor], i_chunk: int) -> None:
    (tokens,) = run.tokens[i_chunk]
    grid = (len(tokens) * 256 // (CASE["H"] * CASE["W"]), CASE["H"] // 16, CASE["W"] // 16)
    row_major = from_window_order(tokens, grid).flatten(0, 2)
    assert relative_rms(row_major[None, ::31], golden[f"{version}.lq_latents.{i_chunk}"]) <= LATENT_LIMIT


def test_latents(run: Run, version: str, golden: dict[str, torch.Tensor]) -> None:
    assert relative_rms(run.latents, golden[f"{version}.latents"]) <= LATENT_LIMIT


def test_tiny_decoder(run: Run, version: str, golden: dict[str, torch.Tensor]) -> None:
    assert relative_rms(as_golden(run.tiny), golden[f"{version}.tcdecoder_s8"]) <= FP16_LIMIT


def test_tiny_decoder_with_adain(run: Run, version: str, golden: dict[str, torch.Tensor]) -> None:
    frames = fixed(run, run.tiny, "adain")
    assert relative_rms(as_golden(frames), golden[f"{version}.tiny_adain_s8"]) <= FP16_LIMIT
    means = frames.mean(dim=(2, 3)).T[None]
    assert relative_rms(means, golden[f"{version}.tiny_adain_mean"]) <= MEAN_LIMIT


@pytest.mark.parametrize("version", ["v1.1"], indirect=True)  # stored for v1.1 alone
def test_tiny_decoder_with_wavelet(run: Run, golden: dict[str, torch.Tensor]) -> None:
    assert relative_rms(as_golden(fixed(run, run.tiny, "wavelet")), golden["v1.1.tiny_wavelet_s8"]) <= FP16_LIMIT


@pytest.mark.parametrize("version", ["v1.1"], indirect=True)  # stored for v1.1 alone
def test_full_decoder(run: Run, golden: dict[str, torch.Tensor]) -> None:
    assert relative_rms(as_golden(run.full), golden["v1.1.vae_s8"]) <= FP16_LIMIT
    frames = fixed(run, run.full.clamp(-1, 1), "adain")
    assert relative_rms(as_golden(frames), golden["v1.1.full_adain_s8"]) <= FP16_LIMIT


def test_local_and_keep_masks(golden: dict[str, torch.Tensor]) -> None:
    case = CASE["lcsa"]
    local = local_window_mask(case["block_rows"], case["block_cols"], case["local_range"])
    assert torch.equal(local, golden["lcsa.local_mask"])
    means = [window_means(golden[f"lcsa.{name}"].flatten(0, 1)) for name in ("q", "k")]
    kept = keep_mask(*means, SparsityPlan(local, case["topk"], case["heads"]))
    assert torch.equal(kept, golden["lcsa.mask"])


@pytest.mark.parametrize("decoder", ["tiny", "full"])
def test_upscaler_streams_the_same_frames(decoder: str, golden: dict[str, torch.Tensor], settings: Settings) -> None:
    upscaler = Upscaler.load(str(MINI), version="v1.1", decoder=decoder, device="cpu", dtype="float32")
    chunks = list(iter_chunks(CASE["n_frames"]))

    def noise(i_chunk: int, shape: tuple[int, ...]) -> torch.Tensor:
        part = golden["noise"][:, :, chunks[i_chunk].latents.start : chunks[i_chunk].latents.stop]
        assert part.shape == shape
        return part.float()

    frames = list(golden["input.lr_frames"].numpy())
    out = list(upscaler.upscale(iter(frames), scale=4, settings=settings, noise=noise))
    assert len(out) == len(frames)
    expected = golden["v1.1.tiny_adain_s8" if decoder == "tiny" else "v1.1.full_adain_s8"][0].permute(1, 2, 3, 0)
    expected_bytes = (expected[: len(out)].float() + 1) * 127.5
    sampled = np.stack([frame[EVERY, EVERY] for frame in out]).astype(np.float32)
    # Half a level for rounding to bytes, and what half precision in the stored frames can add.
    assert np.abs(sampled - expected_bytes.numpy()).max() <= 0.5 + 127.5 * 2**-10
