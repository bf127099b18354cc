"""Running a stage: steps, averages, training states, validation."""

import dataclasses
import json
import math
import time
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from flashvsr_cli.dataset.pool import ClipPool
from flashvsr_cli.errors import UsageError, WeightsError
from flashvsr_cli.model.network import resolve_device
from flashvsr_cli.train.config import StageConfig
from flashvsr_cli.train.distributed import World, gather_state, open_world, shard, spread_state, whole
from flashvsr_cli.train.forward import checkpoint_blocks
from flashvsr_cli.train.logs import RunLog
from flashvsr_cli.train.losses import choose_perceptual
from flashvsr_cli.train.parts import (
    ENCODER_FILE,
    MODEL_FILE,
    Parts,
    ScoreModel,
    build_random,
    export,
    load_parts,
    network_of,
    role_states,
    take_decoder,
)
from flashvsr_cli.train.random import StepRandom
from flashvsr_cli.train.stages import Stage, make_stage
from flashvsr_cli.train.validate import ValidationClip, make_clips, measure_network, summarise

STATE_FILE = "state.pt"
STATE_FORMAT = 1
NORMS = ("norm", "fake_norm")
DECODER_ENDS = {"decoder_input": "parts.decoder.decoder.1.weight", "decoder_output": "parts.decoder.decoder.26."}
"""Layers with rates of their own: thousands of inputs that mostly say the same, and an output of a few hundredths,
make them far more sensitive than any other."""


class Trainer:
    """One stage on its way."""

    def __init__(self, config: StageConfig, folder: Path, world: World, log: RunLog) -> None:
        self.config = config
        self.folder = folder
        self.world = world
        self.log = log
        self.step = 0
        self.history: list[dict[str, float]] = []
        self._spent_s = 0.0
        perceptual, sentence = choose_perceptual(world.device)
        if config.loss.perceptual and config.stage in ("onestep", "decoder"):
            log.say(sentence)
        parts = _start_parts(config)
        self._traits = parts.traits
        real = _teacher(config) if config.stage == "onestep" else None
        self.stage: Stage = make_stage(parts, config, perceptual, real).to(world.device)
        groups = self.stage.choose_trained()
        if config.run.checkpointing:
            checkpoint_blocks(self.stage)
        shard(self.stage, world)
        # Sharding replaced the parameters, so they are looked up again by name.
        self._groups = self._find_groups(groups)
        self._optimizer = torch.optim.AdamW(
            [{"params": list(group.values()), "name": name} for name, group in self._groups.items()],
            lr=config.optimizer.lr,
            betas=config.optimizer.betas,
            weight_decay=config.optimizer.weight_decay,
            # One kernel for all weights instead of a dozen; on a CPU there is nothing to gain.
            fused=world.device.type == "cuda",
        )
        self._average = {key: weight.detach().clone() for key, weight in self._averaged() if config.optimizer.ema > 0}
        self._data = ClipPool(config.data, config.seed, world.device)
        self._validation: list[ValidationClip] | None = None

    def _find_groups(self, groups: dict[str, list[nn.Parameter]]) -> dict[str, dict[str, nn.Parameter]]:
        """Trained parameters by part and by name."""
        prefixes = {
            "dit": "parts.generator.dit.",
            "projection": "parts.generator.projection.",
            "decoder": "parts.decoder.",
            "encoder": "parts.encoder.",
            "fake": "fake.",
        }
        named = [(key, weight) for key, weight in self.stage.named_parameters() if weight.requires_grad]
        found = {name: {key: weight for key, weight in named if key.startswith(prefixes[name])} for name in groups}
        for name, prefix in DECODER_ENDS.items():
            keys = [key for key in found.get("decoder", {}) if key.startswith(prefix)]
            if keys:
                found[name] = {key: found["decoder"].pop(key) for key in keys}
        return found

    def _averaged(self) -> list[tuple[str, nn.Parameter]]:
        """The parameters whose average is kept: all trained ones of the model itself."""
        return [item for name, group in self._groups.items() if name != "fake" for item in group.items()]

    def run(self) -> None:
        """Train to the end, or to the time limit; leaves the model, the training state and the log."""
        run = self.config.run
        self._make_pool()
        before, started = self._spent_s, time.monotonic()
        while self.step < self.config.n_steps and not (run.limit_s and self._spent_s >= run.limit_s):
            values = self.train_step()
            self._spent_s = self.world.first(before + time.monotonic() - started)
            if run.log_every and (self.step % run.log_every == 0 or self.step == self.config.n_steps):
                self.log.numbers(self.step, {name: float(value) for name, value in values.items()})
                self._check_finite(max((float(values[name]) for name in NORMS if name in values), default=0.0))
            if self.config.validation.every > 0 and self.step % self.config.validation.every == 0:
                self.validate()
            if run.save_every and self.step % run.save_every == 0:
                self.save()
        self.save()
        if self.config.validation.every >= 0:
            self.validate()

    def _check_finite(self, norm: float) -> None:
        if not math.isfinite(norm):
            raise UsageError(
                f"The run diverged: at step {self.step} the gradient's norm is {norm}.",
                "Lower optimizer.lr or optimizer.clip; with --resume it goes on from the last state that was saved.",
            )

    def _make_pool(self) -> None:
        """The first clips, ahead of the time limit's clock."""
        started = time.monotonic()
        self._data.prepare(self.step)
        if self.config.data.pool_clips:
            self.log.say(f"Made {self.config.data.pool_clips} clips in {time.monotonic() - started:.0f} s.")

    def train_step(self) -> dict[str, Tensor]:
        """One step of the optimizer; returns the losses' means over the step's clips."""
        config, random = self.config, StepRandom(self.config.seed, self.step)
        packs = self.world.share(config.batch // config.pack)
        rate = self._set_rate()
        sums: dict[str, Tensor] = {}
        for i_pack in packs:
            batch = self._data.batch(random, i_pack, config.pack)
            with self._autocast():
                losses = self.stage(batch, random)
            (losses["loss"] / len(packs)).backward()
            for name, value in losses.items():
                sums[name] = sums.get(name, 0.0) + value.detach().float() / len(packs)
        norms = self._clip_gradients()
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self._update_average()
        self.step += 1
        values = {name: self.world.mean(value) for name, value in sums.items()}
        return {**values, **norms, "lr": torch.tensor(rate)}

    def _clip_gradients(self) -> dict[str, Tensor]:
        """Limit the gradient's norm; that of the fake score model, which is far larger, by itself."""
        norms = {}
        for name in NORMS:
            groups = [group for key, group in self._groups.items() if (key == "fake") == (name == "fake_norm")]
            weights = [weight for group in groups for weight in group.values()]
            if weights:
                limit = self.config.optimizer.clip or math.inf
                norms[name] = whole(torch.nn.utils.clip_grad_norm_(weights, limit)).detach()
        return norms

    def _autocast(self) -> AbstractContextManager[Any]:
        is_low = self.config.run.dtype == "bfloat16"
        return torch.autocast(self.world.device.type, torch.bfloat16, enabled=is_low)

    def _set_rate(self) -> float:
        options, limit = self.config.optimizer, self.config.run.limit_s
        progress = self.step / max(1, self.config.n_steps)
        if limit:
            progress = max(progress, self._spent_s / limit)
        rate = options.lr
        if options.schedule == "cosine":
            share = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
            rate = options.final_lr + (options.lr - options.final_lr) * share
        if self.step < options.warmup:
            rate *= (self.step + 1) / options.warmup
        for group in self._optimizer.param_groups:
            group["lr"] = rate * options.rates.get(group["name"], 1.0)
        return rate

    @torch.no_grad()
    def _update_average(self) -> None:
        if not self._average:
            return
        # Early averages follow quickly, so that they do not remember the random start.
        decay = min(self.config.optimizer.ema, (1 + self.step) / (10 + self.step))
        weights = dict(self._averaged())
        torch._foreach_lerp_(list(self._average.values()), [weights[key] for key in self._average], 1 - decay)

    def model_state(self) -> dict[str, Tensor]:
        """The whole state of `Parts` with averaged weights, on the host of the first process."""
        weights = dict(self._averaged())
        kept = {key: weights[key].detach().clone() for key in self._average}
        with torch.no_grad():
            for key, average in self._average.items():
                weights[key].copy_(average)
            state = gather_state(self.stage)
            state = {key: tensor.cpu().clone() for key, tensor in state.items()}
            for key, tensor in kept.items():
                weights[key].copy_(tensor)
        return {key.removeprefix("parts."): x for key, x in state.items() if key.startswith("parts.")}

    def save(self) -> None:
        """Write the training state, the model and the encoder."""
        state = self.model_state()
        training = {
            "format": STATE_FORMAT,
            "stage": self.config.stage,
            "step": self.step,
            "spent_s": self._spent_s,
            "weights": gather_state(self.stage),
            "average": {key: whole(x).cpu() for key, x in self._average.items()},
            "moments": self._gather_moments(),
        }
        if not self.world.is_first:
            return
        temporary = self.folder / f".{STATE_FILE}.tmp"
        torch.save(training, temporary)
        temporary.replace(self.folder / STATE_FILE)
        facts = {"stage": self.config.stage, "steps": self.step, "config": json.dumps(dataclasses.asdict(self.config))}
        export(self.folder / MODEL_FILE, role_states(state, self._adapter_scale()), self._traits, torch.float32, facts)
        if self.config.model.encoder:
            encoder = {key.removeprefix("encoder."): x for key, x in state.items() if key.startswith("encoder.")}
            save_file(encoder, self.folder / ENCODER_FILE)

    def _adapter_scale(self) -> float:
        return self.config.lora_alpha / max(1, self.config.lora_rank)

    def _gather_moments(self) -> dict[str, dict[str, Tensor]]:
        """The optimizer's state by parameter name."""
        moments = {}
        for group in self._groups.values():
            for key, weight in group.items():
                state = self._optimizer.state.get(weight, {})
                moments[key] = {name: whole(value).cpu() for name, value in state.items()}
        return moments

    def resume(self) -> None:
        """Go on from the folder's training state.

        Raises:
            WeightsError: there is none, or it belongs to another stage.
        """
        path = self.folder / STATE_FILE
        if not path.is_file():
            raise WeightsError(f"{path} does not exist.", "Start without --resume.")
        training = torch.load(path, map_location="cpu", weights_only=True)
        if training["format"] != STATE_FORMAT or training["stage"] != self.config.stage:
            raise WeightsError(f"{path} is of stage {training['stage']}.", "Give the folder of this stage's run.")
        spread_state(self.stage, training["weights"], self.world)
        self.step, self._spent_s = training["step"], training["spent_s"]
        with torch.no_grad():
            for key, average in self._average.items():
                _copy_whole(average, training["average"][key])
        for group in self._groups.values():
            for key, weight in group.items():
                stored = training["moments"][key]
                if stored:
                    state = {name: torch.zeros_like(weight) for name in ("exp_avg", "exp_avg_sq")}
                    for name, value in state.items():
                        _copy_whole(value, stored[name])
                    # The fused form on a GPU counts steps there, the plain one on the host.
                    step = stored["step"].to(weight.device, copy=True)
                    self._optimizer.state[weight] = {"step": step, **state}

    def validate(self) -> dict[str, float]:
        """Measure the averaged weights on the validation clips; empty on every process but the first."""
        state = self.model_state()
        if not self.world.is_first:
            return {}
        if self._validation is None:
            self._validation = make_clips(self.config)
        roles = role_states(state, self._adapter_scale())
        network = network_of(roles, self._traits, self.world.device)
        strip = self.folder / f"strip-{self.step:06d}.png"
        scale = self.config.data.scale
        values = summarise(measure_network(network, self._traits.settings, self._validation, scale, strip))
        self.log.numbers(self.step, values)
        return values


def _copy_whole(target: Tensor, source: Tensor) -> None:
    """Copy a whole tensor into one that may be spread."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    if isinstance(target, DTensor):
        source = distribute_tensor(source.to(target.device), target.device_mesh, target.placements)
    with torch.no_grad():
        target.copy_(source)


def _start_parts(config: StageConfig) -> Parts:
    settings = config.sparsity.settings()
    if config.start_from is None:
        return build_random(config.model, settings, config.seed)
    parts = load_parts(config.start_from, settings, config.model, config.seed)
    if config.decoder_from is not None:
        take_decoder(parts, config.decoder_from)
    return parts


def _teacher(config: StageConfig) -> ScoreModel | None:
    if config.teacher is None:
        return None
    return load_parts(config.teacher, config.sparsity.settings(), config.model, config.seed).generator


def train(config: StageConfig, folder: Path, *, resume: bool = False) -> None:
    """Run a stage from its configuration.

    Args:
        config: the stage.
        folder: for everything the run writes.
        resume: go on from the training state in the folder.

    Raises:
        UsageError: the folder holds a run already and `resume` is false.
        FlashVSRError: weights, data or the device are not there.
    """
    if not resume and (folder / STATE_FILE).exists():
        raise UsageError(f"{folder} holds a training state already.", "Add --resume, or give another folder.")
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.benchmark = True
    with open_world(resolve_device(config.run.device)) as world:
        log = RunLog(folder, is_first=world.is_first)
        log.say(f"{config.stage}: {config.n_steps} steps of {config.batch} clips on {world.size} x {world.device}.")
        trainer = Trainer(config, folder, world, log)
        if resume:
            trainer.resume()
            log.say(f"Resumed at step {trainer.step}.")
        trainer.run()
        log.close()
