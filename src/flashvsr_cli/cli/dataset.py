"""`flashvsr dataset`: training shards from folders of videos and photos."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, help="Make training data.")


@app.callback()
def _dataset() -> None:
    """Keep `build` a command of its own although it is the only one."""


@app.command("build")
def build_command(
    sources: Annotated[list[Path], typer.Argument(help="Folders, searched with everything below them.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the shards.")],
    min_frames: Annotated[int, typer.Option(min=1, help="Shortest video, in frames.")] = 33,
    min_side: Annotated[int, typer.Option(min=16, help="Shortest side, in pixels.")] = 512,
    min_sharpness: Annotated[float, typer.Option(min=0.0, help="Least deviation of the Laplacian, in levels.")] = 4.0,
    min_motion: Annotated[float, typer.Option(min=0.0, help="Least motion per frame, in percent of the side.")] = 0.02,
    max_motion: Annotated[float, typer.Option(min=0.0, help="Most motion per frame, in percent of the side.")] = 5.0,
) -> None:
    """Measure, filter and copy; goes on where it was interrupted. Look at sheet.png afterwards."""
    from flashvsr_cli.console import print_line
    from flashvsr_cli.dataset.build import SHEET, build_shards
    from flashvsr_cli.dataset.filters import FilterConfig

    config = FilterConfig(min_frames, min_side, min_sharpness, motion=(min_motion, max_motion))

    def report(name: str, i_file: int, n_files: int) -> None:
        print_line(f"{i_file + 1}/{n_files} {name}")

    result = build_shards(sources, output, config, on_file=report)
    for step, count in result.counts.items():
        typer.echo(f"{step:<12}{count:8d}")
    sheet = f"the contact sheet is {output / SHEET}" if (output / SHEET).is_file() else "none was kept"
    print_line(f"Measured now: {result.n_measured}; {sheet}.")
