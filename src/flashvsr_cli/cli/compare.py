"""`flashvsr compare`: figures and pictures of two clips."""

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from flashvsr_cli.compare.clips import Comparison


class LayoutChoice(StrEnum):
    """How a comparison video shows two clips."""

    SIDE = "side"
    WIPE = "wipe"


def compare(
    a: Annotated[str, typer.Argument(metavar="A", help="The first clip, e.g. the input.")],
    b: Annotated[str, typer.Argument(metavar="B", help="The second clip, e.g. the output.")],
    reference: Annotated[
        str | None, typer.Option("--reference", "-r", help="The true clip: adds PSNR, SSIM and relative flicker.")
    ] = None,
    video: Annotated[str | None, typer.Option("--video", help="Write a video of both clips.")] = None,
    layout: Annotated[LayoutChoice, typer.Option(help="Next to each other, or a moving border.")] = LayoutChoice.SIDE,
    strip: Annotated[Path | None, typer.Option("--strip", help="Write a PNG with a few frames of every clip.")] = None,
    frames: Annotated[
        int | None, typer.Option("--frames", min=1, help="Compare so many frames of the beginning; all by default.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Compare two clips; a smaller one is enlarged (bicubic) to the size of the other or of the reference."""
    from flashvsr_cli.compare.clips import compare_clips
    from flashvsr_cli.console import print_table

    found = compare_clips(a, b, reference=reference, video=video, layout=layout.value, strip=strip, n_frames=frames)
    if as_json:
        typer.echo(json.dumps(found.to_json(), indent=2))
    else:
        print_table(_table({"a": a, "b": b}, found))


def _table(locations: dict[str, str], found: "Comparison") -> "Table":
    from rich.table import Table

    height, width = found.size
    table = Table(title=f"{found.n_frames} frames at {width}x{height}", title_justify="left")
    for heading in ("clip", "PSNR-Y", "SSIM-Y", "warped difference", "flicker", "mean RGB"):
        table.add_column(heading, justify="left" if heading == "clip" else "right")
    for name, figures in found.clips.items():
        note = " (enlarged)" if name in found.resized else ""
        table.add_row(
            f"{name}: {locations[name]}{note}",
            _text(figures.psnr_y, "{:.2f} dB"),
            _text(figures.ssim_y, "{:.4f}"),
            _text(figures.warped_difference, "{:.2f}"),
            _text(figures.flicker, "{:.2f}x"),
            " ".join(f"{value:.1f}" for value in figures.mean_color),
        )
    return table


def _text(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)
