"""`flashvsr bench`: how fast this machine is."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from flashvsr_cli.cli.flags import (
    DTYPE_OF,
    BackendChoice,
    BackendOption,
    CacheChoice,
    CacheOption,
    DeviceOption,
    JsonOption,
    ModelOption,
    PrecisionChoice,
    PrecisionOption,
    ScaleOption,
)
from flashvsr_cli.cli.media_flags import PixelSize, parse_size
from flashvsr_cli.errors import UsageError
from flashvsr_cli.geometry import round_up

DEFAULT_SIZE = 768, 1408  # (height, width)
SCALE = 4  # of the models that are measured

app = typer.Typer(no_args_is_help=True, help="Measure speed on this machine.")


def _parse_output_size(text: str) -> PixelSize:
    """A size whose quarter is one, too."""
    size = parse_size(text)
    width, height = round_up(size.width, SCALE), round_up(size.height, SCALE)
    if (width, height) != (size.width, size.height):
        raise UsageError(
            f"{text} cannot be measured: both sides have to be multiples of {SCALE}.", f"Use --size {width}x{height}."
        )
    return size


@app.command("model")
def bench_model(
    model: ModelOption = "auto",
    size: Annotated[
        PixelSize | None,
        typer.Option(
            parser=_parse_output_size,
            metavar="WxH",
            help="Size of the output; multiples of 4.",
            show_default="1408x768",
        ),
    ] = None,
    chunks: Annotated[int, typer.Option(min=1, help="Steady chunks of 8 frames to measure.")] = 10,
    frames: Annotated[
        int, typer.Option(min=0, help="Length of a clip to measure from file to file; 0 leaves that out.")
    ] = 101,
    device: DeviceOption = "auto",
    precision: PrecisionOption = None,
    kv_precision: CacheOption = CacheChoice.MODEL,
    backend: BackendOption = BackendChoice.AUTO,
    as_json: JsonOption = False,
    chart: Annotated[
        Path | None, typer.Option(dir_okay=False, metavar="PNG", help="Draw the stages; needs matplotlib.")
    ] = None,
) -> None:
    """A model's speed: stages, frames per second, memory. Downloads nothing: released models have random weights."""
    from flashvsr_cli.bench_chart import draw_chart, require_matplotlib
    from flashvsr_cli.bench_model import measure_model
    from flashvsr_cli.tables import print_speed
    from flashvsr_cli.video.targets import prepare_target

    if chart:
        require_matplotlib()
        prepare_target(str(chart))
    speed = measure_model(
        (size.height, size.width) if size else DEFAULT_SIZE,
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
    scale: ScaleOption = 4.0,
    as_json: JsonOption = False,
) -> None:
    """Reading, plain enlargement and writing without the model, against the simplest loop that does the same."""
    from flashvsr_cli.bench_io import measure_io

    result = measure_io(source, scale)
    typer.echo(json.dumps(result.to_json(), indent=2) if as_json else result.summary())
