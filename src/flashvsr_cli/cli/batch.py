"""`flashvsr batch`: a folder to a folder, with one warm model."""

from pathlib import Path
from typing import Annotated

import typer

from flashvsr_cli.cli.flags import BatchFlags, takes_flags


@takes_flags(BatchFlags)
def batch(
    flags: BatchFlags,
    source: Annotated[
        Path, typer.Argument(metavar="IN_DIR", help="Folder of videos and pictures.", exists=True, file_okay=False)
    ],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", metavar="OUT_DIR", help="Folder of the results.", file_okay=False),
    ],
    recursive: Annotated[bool, typer.Option("--recursive", "-r", help="Folders within, too.")] = False,
    extension: Annotated[
        str | None,
        typer.Option(
            metavar="EXT", help="Container of the results. Default: the input's, mkv if it cannot be written."
        ),
    ] = None,
) -> None:
    """Upscale every file of a folder; what is done already is skipped, and a bad file does not stop the rest."""
    from flashvsr_cli.batch import plan_batch, run_batch, skip_done
    from flashvsr_cli.console import reporting
    from flashvsr_cli.jobs import Job
    from flashvsr_cli.preflight import check_report
    from flashvsr_cli.report import write_report
    from flashvsr_cli.tables import print_batch

    if flags.report:
        check_report(flags.report)
    jobs = [
        Job(
            str(item.source),
            str(item.target),
            scale=flags.scale,
            encode=flags.encode_options(),
            overwrite=flags.overwrite,
        )
        for item in plan_batch(source, output, recursive=recursive, extension=extension)
    ]
    results, todo = skip_done(jobs)
    try:
        if todo:
            from flashvsr_cli.startup import load_and_tell

            upscaler = load_and_tell(flags.model_options(), quiet=flags.quiet)
            settings = flags.settings(upscaler.default_settings)
            with reporting(quiet=flags.quiet) as listener:
                for result in run_batch(upscaler, todo, settings, listener):
                    results.append(result)
    finally:
        # After Ctrl-C, too, one wants to know what is done.
        if results:
            print_batch(results, n_left=len(jobs) - len(results), quiet=flags.quiet)
        if flags.report:
            write_report({"files": [result.to_json() for result in results]}, flags.report)
    if any(result.state == "failed" for result in results):
        raise typer.Exit(1)
