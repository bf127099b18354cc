"""The options that commands share, each defined once, and how a command takes them.

A flags class is a dataclass whose fields are Typer options; `takes_flags` gives a command all of them as one object.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from flashvsr_cli.cli.media_flags import ENCODING, EncodingFlags, InputFlags, PartFlags
from flashvsr_cli.options import MAX_OUTPUT_PIXELS, DtypeName, EncodeOptions, InputOptions, ModelOptions, Settings

MODEL, PICTURE, RUNNING = "Model", "Picture", "Running"
C = TypeVar("C", bound=Callable[..., Any])


class DecoderChoice(StrEnum):
    """The decoders."""

    TINY = "tiny"
    FULL = "full"


class VersionChoice(StrEnum):
    """Versions of the released checkpoints."""

    V1 = "v1"
    V1_1 = "v1.1"


class PrecisionChoice(StrEnum):
    """Number formats of the model."""

    FP32 = "fp32"
    BF16 = "bf16"
    FP16 = "fp16"
    FP8 = "fp8"


class CacheChoice(StrEnum):
    """Number formats of the attention's memory."""

    MODEL = "model"
    FP8 = "fp8"


class BackendChoice(StrEnum):
    """What computes the transformer."""

    AUTO = "auto"
    TORCH = "torch"
    TRITON = "triton"


class ColorFixChoice(StrEnum):
    """The colour fixes."""

    ADAIN = "adain"
    WAVELET = "wavelet"
    NONE = "none"


class SceneCutChoice(StrEnum):
    """What is done about hard cuts."""

    AUTO = "auto"
    OFF = "off"


class PipeChoice(StrEnum):
    """What can be written to stdout."""

    Y4M = "y4m"
    RGB24 = "rgb24"
    MATROSKA = "matroska"


DTYPE_OF: dict[PrecisionChoice, DtypeName] = {
    PrecisionChoice.FP32: "float32",
    PrecisionChoice.BF16: "bfloat16",
    PrecisionChoice.FP16: "float16",
    PrecisionChoice.FP8: "bfloat16",
}

# Options that commands with flags of their own take, too.
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", "-y", help="Replace existing output.")]
ModelOption = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        metavar="MODEL",
        envvar="FLASHVSR_MODEL",
        help="A name of `flashvsr weights list`, a checkpoint folder, or a .safetensors file.",
        rich_help_panel=MODEL,
    ),
]
DeviceOption = Annotated[
    str,
    typer.Option(
        "--device",
        "-d",
        metavar="DEVICE",
        envvar="FLASHVSR_DEVICE",
        help="auto, cpu, cuda, cuda:1 ...",
        rich_help_panel=MODEL,
    ),
]
PrecisionOption = Annotated[
    PrecisionChoice | None,
    typer.Option(
        help="Number format. Default: bf16 on CUDA, fp32 on the CPU. fp8: products in 8 bits, Ada or newer.",
        rich_help_panel=MODEL,
    ),
]
BackendOption = Annotated[
    BackendChoice,
    typer.Option(help="What computes the transformer; auto is the fastest that runs.", rich_help_panel=MODEL),
]
ScaleOption = Annotated[
    float,
    typer.Option(
        "--scale",
        "-s",
        min=1.0,
        max=16.0,
        metavar="FACTOR",
        help="Output side over input side, 1 to 16; the model was trained for 4.",
        rich_help_panel=PICTURE,
    ),
]
CacheOption = Annotated[
    CacheChoice,
    typer.Option(
        help="Number format of what is remembered; fp8 halves its memory on Ada or newer.", rich_help_panel=PICTURE
    ),
]


@dataclass(frozen=True)
class ModelFlags:
    """Which weights, and where they run."""

    model: ModelOption = "auto"
    model_version: Annotated[
        VersionChoice | None,
        typer.Option(
            help="Version of a checkpoint folder whose files are not the released ones.", rich_help_panel=MODEL
        ),
    ] = None
    decoder: Annotated[
        DecoderChoice, typer.Option(help="tiny is fast, full is the Wan VAE.", rich_help_panel=MODEL)
    ] = DecoderChoice.TINY
    device: DeviceOption = "auto"
    precision: PrecisionOption = None
    backend: BackendOption = BackendChoice.AUTO

    def model_options(self) -> ModelOptions:
        """Which weights, where."""
        return ModelOptions(
            model=self.model,
            version=self.model_version.value if self.model_version else None,
            decoder=self.decoder.value,
            device=self.device,
            dtype=DTYPE_OF[self.precision] if self.precision else None,
            fp8=self.precision is PrecisionChoice.FP8,
            backend=self.backend.value,
        )


@dataclass(frozen=True)
class PictureFlags:
    """What is computed."""

    scale: ScaleOption = 4.0
    sparse_ratio: Annotated[
        float | None,
        typer.Option(
            metavar="RATIO",
            help="Attention kept; lower is faster. Default: the model's, 2.0 for the released ones.",
            rich_help_panel=PICTURE,
        ),
    ] = None
    kv_ratio: Annotated[
        float | None,
        typer.Option(
            metavar="RATIO",
            help="How far back the model remembers, in pairs of latent frames. Default: the model's, 3.0.",
            rich_help_panel=PICTURE,
        ),
    ] = None
    local_range: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Side of the square of windows seen; 9 is sharper, 11 smoother. Default: the model's, 11.",
            rich_help_panel=PICTURE,
        ),
    ] = None
    kv_precision: CacheOption = CacheChoice.MODEL
    color_fix: Annotated[
        ColorFixChoice | None,
        typer.Option(help="How colours follow the input. Default: the model's, adain.", rich_help_panel=PICTURE),
    ] = None
    seed: Annotated[
        int,
        typer.Option(min=0, metavar="N", help="Seed of the noise: same seed, same result.", rich_help_panel=PICTURE),
    ] = 0
    strength: Annotated[
        float,
        typer.Option(
            min=0,
            max=1,
            metavar="0..1",
            help="1 is the model's picture, 0 the plain enlargement.",
            rich_help_panel=PICTURE,
        ),
    ] = 1.0
    grain: Annotated[
        float,
        typer.Option(
            min=0,
            max=1,
            metavar="0..1",
            help="Lay grain over the picture; 1 is as strong as in the source.",
            rich_help_panel=PICTURE,
        ),
    ] = 0.0
    scene_cut: Annotated[
        SceneCutChoice,
        typer.Option(help="auto starts the model anew at hard cuts, off never does.", rich_help_panel=PICTURE),
    ] = SceneCutChoice.AUTO

    def __post_init__(self) -> None:
        self.settings(Settings())  # what has no meaning is refused before a model is fetched and loaded

    def settings(self, defaults: Settings) -> Settings:
        """The model's default settings with what the user gave."""
        given = {
            "sparse_ratio": self.sparse_ratio,
            "kv_ratio": self.kv_ratio,
            "local_range": self.local_range,
            "color_fix": self.color_fix.value if self.color_fix else None,
        }
        chosen: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        chosen |= {"strength": self.strength, "grain": self.grain, "scene_cut": self.scene_cut.value}
        return replace(defaults, seed=self.seed, kv_precision=self.kv_precision.value, **chosen)


@dataclass(frozen=True)
class RunFlags:
    """How a run behaves."""

    overwrite: Annotated[
        bool, typer.Option("--overwrite", "-y", help="Replace existing output.", rich_help_panel=RUNNING)
    ] = False
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="No progress and no notes; errors only.", rich_help_panel=RUNNING)
    ] = False
    report: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write what happened as JSON; - is stdout.", rich_help_panel=RUNNING),
    ] = None
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Keep what is done if the run is cut short, and go on.", rich_help_panel=RUNNING),
    ] = False


@dataclass(frozen=True)
class InfoFlags(ModelFlags, PictureFlags, InputFlags):
    """What `info` takes."""


@dataclass(frozen=True)
class BatchFlags(RunFlags, EncodingFlags, ModelFlags, PartFlags, PictureFlags):
    """What `batch` takes."""

    def input_options(self) -> InputOptions:
        """What is read of a video; the limit of pixels holds as for `upscale`."""
        return _limited(self.part_options(), self.max_pixels)


@dataclass(frozen=True)
class UpscaleFlags(RunFlags, EncodingFlags, ModelFlags, InputFlags, PictureFlags):
    """What `upscale` takes."""

    output_format: Annotated[
        PipeChoice | None,
        typer.Option(help="What to write to stdout. Default: what the input is.", rich_help_panel=ENCODING),
    ] = None

    def input_options(self) -> InputOptions:
        """What is read; the limit of pixels, if given, holds for inputs too."""
        return _limited(super().input_options(), self.max_pixels)

    def encode_options(self) -> EncodeOptions:
        """How to encode, on stdout too."""
        return replace(super().encode_options(), pipe_format=self.output_format.value if self.output_format else None)


def _limited(options: InputOptions, max_pixels: int) -> InputOptions:
    return options if max_pixels == MAX_OUTPUT_PIXELS else replace(options, max_pixels=max_pixels)


def takes_flags(flags_type: type) -> Callable[[C], C]:
    """Give a command, as its argument `flags`, an instance of a flags class filled from the command line."""

    def decorate(command: C) -> C:
        signature = inspect.signature(command)
        own = [parameter for name, parameter in signature.parameters.items() if name != "flags"]
        shared = [
            inspect.Parameter(f.name, inspect.Parameter.KEYWORD_ONLY, default=f.default, annotation=f.type)
            for f in fields(flags_type)
        ]

        def run(**values: Any) -> Any:
            flags = flags_type(**{f.name: values.pop(f.name) for f in fields(flags_type)})
            return command(flags=flags, **values)

        run.__name__, run.__doc__ = command.__name__, command.__doc__
        parameters = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in (*own, *shared)]
        run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in parameters}
        return run  # type: ignore[return-value]

    return decorate
