"""`flashvsr train`: the stages, and packing what they made."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from flashvsr_cli.cli.flags import DTYPE_OF, PrecisionChoice

app = typer.Typer(no_args_is_help=True, help="Train a model: one TOML file a stage.")
ChangeOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a setting of the TOML, e.g. data.size=256."),
]


class ExportChoice(StrEnum):
    """Number formats of a packed model."""

    FP32 = "fp32"
    BF16 = "bf16"
    FP16 = "fp16"


@app.command("run")
def run_command(
    config: Annotated[Path, typer.Argument(help="The stage's TOML, e.g. configs/nano/1-decoder.toml.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the run.")],
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the training state in the folder.")] = False,
    change: ChangeOption = None,
) -> None:
    """Run one stage. On several GPUs: torchrun --nproc-per-node N -m flashvsr_cli.train CONFIG -o FOLDER."""
    import logging
    import sys

    from flashvsr_cli.train.config_file import read_stage_config
    from flashvsr_cli.train.loop import train

    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    train(read_stage_config(config, tuple(change or ())), output, resume=resume)


@app.command("export")
def export_command(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The .safetensors to write.")],
    precision: Annotated[ExportChoice, typer.Option(help="Number format of the weights.")] = ExportChoice.FP16,
    note: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="A fact for the header, e.g. license=Apache-2.0.")
    ] = None,
) -> None:
    """Pack a run's model into the one file that `flashvsr upscale --model` takes."""
    facts = dict(map(_parse_fact, note or ()))
    from flashvsr_cli.train.parts import pack_model

    pack_model(run, output, DTYPE_OF[PrecisionChoice(precision)], facts)


def _parse_fact(text: str) -> tuple[str, str]:
    name, is_given, value = text.partition("=")
    if not (name and is_given):
        raise typer.BadParameter(f"{text!r} is not KEY=VALUE.", param_hint="--note")
    return name, value


@app.command("cost")
def cost_command(
    model: Annotated[str, typer.Argument(help="A .safetensors of this project, or a folder.")],
) -> None:
    """Multiplications per output pixel at 1280x720, part by part."""
    from flashvsr_cli.train.cost import cost_of_model

    cost = cost_of_model(model)
    for name in ("projection", "linear", "attention", "decoder", "total"):
        typer.echo(f"{name:<12}{getattr(cost, name):10.0f}")


@app.command("measure")
def measure_command(
    config: Annotated[Path, typer.Argument(help="A stage's TOML, which says what was held out.")],
    model: Annotated[str, typer.Argument(help="A .safetensors of this project, or a folder.")],
    video: Annotated[list[Path] | None, typer.Option(help="Measure on the beginning of this video as well.")] = None,
    strip: Annotated[Path | None, typer.Option(help="Write a PNG: bicubic, model, wanted.")] = None,
    change: ChangeOption = None,
) -> None:
    """Measure a model on clips that it was not trained on: a Markdown table with the gain over bicubic."""
    from flashvsr_cli.pipeline import Upscaler
    from flashvsr_cli.train.config_file import read_stage_config
    from flashvsr_cli.train.validate import clips_of_video, make_clips, measure_network, table_of

    stage = read_stage_config(config, tuple(change or ()))
    upscaler = Upscaler.load(model, device=stage.run.device)
    clips = make_clips(stage) + [clip for path in video or () for clip in clips_of_video(path, stage)]
    results = measure_network(upscaler.network, upscaler.default_settings, clips, stage.data.scale, strip)
    typer.echo(table_of(results))
