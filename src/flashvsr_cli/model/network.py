"""From a checkpoint's files to a network on a device."""

from collections.abc import Callable, Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn

from flashvsr_cli.errors import DeviceError, WeightsError
from flashvsr_cli.model.config import (
    DiTConfig,
    LowResProjectionConfig,
    StateDict,
    TinyDecoderConfig,
    VAEDecoderConfig,
)
from flashvsr_cli.model.dit import DiT
from flashvsr_cli.model.loading import load_state_dicts
from flashvsr_cli.model.lq_projection import LowResProjection
from flashvsr_cli.model.stream import Network
from flashvsr_cli.model.tiny_decoder import TinyDecoder
from flashvsr_cli.model.traits import RESIDUAL, Traits
from flashvsr_cli.model.transformer import choose_transformer
from flashvsr_cli.model.vae_decoder import VAEDecoder
from flashvsr_cli.options import Backend, Decoder, DtypeName, Version
from flashvsr_cli.weights import Checkpoint
from flashvsr_cli.weights_registry import Role, needed_roles, read_registry

DTYPES: dict[DtypeName, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
M = TypeVar("M", bound=nn.Module)


def resolve_device(name: str) -> torch.device:
    """The device of that name; "auto" is CUDA when there is one.

    Raises:
        DeviceError: the name means nothing, or this machine has no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise DeviceError(f"{name!r} is not the name of a device.", "Use auto, cpu, cuda, or cuda:1.") from error
    if device.type == "cpu":
        return device
    if device.type != "cuda":
        raise DeviceError(f"Device {name!r} is not supported.", "Use auto, cpu, cuda, or cuda:1.")
    if not torch.cuda.is_available():
        raise DeviceError(
            f"Device {name!r} was asked for, but PyTorch finds no CUDA device here.",
            "Run `flashvsr doctor` to see why, or use --device cpu.",
        )
    if device.index is not None and device.index >= torch.cuda.device_count():
        raise DeviceError(
            f"Device {name!r} was asked for, but there are {torch.cuda.device_count()} CUDA devices.",
            "Device numbers start at 0.",
        )
    return device


def choose_model(model: str, device: str) -> str:
    """The model that is meant: "auto" is the released one on a CUDA device and the packaged one on a CPU.

    Raises:
        DeviceError: there is no such device.
        WeightsError: weights.toml cannot be read.
    """
    if model != "auto":
        return model
    registry = read_registry()
    return registry.default if resolve_device(device).type == "cuda" else registry.default_cpu


def choose_dtype(name: DtypeName | None, device: torch.device) -> torch.dtype:
    """The dtype of that name; None is bfloat16 on CUDA, float32 on the CPU."""
    if name is None:
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    return DTYPES[name]


def build_module(make: Callable[[StateDict], M], state: dict[str, Tensor], name: str) -> M:
    """A module around a state dict's own tensors, nothing copied.

    Args:
        make: builds the module, with whatever weights, given the state dict.
        state: every tensor of the module and no other.
        name: the file's name, for the message.

    Raises:
        WeightsError: tensors are missing, unknown, or of the wrong shape.
    """
    advice = "The file is damaged or belongs to another model: `flashvsr weights verify` tells which."
    try:
        with torch.device("meta"):
            module = make(state)
        module.load_state_dict(state, strict=True, assign=True)
    except KeyError as error:
        raise WeightsError(f"{name} lacks the tensor {error}.", advice) from error
    except RuntimeError as error:
        detail = " ".join(str(error).split())
        raise WeightsError(f"{name} does not fit the model: {detail[:400]}", advice) from error
    return module.requires_grad_(False).eval()


def load_network(
    checkpoint: Checkpoint,
    *,
    decoder: Decoder,
    device: str,
    dtype: DtypeName | None,
    backend: Backend = "auto",
    fp8: bool = False,
) -> Network:
    """Load a checkpoint onto a device; sizes come from the tensors.

    Args:
        checkpoint: verified local files.
        decoder: which decoder to load.
        device: as for `resolve_device`.
        dtype: as for `choose_dtype`.
        backend, fp8: as for `choose_transformer`.

    Raises:
        WeightsError: a file is damaged or does not fit the others.
        DeviceError: there is no such device.
    """
    target = resolve_device(device)
    precision = choose_dtype(dtype, target)
    states = load_state_dicts(checkpoint, needed_roles(decoder), dtype=precision, device=target)
    names = {role: path.name for role, path in checkpoint.files.items()}
    return build_network(states, names, checkpoint.version, Traits.of(checkpoint.metadata), backend, fp8=fp8)


def build_network(
    states: Mapping[Role, dict[str, Tensor]],
    names: Mapping[Role, str],
    version: Version,
    traits: Traits,
    backend: Backend = "auto",
    *,
    fp8: bool = False,
) -> Network:
    """A network around state dicts that lie on one device in one dtype.

    Args:
        states: tensors per role; with "tiny_decoder" or "vae" as the decoder.
        names: what to call each role's file in messages.
        version: the projection's cache rule.
        traits: what the tensors' shapes do not say.
        backend, fp8: as for `choose_transformer`.

    Raises:
        WeightsError: tensors are missing, or the parts do not fit each other.
    """
    dit = build_module(lambda s: DiT(DiTConfig.of(s, traits.head_dim)), states["dit"], names["dit"])
    projection = build_module(
        lambda s: LowResProjection(LowResProjectionConfig.of(s), version),
        states["lq_projection"],
        names["lq_projection"],
    )
    decoder: TinyDecoder | VAEDecoder
    if "tiny_decoder" in states:
        decoder = build_module(
            lambda s: TinyDecoder(TinyDecoderConfig.of(s, predicts_residual=traits.decoder_output == RESIDUAL)),
            states["tiny_decoder"],
            names["tiny_decoder"],
        )
    else:
        decoder = build_module(lambda s: VAEDecoder(VAEDecoderConfig.of(s)), states["vae"], names["vae"])
    width, wanted = projection.config.dim, dit.config.dim
    if width != wanted:
        raise WeightsError(
            f"{names['lq_projection']} makes tokens of width {width}, {names['dit']} wants {wanted}.",
            "Take both files from the same release.",
        )
    projection.fold_constants()
    decoder.fold_constants()
    weight = dit.patch_embedding.weight
    if weight.is_cuda and weight.dtype == torch.float32:
        # PyTorch convolves float32 with 10-bit mantissas by default; who asks for float32 wants its digits.
        torch.backends.cudnn.allow_tf32 = False
    conditioning = dit.fold_constants(states["prompt"]["posi_prompt"])
    transformer = choose_transformer(dit, conditioning, projection.linear_layers, backend, fp8=fp8)
    if transformer.name == "triton":
        projection.use_kernels()
        if isinstance(decoder, TinyDecoder):
            decoder.use_kernels()
    return Network(projection, dit, conditioning, decoder, transformer, weight.device, weight.dtype)
