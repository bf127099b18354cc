"""`flashvsr bench`: how fast this machine is."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from flashvsr_cli.cli.flags import DTYPE_OF, BackendChoice, CacheChoice, PrecisionChoice
from flashvsr_cli.cli.media_flags import PixelSize, parse_size

DEFAULT_SIZE = PixelSize(768, 1408)

app = typer.Typer(no_args_is_help=True, help="Measure speed on this machine.")


@app.command("model")
def bench_model(
    model: Annotated[
        str,
        typer.Option(
            "--model",
            "-m",
            metavar="MODEL",
            help="A name of `flashvsr weights list`, a folder or a file; released models have random weights.",
        ),
    ] = "auto",
    size: Annotated[
        PixelSize, typer.Option(parser=parse_size, metavar="WxH", help="Size of the output; multiples of 4.")
    ] = DEFAULT_SIZE,
    chunks: Annotated[int, typer.Option(min=1, help="Steady chunks of 8 frames to measure.")] = 10,
    frames: Annotated[
        int, typer.Option(min=0, help="Length of a clip to measure from file to file; 0 leaves that out.")
    ] = 101,
    device: Annotated[
        str, typer.Option("--device", "-d", metavar="DEVICE", help="auto, cpu, cuda, cuda:1 ...")
    ] = "auto",
    precision: Annotated[
        PrecisionChoice | None, typer.Option(help="Number format. Default: bf16 on CUDA, fp32 on the CPU.")
    ] = None,
    kv_precision: Annotated[CacheChoice, typer.Option(help="Number format of what is remembered.")] = CacheChoice.MODEL,
    backend: Annotated[BackendChoice, typer.Option(help="What computes the transformer.")] = BackendChoice.AUTO,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    chart: Annotated[
        Path | None, typer.Option(dir_okay=False, metavar="PNG", help="Draw the stages; needs matplotlib.")
    ] = None,
) -> None:
    """A model's speed: stages, frames per second, memory. Downloads nothing: released models have random weights."""
    from flashvsr_cli.bench_chart import draw_chart, require_matplotlib
    from flashvsr_cli.bench_model import measure_model
    from flashvsr_cli.tables import print_speed

    if chart:
        require_matplotlib()
    speed = measure_model(
        (size.height, size.width),
        model=model,
        device=device,
        dtype=DTYPE_OF[precision] if precision else None,
        backend=backend.value,
        fp8=precision is PrecisionChoice.FP8,
        n_chunks=chunks,
        n_frames=frames,
        choose_settings=lambda defaults: replace(defaults, kv_precision=kv_precision.value),
    )
    if as_json:
        typer.echo(json.dumps(speed.to_json(), indent=2))
    else:
        print_speed(speed)
    if chart:
        draw_chart(speed, chart)


@app.command("io")
def bench_io(
    source: Annotated[Path, typer.Argument(metavar="INPUT", help="A video file.", exists=True, dir_okay=False)],
    scale: Annotated[
        float, typer.Option("--scale", "-s", min=1.0, max=16.0, help="Output side over input side.")
    ] = 4.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a sentence.")] = False,
) -> None:
    """Reading, plain enlargement and writing without the model, against the simplest loop that does the same."""
    from flashvsr_cli.bench_io import measure_io

    result = measure_io(source, scale)
    typer.echo(json.dumps(result.to_json(), indent=2) if as_json else result.summary())
