"""The four stages: what each computes from a batch of clips, as modules whose forward pass is the loss.

Source: FlashVSR, section 3 (three-stage distillation, tiny conditional decoder) and its supplement.
"""

import copy

import torch
from torch import Tensor, nn

from flashvsr_cli.dataset.batch import Batch
from flashvsr_cli.errors import UsageError
from flashvsr_cli.model.config import PATCH
from flashvsr_cli.model.dit import SelfAttend
from flashvsr_cli.schedule import FRAMES_PER_LATENT
from flashvsr_cli.train.attend import CausalSparsity, full_attention
from flashvsr_cli.train.config import StageConfig
from flashvsr_cli.train.forward import decode_clips, decode_stills, predict_velocity, project_clips
from flashvsr_cli.train.lora import add_adapters, is_adapter
from flashvsr_cli.train.losses import (
    Perceptual,
    flicker_distance,
    flow_loss,
    matching_loss,
    mix,
    pixel_loss,
    shift_time,
)
from flashvsr_cli.train.parts import Parts, ScoreModel
from flashvsr_cli.train.random import Purpose, StepRandom, to_device

PIXELS_PER_WINDOW = 128
SCORE_TIMES = (0.02, 0.98)
"""Range of the times at which the score models are compared, as in DMD."""

Losses = dict[str, Tensor]


class Stage(nn.Module):
    """What the stages share. `forward` returns the terms and, under "loss", their weighted sum."""

    def __init__(self, parts: Parts, config: StageConfig, perceptual: Perceptual) -> None:
        super().__init__()
        self.parts = parts
        self.config = config
        self._perceptual = perceptual
        if config.lora_rank:
            add_adapters(parts.generator.dit, config.lora_rank, config.lora_alpha, config.seed)

    def choose_trained(self) -> dict[str, list[nn.Parameter]]:
        """Switch gradients on for the parts that the configuration names; returns them by name."""
        self.requires_grad_(False)
        modules = self.trainable_modules()
        chosen: dict[str, list[nn.Parameter]] = {}
        for name in (*self.config.train, *(["fake"] if "fake" in modules else [])):
            module = modules[name]
            weights = [
                weight
                for key, weight in module.named_parameters()
                if not (self.config.lora_rank and name in ("dit", "fake"))
                or is_adapter(key)
                or key.startswith("projection.")
            ]
            for weight in weights:
                weight.requires_grad_(True)
            chosen[name] = weights
        return chosen

    def trainable_modules(self) -> dict[str, nn.Module]:
        """The names that `StageConfig.train` may list."""
        parts = self.parts
        return {
            "dit": parts.generator.dit,
            "projection": parts.generator.projection,
            "decoder": parts.decoder,
            "encoder": parts.encoder,
        }

    def sparse_attention(self, latents: Tensor) -> SelfAttend:
        """What the streaming model sees, for clips like (B, C, F, H/8, W/8)."""
        height, width = (side * 8 // PIXELS_PER_WINDOW for side in latents.shape[-2:])
        sparsity = self.config.sparsity
        n_heads = self.parts.generator.dit.config.n_heads
        return CausalSparsity((height, width), latents.shape[2], n_heads, sparsity.settings(), sparsity.path)

    def full_attention(self, clips: list[Tensor]) -> SelfAttend:
        """Everything within each clip (C, F, H/8, W/8)."""
        segments = [clip[0].numel() // PATCH**2 for clip in clips]
        return full_attention(segments, self.parts.generator.dit.config.n_heads)

    def time(self, random: StepRandom, batch: Batch, purpose: Purpose) -> Tensor:
        """The pack's time, shifted as configured."""
        uniform = to_device(random.numpy(batch.i_pack, purpose).random(), batch.high_res.device)
        return shift_time(uniform, self.config.loss.flow_shift)

    def noise(self, random: StepRandom, batch: Batch, purpose: Purpose, like: Tensor) -> Tensor:
        """Noise of the clips' own."""
        return random.normal(batch.indices, purpose, tuple(like.shape[1:]), like.device)

    @torch.no_grad()
    def encode(self, frames: Tensor) -> Tensor:
        """Latents without gradient."""
        return self.parts.encoder.encode(frames)

    def weigh(self, terms: Losses) -> Losses:
        """Add the weighted sum."""
        total = torch.stack([getattr(self.config.loss, name) * value for name, value in terms.items()]).sum()
        return {**terms, "loss": total}

    def picture_terms(self, frames: Tensor, wanted: Tensor, prefix: str = "") -> Losses:
        """Pixel and perceptual distance of frames (B, T, 3, H, W), those with a weight."""
        weights, terms = self.config.loss, {}
        if getattr(weights, f"{prefix}pixel"):
            terms[f"{prefix}pixel"] = pixel_loss(weights.pixel_kind, frames, wanted)
        if getattr(weights, f"{prefix}perceptual"):
            terms[f"{prefix}perceptual"] = self._perceptual(frames.flatten(0, 1), wanted.flatten(0, 1))
        return terms

    def flicker_terms(self, frames: Tensor, wanted: Tensor) -> Losses:
        """The term on frames (B, T, 3, H, W), if it has a weight."""
        return {"flicker": flicker_distance(frames, wanted)} if self.config.loss.flicker else {}

    def decode_window(self, batch: Batch, random: StepRandom, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Frames of all latents, or of a few neighbours at a random place, and what they should be."""
        n_frames, count = batch.high_res.shape[1], self.config.loss.decoded_latents
        if not count or count >= latents.shape[2]:
            return self._decode(latents, batch.low_res[:, :n_frames]), batch.high_res
        # Behind the start of the clip, one latent in front fills the decoder's memory; its frames are not judged.
        judged_latent = int(random.numpy(batch.i_pack, Purpose.WINDOW).integers(0, latents.shape[2] - count + 1))
        first, last = max(0, judged_latent - 1), judged_latent + count
        begin, judged, end = (max(0, FRAMES_PER_LATENT * n - 3) for n in (first, judged_latent, last))
        frames = self._decode(latents[:, :, first:last], batch.low_res[:, begin:end])
        return frames[:, judged - end :], batch.high_res[:, judged:end]

    def _decode(self, latents: Tensor, low_res: Tensor) -> Tensor:
        """Frames by the configured decoder, as `decode_clips` gives them; the full one needs no low-resolution frames.

        The full one takes any first latent for that of a clip, which stands for one frame: within a clip three fewer
        come out, of the latent in front that is not judged.
        """
        if self.config.loss.pixel_decoder == "tiny":
            return decode_clips(self.parts.decoder, latents, low_res)
        if self.parts.vae is None:
            raise UsageError("loss.pixel_decoder is full, but there is no Wan VAE.", "Set model.vae and no encoder.")
        vae = self.parts.vae
        return torch.stack([torch.cat(list(vae.decode(clip[None], {}))) for clip in latents])


class TeacherStage(Stage):
    """Flow matching on clips and still pictures together, every token seeing its whole clip."""

    def forward(self, batch: Batch, random: StepRandom) -> Losses:
        """See `Stage`."""
        time = self.time(random, batch, Purpose.TIME)
        clean, noise, tokens = [], [], []
        for part in (batch, batch.images):
            if part is not None:
                latents = self.encode(part.high_res)
                clean += list(latents)
                noise += list(self.noise(random, part, Purpose.NOISE, latents))
                tokens.append(project_clips(self.parts.generator.projection, part.low_res))
        velocity = predict_velocity(
            self.parts.generator.dit,
            self.parts.prompt,
            [mix(z, n, time) for z, n in zip(clean, noise, strict=True)],
            time,
            [torch.cat(layer) for layer in zip(*tokens, strict=True)],
            self.full_attention(clean),
        )
        return self.weigh({"flow": flow_loss(velocity, clean, noise)})


class CausalStage(Stage):
    """Flow matching under the causal, locality-constrained sparse mask; clips only."""

    def forward(self, batch: Batch, random: StepRandom) -> Losses:
        """See `Stage`."""
        time = self.time(random, batch, Purpose.TIME)
        clean = self.encode(batch.high_res)
        noise = self.noise(random, batch, Purpose.NOISE, clean)
        velocity = predict_velocity(
            self.parts.generator.dit,
            self.parts.prompt,
            list(mix(clean, noise, time)),
            time,
            project_clips(self.parts.generator.projection, batch.low_res),
            self.sparse_attention(clean),
        )
        return self.weigh({"flow": flow_loss(velocity, list(clean), list(noise))})


class OneStepStage(Stage):
    """One step from noise: distribution matching, flow matching for the fake score, pixels and perception.

    Attributes:
        real: the frozen score model, stage 1's.
        fake: its copy, which learns the distribution of what the generator makes.
    """

    def __init__(self, parts: Parts, config: StageConfig, perceptual: Perceptual, real: ScoreModel | None) -> None:
        super().__init__(parts, config, perceptual)
        self.uses_scores = config.loss.dmd > 0
        if self.uses_scores:
            self.real = real if real is not None else copy.deepcopy(parts.generator)
            self.fake = copy.deepcopy(self.real)
            if config.lora_rank:
                add_adapters(self.fake.dit, config.lora_rank, config.lora_alpha, config.seed)

    def trainable_modules(self) -> dict[str, nn.Module]:
        """See `Stage`; the fake score model is always trained."""
        return super().trainable_modules() | ({"fake": self.fake} if self.uses_scores else {})

    def forward(self, batch: Batch, random: StepRandom) -> Losses:
        """See `Stage`."""
        _, n_frames, _, height, width = batch.high_res.shape
        n_latents = -(-n_frames // FRAMES_PER_LATENT)
        channels = self.parts.generator.dit.config.latent_channels
        shape = (channels, n_latents, height // 8, width // 8)
        noise = random.normal(batch.indices, Purpose.NOISE, shape, batch.high_res.device)
        velocity = predict_velocity(
            self.parts.generator.dit,
            self.parts.prompt,
            list(noise),
            torch.ones((), device=noise.device),
            project_clips(self.parts.generator.projection, batch.low_res),
            self.sparse_attention(noise),
        )
        predicted = noise - torch.stack(velocity)
        terms = self._score_terms(batch, random, predicted) if self.uses_scores else {}
        if self.config.loss.flow:
            with torch.no_grad():
                clean = self.parts.encoder.encode(batch.high_res)
            terms["flow"] = nn.functional.mse_loss(predicted, clean)
        frames, wanted = self.decode_window(batch, random, predicted)
        return self.weigh({**terms, **self.picture_terms(frames, wanted), **self.flicker_terms(frames, wanted)})

    def _score_terms(self, batch: Batch, random: StepRandom, predicted: Tensor) -> Losses:
        """Distribution matching for the generator, flow matching for the fake score model."""
        low, high = SCORE_TIMES
        time = low + (high - low) * self.time(random, batch, Purpose.SCORE_TIME)
        with torch.no_grad():
            noisy = mix(predicted, self.noise(random, batch, Purpose.SCORE_NOISE, predicted), time)
            real, fake = (self._denoise(model, batch, noisy, time) for model in (self.real, self.fake))
        fixed = predicted.detach()
        fake_time = self.time(random, batch, Purpose.FAKE_TIME)
        fake_noise = self.noise(random, batch, Purpose.FAKE_NOISE, predicted)
        velocity = self._velocity(self.fake, batch, mix(fixed, fake_noise, fake_time), fake_time)
        return {
            "dmd": matching_loss(list(predicted), real, fake),
            "fake_flow": flow_loss(velocity, list(fixed), list(fake_noise)),
        }

    def _velocity(self, model: ScoreModel, batch: Batch, noisy: Tensor, time: Tensor) -> list[Tensor]:
        clips = list(noisy)
        tokens = project_clips(model.projection, batch.low_res)
        return predict_velocity(model.dit, self.parts.prompt, clips, time, tokens, self.full_attention(clips))

    def _denoise(self, model: ScoreModel, batch: Batch, noisy: Tensor, time: Tensor) -> list[Tensor]:
        velocity = self._velocity(model, batch, noisy, time)
        return [z - time * v for z, v in zip(noisy, velocity, strict=True)]


class DecoderStage(Stage):
    """The tiny conditional decoder, and for small models the encoder with it."""

    def forward(self, batch: Batch, random: StepRandom) -> Losses:
        """See `Stage`."""
        if self.config.data.stills:
            frames = decode_stills(self.parts.decoder, batch.low_res[:, 0])
            return self.weigh(self.picture_terms(frames[:, None], batch.high_res))
        weights = self.config.loss
        learns_encoder = "encoder" in self.config.train
        latents = self.parts.encoder.encode(batch.high_res) if learns_encoder else self.encode(batch.high_res)
        decoded = self._spoil(latents, batch, random) if weights.latent_noise or weights.latent_drop else latents
        uses_vae = weights.wan_pixel or weights.wan_perceptual
        if uses_vae and weights.decoded_latents:
            raise UsageError(
                "The full decoder's frames are compared over whole clips.", "Set loss.decoded_latents to 0."
            )
        frames, wanted = self.decode_window(batch, random, decoded)
        terms = self.picture_terms(frames, wanted) | self.flicker_terms(frames, wanted)
        if uses_vae:
            terms |= self.picture_terms(frames, self._decode_fully(latents), "wan_")
        return self.weigh(terms)

    def _spoil(self, latents: Tensor, batch: Batch, random: StepRandom) -> Tensor:
        """Mix noise into the latents, clip by clip, so that the decoder does not trust them blindly."""
        draws = [random.numpy(index, Purpose.DROP).random(2) for index in batch.indices]
        shares = [
            1.0 if drop < self.config.loss.latent_drop else level * self.config.loss.latent_noise
            for drop, level in draws
        ]
        share = to_device(shares, latents.device, latents.dtype)[:, None, None, None, None]
        return mix(latents, self.noise(random, batch, Purpose.NOISE, latents), share)

    @torch.no_grad()
    def _decode_fully(self, latents: Tensor) -> Tensor:
        if self.parts.vae is None:
            raise UsageError("The losses wan_pixel and wan_perceptual need the Wan VAE.", "Set model.vae, no encoder.")
        return torch.stack([torch.cat(list(self.parts.vae.decode(clip[None], {}))) for clip in latents]).clamp(-1, 1)


def make_stage(parts: Parts, config: StageConfig, perceptual: Perceptual, real: ScoreModel | None) -> Stage:
    """The configured stage; `real` is the teacher of the one-step stage."""
    if config.stage == "onestep":
        return OneStepStage(parts, config, perceptual, real)
    kinds: dict[str, type[Stage]] = {"teacher": TeacherStage, "causal": CausalStage, "decoder": DecoderStage}
    return kinds[config.stage](parts, config, perceptual)
