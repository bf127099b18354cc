"""Sizes and cost of nano, and what its configurations say."""

import dataclasses
from pathlib import Path

import pytest
import torch

from flashvsr_cli.errors import UsageError, WeightsError
from flashvsr_cli.model.config import TinyDecoderConfig
from flashvsr_cli.model.tiny_decoder import MemBlock
from flashvsr_cli.model.traits import Traits
from flashvsr_cli.options import Settings
from flashvsr_cli.train.config import ModelConfig
from flashvsr_cli.train.config_file import read_stage_config
from flashvsr_cli.train.cost import count_macs
from flashvsr_cli.train.forward import decode_clips, decode_stills
from flashvsr_cli.train.parts import build_random, export, role_states

CONFIGS = Path(__file__).parents[2] / "configs"
MACS_PER_PIXEL_LIMIT = 20_000
BYTES_LIMIT = 12_000_000


@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("*.toml")), ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_checked_in_configurations_are_valid(path: Path) -> None:
    config = read_stage_config(path)
    assert config.stage == path.stem.split("-")[1].replace("stills", "decoder")
    assert config.data.stills == (path.stem == "0-stills")
    assert config.lora_rank == (384 if path.parent.name == "full" and config.stage != "decoder" else 0)


def test_nano_is_small_enough(tmp_path: Path) -> None:
    config = read_stage_config(CONFIGS / "nano" / "4-onestep.toml")
    parts = build_random(config.model, config.sparsity.settings(), seed=0)
    cost = count_macs(
        parts.generator.dit.config,
        parts.generator.projection.config,
        TinyDecoderConfig.of(parts.decoder.state_dict()),
        n_text=config.model.n_text,
        settings=config.sparsity.settings(),
    )
    assert 10_000 < cost.total < MACS_PER_PIXEL_LIMIT
    export(tmp_path / "nano.safetensors", role_states(parts.state_dict(), 1.0), parts.traits, torch.float16, {})
    assert (tmp_path / "nano.safetensors").stat().st_size < BYTES_LIMIT


@pytest.mark.parametrize(
    "config",
    [
        ModelConfig(decoder=(16, 8, 8, 4)),
        ModelConfig(decoder=(16, 8, 8, 4), decoder_grow=(4, 1, 1), decoder_blocks=(1, 2, 0), decoder_detail=True),
    ],
    ids=["released", "detailed"],
)
def test_cost_of_a_convolution_is_counted_right(config: ModelConfig) -> None:
    """The decoder's count against the multiplications PyTorch counts on the same layers."""
    from torch.utils.flop_counter import FlopCounterMode

    parts = build_random(config, Settings(), seed=0)
    low_res = torch.zeros(1, 8, 3, 128, 128)
    # With gradients on: what bands of rows compute twice on a CPU is left out.
    with FlopCounterMode(display=False) as counter:
        decode_clips(parts.decoder, torch.zeros(1, 16, 2, 16, 16), low_res)
    counted = counter.get_total_flops() / 2 / (8 * 128 * 128)
    cost = count_macs(
        parts.generator.dit.config,
        parts.generator.projection.config,
        TinyDecoderConfig.of(parts.decoder.state_dict()),
        n_text=8,
        settings=Settings(),
        source=(128, 128),
    )
    assert cost.decoder == pytest.approx(counted, rel=0.01)


def test_nano_starts_as_a_sharpened_enlargement() -> None:
    parts = build_random(ModelConfig(), Settings(), seed=0)
    low_res = torch.zeros(1, 8, 3, 128, 128)
    low_res[..., 64:] = 0.2
    low_res = torch.nn.functional.avg_pool2d(low_res.flatten(0, 1), 9, 1, 4).unflatten(0, (1, 8))
    with torch.no_grad():
        frames = decode_clips(parts.decoder, torch.randn(1, 16, 2, 16, 16), low_res)
    change = (frames - low_res)[0, 4, 0, 40:88].mean(dim=0)
    assert change[56:63].min() < -1e-3, "darker before a bright edge"
    assert change[65:72].max() > 1e-3, "brighter behind it"
    assert change[30:44].abs().max() < 1e-3, "nothing where nothing is"


def test_stills_are_the_frames_of_a_clip(toy_model: ModelConfig) -> None:
    """Before the first stage and the past have been learned, every frame is what it is as a still picture."""
    model = dataclasses.replace(toy_model, decoder_grow=(4, 1, 1), decoder_blocks=(1, 3, 0), decoder_detail=True)
    decoder = build_random(model, Settings(), seed=0).decoder
    generator = torch.Generator().manual_seed(1)
    for block in (layer for layer in decoder.decoder[11:] if isinstance(layer, MemBlock)):
        torch.nn.init.normal_(block.conv[-1].weight, std=0.1, generator=generator)
    torch.nn.init.normal_(decoder.decoder[26].weight, std=0.1, generator=generator)
    low_res = torch.rand(1, 9, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        clip = decode_clips(decoder, torch.randn(1, 16, 3, 8, 8), low_res)
        stills = decode_stills(decoder, low_res[0])
    assert (stills - low_res[0]).abs().max() > 0.01
    torch.testing.assert_close(clip[0], stills, rtol=1e-4, atol=1e-4)


def test_stills_need_a_decoder_with_detail(toy_model: ModelConfig) -> None:
    with pytest.raises(UsageError, match="detail"):
        decode_stills(build_random(toy_model, Settings(), seed=0).decoder, torch.zeros(1, 3, 64, 64))


def test_traits_survive_the_header() -> None:
    traits = Traits(64, "residual", Settings(0.15, 3.0, 5, "none"))
    assert Traits.of(traits.to_metadata()) == traits
    assert Traits.of({}) == Traits()
    for broken in ({"decoder_output": "sound"}, {"head_dim": "many"}, {"settings.sparse_ratio": "-1"}):
        with pytest.raises(WeightsError):
            Traits.of(broken)


@pytest.mark.parametrize(
    "override", ["stagee=teacher", "optimizer.lr='fast'", "data.size=100", "batch=3", "stage='sleep'", "train=[1]"]
)
def test_wrong_settings_are_refused(override: str) -> None:
    with pytest.raises(UsageError):
        read_stage_config(CONFIGS / "nano" / "1-decoder.toml", (override,))
