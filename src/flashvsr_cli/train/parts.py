"""The trainable model: its parts, where they start from, and how they become a checkpoint that upscales."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from flashvsr_cli.errors import WeightsError
from flashvsr_cli.model.config import DiTConfig, LowResProjectionConfig, TinyDecoderConfig, VAEDecoderConfig
from flashvsr_cli.model.dit import DiT
from flashvsr_cli.model.loading import iter_tensors, load_state_dicts, save_single_file
from flashvsr_cli.model.lq_projection import BLOCK, LowResProjection
from flashvsr_cli.model.network import build_network
from flashvsr_cli.model.stream import Network
from flashvsr_cli.model.tiny_decoder import CONDITION_BLOCK, MemBlock, TGrow, TinyDecoder
from flashvsr_cli.model.traits import RESIDUAL, Traits
from flashvsr_cli.model.vae_decoder import VAEDecoder
from flashvsr_cli.options import Settings, Version
from flashvsr_cli.schedule import FRAMES_PER_LATENT
from flashvsr_cli.train.config import ModelConfig
from flashvsr_cli.train.encoder import LatentEncoder
from flashvsr_cli.train.lora import merge_state
from flashvsr_cli.train.sharpen import can_sharpen, start_as_sharpening
from flashvsr_cli.train.wan_encoder import WanEncoder
from flashvsr_cli.weights import Checkpoint, find_in_folder, resolve_checkpoint
from flashvsr_cli.weights_registry import ROLES, Role

TRAINED_VERSION: Version = "v1.1"
"""The cache rule of everything trained here: plain causal convolutions."""

MODEL_FILE = "model.safetensors"
ENCODER_FILE = "encoder.safetensors"
"""What a finished stage leaves in its folder for the next one."""

BASE_FILE = "diffusion_pytorch_model.safetensors"
"""The transformer as Wan2.1-T2V-1.3B has it, before there are a projection and a tiny decoder for it."""

COLORS = 3
DETAIL_GAIN = 4.0
"""How a small decoder's second stage starts: detail is a few hundredths of the signal's range."""
CONDITION_CHANNELS = 3 * FRAMES_PER_LATENT * CONDITION_BLOCK**2


class ScoreModel(nn.Module):
    """A transformer and the projection that conditions it."""

    def __init__(self, dit: DiT, projection: LowResProjection) -> None:
        super().__init__()
        self.dit = dit
        self.projection = projection


class Parts(nn.Module):
    """Everything a stage may need; which of it learns is the stage's choice.

    Attributes:
        generator: the model that upscales.
        decoder: latents and low-resolution frames to frames.
        encoder: frames to latents; needed in training only.
        vae: the full decoder, where the checkpoint has one.
        prompt: the fixed prompt (1, n_text, text_dim).
        traits: what the tensors' shapes do not say.
    """

    prompt: Tensor

    def __init__(
        self,
        generator: ScoreModel,
        decoder: TinyDecoder,
        encoder: LatentEncoder | WanEncoder,
        prompt: Tensor,
        traits: Traits,
        vae: VAEDecoder | None = None,
    ) -> None:
        super().__init__()
        self.generator = generator
        self.decoder = decoder
        self.encoder = encoder
        self.vae = vae
        self.register_buffer("prompt", prompt)
        self.traits = traits


def role_states(state: Mapping[str, Tensor], scale: float) -> dict[Role, dict[str, Tensor]]:
    """Tensors per role under the released files' keys, from the state dict of `Parts`, adapters merged.

    Args:
        state: of the whole module.
        scale: of the adapters; of no meaning without any.
    """

    def under(prefix: str) -> dict[str, Tensor]:
        return {key.removeprefix(prefix): tensor for key, tensor in state.items() if key.startswith(prefix)}

    return {
        "dit": merge_state(under("generator.dit."), scale),
        "lq_projection": under("generator.projection."),
        "tiny_decoder": under("decoder."),
        "prompt": {"posi_prompt": state["prompt"]},
    }


def build_random(config: ModelConfig, settings: Settings, seed: int) -> Parts:
    """Parts of the given sizes with random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        sizes = DiTConfig(
            config.dim,
            config.dim // config.head_dim,
            config.n_blocks,
            config.ffn_dim,
            config.freq_dim,
            config.text_dim,
            config.latent_channels,
        )
        dit = DiT(sizes)
        for name, weight in dit.named_parameters():
            if name.endswith("modulation"):
                nn.init.normal_(weight, std=config.dim**-0.5)
        projection, decoder = _random_projection(config, config.dim), _random_decoder(config, config.latent_channels)
        encoder = LatentEncoder(config.encoder, config.latent_channels)
        prompt = torch.randn(1, config.n_text, config.text_dim)
    traits = Traits(config.head_dim, config.decoder_output, settings)
    return Parts(ScoreModel(dit, projection), decoder, encoder, prompt, traits)


def _random_projection(config: ModelConfig, dim: int) -> LowResProjection:
    return LowResProjection(LowResProjectionConfig(3 * BLOCK**2, *config.projection, dim, 1), TRAINED_VERSION)


def _random_decoder(config: ModelConfig, latent_channels: int) -> TinyDecoder:
    residual = config.decoder_output == RESIDUAL
    sizes = TinyDecoderConfig(
        CONDITION_CHANNELS + latent_channels,
        config.decoder,
        residual,
        config.decoder_grow,
        config.decoder_blocks,
        config.decoder_detail,
    )
    decoder = TinyDecoder(sizes)
    _initialise_decoder(decoder, config)
    return decoder


def _initialise_decoder(decoder: TinyDecoder, config: ModelConfig) -> None:
    """Keep the signal's size through two dozen layers, where PyTorch's own scheme lets it fade to nothing."""
    for layer in decoder.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        if isinstance(layer, TGrow):
            nn.init.kaiming_normal_(layer.conv.weight, nonlinearity="linear")
    if can_sharpen(decoder, config):
        start_as_sharpening(decoder)
    elif decoder.predicts_residual:
        # Starts as the plain enlargement.
        nn.init.zeros_(cast(nn.Conv2d, decoder.decoder[26]).weight)
    if decoder.detail is not None:
        _start_with_detail(decoder, decoder.detail)


@torch.no_grad()
def _start_with_detail(decoder: TinyDecoder, detail: nn.Conv2d) -> None:
    """Let the second stage see differences between pixels first, not brightness, nor the first stage or the past."""
    colors = detail.weight.unflatten(1, (COLORS, -1))
    colors -= colors.mean(dim=(2, 3, 4), keepdim=True)
    colors *= DETAIL_GAIN
    nn.init.zeros_(cast(nn.Conv2d, decoder.decoder[10]).weight)
    for block in decoder.modules():
        if isinstance(block, MemBlock):
            first, last = cast(nn.Conv2d, block.conv[0]), cast(nn.Conv2d, block.conv[-1])
            nn.init.zeros_(first.weight[:, first.out_channels :])
            nn.init.zeros_(last.weight)


def load_parts(source: str, settings: Settings, config: ModelConfig, seed: int) -> Parts:
    """Parts from a single file or a folder in the released layout, or from the folder of Wan2.1-T2V-1.3B.

    The encoder is one of its own, or the Wan VAE's.

    Raises:
        WeightsError: a file is missing or damaged.
    """
    if (Path(source) / BASE_FILE).is_file():
        return _load_base(Path(source), settings, config, seed)
    checkpoint = _find_checkpoint(source)
    states = load_state_dicts(checkpoint, ("dit", "lq_projection", "tiny_decoder", "prompt"), dtype=torch.float32)
    traits = Traits.of(checkpoint.metadata)
    dit = DiT(DiTConfig.of(states["dit"], traits.head_dim))
    dit.load_state_dict(states["dit"])
    projection = LowResProjection(LowResProjectionConfig.of(states["lq_projection"]), checkpoint.version)
    projection.load_state_dict(states["lq_projection"])
    decoder = _decoder_of(states["tiny_decoder"], traits)
    folder = next(iter(checkpoint.files.values())).parent
    encoder, vae = _load_encoder(folder, config, dit.config.latent_channels, seed)
    return Parts(
        ScoreModel(dit, projection),
        decoder,
        encoder,
        states["prompt"]["posi_prompt"],
        Traits(traits.head_dim, traits.decoder_output, settings),
        vae,
    )


def _find_checkpoint(source: str) -> Checkpoint:
    trained = Path(source) / MODEL_FILE
    return resolve_checkpoint(str(trained) if trained.is_file() else source, decoder="tiny")


def _decoder_of(state: dict[str, Tensor], traits: Traits) -> TinyDecoder:
    decoder = TinyDecoder(TinyDecoderConfig.of(state, predicts_residual=traits.decoder_output == RESIDUAL))
    decoder.load_state_dict(state)
    return decoder


def take_decoder(parts: Parts, source: str) -> None:
    """Put the tiny decoder of another run or checkpoint in the place of these parts' own.

    Raises:
        WeightsError: a file is missing or damaged.
    """
    checkpoint = _find_checkpoint(source)
    traits = Traits.of(checkpoint.metadata)
    states = load_state_dicts(checkpoint, ("tiny_decoder",), dtype=torch.float32)
    parts.decoder = _decoder_of(states["tiny_decoder"], traits)
    parts.traits = replace(parts.traits, decoder_output=traits.decoder_output)


def _load_base(folder: Path, settings: Settings, config: ModelConfig, seed: int) -> Parts:
    """A transformer that knows no low resolution yet: the projection's tokens are zero at first."""
    state = {key: x.float() for key, x in iter_tensors(folder / BASE_FILE)}
    prompt_file = find_in_folder(folder, "prompt")
    if prompt_file is None:
        raise WeightsError(
            f"{folder} holds no prompt.", "Put posi_prompt.pth of FlashVSR there: training keeps to that one prompt."
        )
    (prompt,) = (x.float() for _, x in iter_tensors(prompt_file))
    dit = DiT(DiTConfig.of(state, config.head_dim))
    dit.load_state_dict(state)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        projection = _random_projection(config, dit.config.dim)
        for layer in projection.linear_layers:
            for weight in layer.parameters():
                nn.init.zeros_(weight)
        decoder = _random_decoder(config, dit.config.latent_channels)
    encoder, vae = _load_encoder(folder, config, dit.config.latent_channels, seed)
    traits = Traits(config.head_dim, config.decoder_output, settings)
    return Parts(ScoreModel(dit, projection), decoder, encoder, prompt, traits, vae)


def _load_encoder(
    folder: Path, config: ModelConfig, latent_channels: int, seed: int
) -> tuple[LatentEncoder | WanEncoder, VAEDecoder | None]:
    """An encoder of its own, trained if the folder has one, or the Wan VAE's, with its decoder."""
    if config.encoder:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            encoder = LatentEncoder(config.encoder, latent_channels)
        if (folder / ENCODER_FILE).is_file():
            encoder.load_state_dict(dict(iter_tensors(folder / ENCODER_FILE)))
        return encoder, None
    path = Path(config.vae) if config.vae else find_in_folder(folder, "vae")
    if path is None:
        raise WeightsError(
            f"{folder} has no Wan VAE to make latents with.",
            "Set model.vae to Wan2.1_VAE.pth, or model.encoder for an encoder of its own.",
        )
    state = {key: x.float() for key, x in iter_tensors(path)}
    decoder_state = {key: x for key, x in state.items() if key.startswith(("decoder.", "conv2."))}
    vae = VAEDecoder(VAEDecoderConfig.of(decoder_state))
    vae.load_state_dict(decoder_state)
    return WanEncoder.of(state), vae


def network_of(states: Mapping[Role, Mapping[str, Tensor]], traits: Traits, device: torch.device) -> Network:
    """A network around copies of role states, in float32."""
    copies: dict[Role, dict[str, Tensor]] = {
        role: {key: x.detach().to(device, torch.float32, copy=True) for key, x in state.items()}
        for role, state in states.items()
    }
    return build_network(copies, dict.fromkeys(ROLES, "the trained model"), TRAINED_VERSION, traits)


def export(
    path: Path, states: Mapping[Role, Mapping[str, Tensor]], traits: Traits, dtype: torch.dtype, facts: dict[str, Any]
) -> None:
    """Write the single file that `flashvsr upscale --model` takes."""
    tensors = {role: {key: x.detach().cpu().to(dtype) for key, x in state.items()} for role, state in states.items()}
    metadata = {key: str(value) for key, value in facts.items()}
    save_single_file(path, tensors, {**metadata, **traits.to_metadata(), "version": TRAINED_VERSION})


def pack_model(run: Path, output: Path, dtype: str, facts: Mapping[str, str]) -> None:
    """Write a finished run's model as one file in another number format, with its recipe in the header.

    Raises:
        WeightsError: the folder holds no model, or the file cannot be written.
    """
    checkpoint = resolve_checkpoint(str(run / MODEL_FILE), decoder="tiny")
    states = load_state_dicts(checkpoint, ("dit", "lq_projection", "tiny_decoder", "prompt"))
    traits = Traits.of(checkpoint.metadata)
    recipe = {key: value for key, value in checkpoint.metadata.items() if key in ("stage", "steps", "config")}
    export(output, states, traits, getattr(torch, dtype), {**recipe, **facts})
