"""`flashvsr compare`: figures and pictures of two clips."""

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from flashvsr_cli.cli.flags import JsonOption, OverwriteOption
from flashvsr_cli.errors import UsageError


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
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Compare two clips; a smaller one is enlarged (bicubic) to the size of the other or of the reference."""
    from flashvsr_cli.preflight import PIPE

    if video == PIPE:
        raise UsageError("Video and figures would both go to stdout.", "Name a file with --video.")
    from flashvsr_cli.compare.clips import compare_clips
    from flashvsr_cli.tables import print_comparison

    found = compare_clips(
        a,
        b,
        reference=reference,
        video=video,
        layout=layout.value,
        strip=strip,
        n_frames=frames,
        overwrite=overwrite,
    )
    if as_json:
        typer.echo(json.dumps(found.to_json(), indent=2))
    else:
        print_comparison({"a": a, "b": b}, found)
