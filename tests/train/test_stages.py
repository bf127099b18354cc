"""Every stage from its configuration to a model that upscales, on the CPU at toy size."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from flashvsr_cli import Upscaler
from flashvsr_cli.dataset.pool import ClipPool
from flashvsr_cli.errors import UsageError, WeightsError
from flashvsr_cli.model.loading import iter_tensors
from flashvsr_cli.train.config import (
    DataConfig,
    DegradationConfig,
    LossConfig,
    ModelConfig,
    OptimizerConfig,
    RunConfig,
    SparsityConfig,
    StageConfig,
    StageName,
    ValidationConfig,
)
from flashvsr_cli.train.config_file import read_stage_config
from flashvsr_cli.train.loop import STATE_FILE, train
from flashvsr_cli.train.losses import gradient_distance
from flashvsr_cli.train.parts import BASE_FILE, MODEL_FILE, build_random, load_parts
from flashvsr_cli.train.random import StepRandom
from flashvsr_cli.train.stages import make_stage

CPU = torch.device("cpu")
GOLDEN = Path(__file__).parents[1] / "golden" / "mini"
CONFIGS = Path(__file__).parents[2] / "configs" / "full"
DATA = DataConfig(procedural=1.0, size=128, pool_clips=2, workers=1)
SPARSITY = SparsityConfig(sparse_ratio=0.02, local_range=3, color_fix="none")
TRAINED = {
    "decoder": ("decoder", "encoder"),
    "teacher": ("dit", "projection"),
    "causal": ("dit", "projection"),
    "onestep": ("dit", "projection", "decoder"),
}
FALLS_TO = {"decoder": 0.8, "teacher": 0.7, "causal": 0.7, "onestep": 0.7}
"""What the loss falls to within FIXED_STEPS on one batch, as a share of where it started."""
FIXED_STEPS = 25


def stage_config(stage: StageName, model: ModelConfig, **changes: object) -> StageConfig:
    data = dataclasses.replace(DATA, image_share=0.5 if stage == "teacher" else 0.0)
    config = StageConfig(
        stage,
        n_steps=4,
        batch=2,
        pack=1,
        train=TRAINED[stage],
        model=model,
        data=data,
        sparsity=SPARSITY,
        optimizer=OptimizerConfig(lr=1e-3, ema=0.5),
        validation=ValidationConfig(every=-1, n_clips=1, size=128),
        run=RunConfig(device="cpu", log_every=1),
    )
    return dataclasses.replace(config, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("stage", ["decoder", "teacher", "causal", "onestep"])
def test_loss_falls_on_a_fixed_batch(stage: StageName, toy_model: ModelConfig) -> None:
    if stage == "decoder":
        # A decoder of a residual starts at bicubic, which is hard to beat in seconds; one of pictures starts at grey.
        toy_model = dataclasses.replace(toy_model, decoder_output="picture")
    config = stage_config(stage, toy_model)
    parts = build_random(toy_model, SPARSITY.settings(), seed=0)
    module = make_stage(parts, config, gradient_distance, None)
    weights = [weight for group in module.choose_trained().values() for weight in group]
    optimizer = torch.optim.Adam(weights, 5e-3 if stage != "decoder" else 2e-3)
    random = StepRandom(0, 0)
    batch = ClipPool(config.data, 0, torch.device("cpu")).batch(random, 0, 1)
    losses = []
    for _ in range(FIXED_STEPS):
        terms = module(batch, random)
        optimizer.zero_grad()
        terms["loss"].backward()
        optimizer.step()
        # The distribution-matching term moves with both score models, so it is no measure of progress.
        losses.append(float(terms["loss"] - terms.get("dmd", torch.zeros(()))))
    assert losses[-1] < FALLS_TO[stage] * losses[0]


@pytest.fixture
def chain(tmp_path: Path, toy_model: ModelConfig) -> Path:
    """All four stages, one after the other."""
    before: str | None = None
    for stage in ("decoder", "teacher", "causal", "onestep"):
        config = stage_config(stage, toy_model, start_from=before)  # type: ignore[arg-type]
        if stage == "onestep":
            validation = dataclasses.replace(config.validation, every=0)
            config = dataclasses.replace(config, teacher=str(tmp_path / "teacher"), validation=validation)
        train(config, tmp_path / stage)
        before = str(tmp_path / stage)
    return tmp_path


def test_the_stages_lead_to_a_model_that_upscales(chain: Path) -> None:
    for stage in ("decoder", "teacher", "causal", "onestep"):
        records = [json.loads(line) for line in (chain / stage / "log.jsonl").read_text().splitlines()]
        losses = [record["loss"] for record in records if "loss" in record]
        assert len(losses) == 4
        assert np.isfinite(losses).all()
    final = records[-1]
    assert {"clean/psnr", "clean/psnr_gain", "degraded/ssim", "clean/flicker"} <= final.keys()
    assert list((chain / "onestep").glob("strip-*.png"))

    upscaler = Upscaler.load(str(chain / "onestep" / MODEL_FILE), device="cpu")
    assert upscaler.default_settings == SPARSITY.settings()
    frames = np.random.default_rng(0).integers(0, 256, (3, 20, 24, 3), dtype=np.uint8)
    made = list(upscaler.upscale(iter(frames)))
    assert [image.shape for image in made] == [(80, 96, 3)] * 3


@pytest.mark.parametrize("stage", ["decoder", "onestep"])
def test_a_resumed_run_is_the_uninterrupted_one(stage: StageName, tmp_path: Path, toy_model: ModelConfig) -> None:
    config = stage_config(stage, toy_model)
    train(config, tmp_path / "whole")
    train(dataclasses.replace(config, n_steps=2), tmp_path / "parts")
    train(config, tmp_path / "parts", resume=True)
    whole, parts = (torch.load(tmp_path / name / STATE_FILE, weights_only=True) for name in ("whole", "parts"))
    for kind in ("weights", "average"):
        assert whole[kind].keys() == parts[kind].keys()
        for key in whole[kind]:
            assert torch.equal(whole[kind][key], parts[kind][key]), key
    start = build_random(toy_model, SPARSITY.settings(), seed=0).state_dict()
    moved = [key for key in start if not torch.equal(start[key], whole["weights"][f"parts.{key}"])]
    assert any(key.startswith("decoder.") for key in moved)


def test_windows_of_a_few_latents_are_judged_everywhere(toy_model: ModelConfig) -> None:
    """The start of a clip too, which every stream has; frames are those of their place."""
    config = stage_config("decoder", toy_model, loss=LossConfig(decoded_latents=2))
    stage = make_stage(build_random(toy_model, SPARSITY.settings(), seed=0), config, gradient_distance, None)
    pool = ClipPool(dataclasses.replace(DATA, degradation=DegradationConfig(clean=1, mild=0, strong=0)), 0, CPU)
    n_judged = np.zeros(21, int)
    for step in range(40):
        batch = pool.batch(StepRandom(0, step), 0, 1)
        latents = stage.encode(batch.high_res)
        frames, wanted = stage.decode_window(batch, StepRandom(0, step), latents)
        assert frames.shape == wanted.shape
        places = [int((batch.high_res[0] - frame).abs().flatten(1).sum(dim=1).argmin()) for frame in wanted[0]]
        assert places == list(range(places[0], places[0] + len(places)))
        n_judged[places] += 1
        # The decoder starts as the plain enlargement: what it gives lies next to what is wanted there.
        torch.testing.assert_close(frames[0], batch.low_res[0, places], atol=1e-3, rtol=0)
    assert (n_judged > 0).all()


def test_a_run_is_not_overwritten_by_accident(tmp_path: Path, toy_model: ModelConfig) -> None:
    config = stage_config("causal", toy_model, n_steps=1)
    train(config, tmp_path / "run")
    with pytest.raises(UsageError, match="training state"):
        train(config, tmp_path / "run")


def test_checkpointing_and_low_precision_change_no_more_than_rounding(tmp_path: Path, toy_model: ModelConfig) -> None:
    losses = {}
    for name, run in {
        "plain": RunConfig(device="cpu", log_every=1),
        "checkpointed": RunConfig(device="cpu", log_every=1, checkpointing=True),
        "bf16": RunConfig(device="cpu", log_every=1, dtype="bfloat16"),
    }.items():
        train(stage_config("causal", toy_model, run=run), tmp_path / name)
        records = [json.loads(line) for line in (tmp_path / name / "log.jsonl").read_text().splitlines()]
        losses[name] = np.array([record["loss"] for record in records if "loss" in record])
    np.testing.assert_allclose(losses["checkpointed"], losses["plain"], rtol=1e-5)
    np.testing.assert_allclose(losses["bf16"], losses["plain"], rtol=2e-2)
    assert (losses["bf16"] != losses["plain"]).any()


def test_a_run_that_diverges_stops_and_says_so(tmp_path: Path, toy_model: ModelConfig) -> None:
    config = stage_config("decoder", toy_model, n_steps=50)
    config = dataclasses.replace(config, optimizer=dataclasses.replace(config.optimizer, lr=1e6))
    with pytest.raises(UsageError, match="diverged"):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run" / MODEL_FILE).exists()


@pytest.fixture
def wan_base(tmp_path: Path) -> Path:
    """A folder as Wan2.1-T2V-1.3B's, of the golden checkpoint's sizes: no projection, no tiny decoder."""
    folder = tmp_path / "wan2.1-1.3b"
    folder.mkdir()
    shutil.copy(GOLDEN / "diffusion_pytorch_model_streaming_dmd.safetensors", folder / BASE_FILE)
    for name in ("Wan2.1_VAE.pth", "posi_prompt.pth"):
        shutil.copy(GOLDEN / name, folder)
    return folder


@pytest.mark.usefixtures("wan_base")
def test_the_full_size_configurations_are_one_chain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the released base to a model that upscales, with nothing changed but sizes and lengths."""
    monkeypatch.chdir(tmp_path)
    changes = [
        "n_steps=1", "batch=1", "lora_rank=2", "model.projection=[4, 8]", "model.decoder=[16, 8, 8, 4]",
        "data.shards=[]", "data.procedural=1.0", "data.size=128", "data.width=0", "data.n_chunks=1",
        "data.workers=1", "data.pool_clips=2", "validation.every=-1", "run.device=cpu", "run.dtype=float32",
        "run.log_every=1",
    ]  # fmt: skip
    wide = tuple("data.width=256" if change == "data.width=0" else change for change in changes)
    for stage in ("0-decoder", "1-teacher", "2-causal", "3-onestep"):
        own = [
            change for change in (wide if stage == "1-teacher" else changes) if "lora" not in change or stage[0] != "0"
        ]
        if stage[0] in "23":
            own += ["sparsity.path=masked", "sparsity.sparse_ratio=0.02", "sparsity.local_range=3"]
        train(read_stage_config(CONFIGS / f"{stage}.toml", tuple(own)), Path("runs") / stage.split("-")[1])
    before, after = (dict(iter_tensors(Path("runs") / name / MODEL_FILE)) for name in ("decoder", "onestep"))
    assert all(torch.equal(before[key], after[key]) for key in before if key.startswith("tiny_decoder."))
    assert not torch.equal(
        before["lq_projection.linear_layers.0.weight"], after["lq_projection.linear_layers.0.weight"]
    )

    upscaler = Upscaler.load(str(Path("runs") / "onestep" / MODEL_FILE), device="cpu")
    frames = np.random.default_rng(0).integers(0, 256, (2, 20, 24, 3), dtype=np.uint8)
    assert [image.shape for image in upscaler.upscale(iter(frames))] == [(80, 96, 3)] * 2


def test_a_base_without_a_prompt_is_refused(wan_base: Path, toy_model: ModelConfig) -> None:
    (wan_base / "posi_prompt.pth").unlink()
    with pytest.raises(WeightsError, match="holds no prompt"):
        load_parts(str(wan_base), SPARSITY.settings(), toy_model, seed=0)


def test_without_a_pool_every_step_makes_clips_of_its_own() -> None:
    """And a process those of its packs alone."""
    config = dataclasses.replace(DATA, pool_clips=0, size=128, width=256)
    batch = ClipPool(config, 0, CPU).batch(StepRandom(0, 5), 1, 2)
    assert batch.high_res.shape == (2, 21, 3, 128, 256)
    assert batch.low_res.shape == (2, 25, 3, 128, 256)
    again = ClipPool(config, 0, CPU).batch(StepRandom(0, 5), 1, 2)
    assert torch.equal(again.high_res, batch.high_res)
    assert torch.equal(again.low_res, batch.low_res)
    other = ClipPool(config, 0, CPU).batch(StepRandom(0, 5), 0, 2)
    assert not torch.equal(other.high_res, batch.high_res)


@pytest.mark.parametrize(("width", "n_turns"), [(0, 8), (256, 4)])
def test_clips_of_a_batch_are_turned_each_by_itself(width: int, n_turns: int) -> None:
    """High and low alike, in all the ways that keep the shape."""
    degradation = DegradationConfig(clean=1, mild=0, strong=0)
    config = dataclasses.replace(DATA, pool_clips=1, width=width, degradation=degradation)
    batch = ClipPool(config, 0, CPU).batch(StepRandom(0, 0), 0, 40)
    first = batch.high_res[0]
    symmetries = [turned.flip(sides) for turned in (first, first.mT) for sides in ((), (-1,), (-2,), (-2, -1))]
    seen = [[i for i, x in enumerate(symmetries[:n_turns]) if torch.equal(x, clip)] for clip in batch.high_res]
    assert {i for (i,) in seen} == set(range(n_turns))
    for high, low in zip(batch.high_res, batch.low_res, strict=True):
        assert float((high - low[:21]).abs().mean()) < 0.15


def test_stills_are_frames_of_the_clips() -> None:
    config = dataclasses.replace(DATA, pool_clips=2, stills=True)
    pool = ClipPool(config, 0, CPU)
    batch = pool.batch(StepRandom(0, 0), 0, 8)
    assert batch.high_res.shape == batch.low_res.shape == (8, 1, 3, 128, 128)
    assert pool._clips is not None
    frames = pool._clips.high.flatten(0, 1) / 127.5 - 1
    sums = batch.high_res.sum(dim=(1, 2, 3, 4))
    assert torch.isclose(sums[:, None], frames.sum(dim=(1, 2, 3)), atol=0.1).any(dim=1).all()
