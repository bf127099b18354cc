"""`flashvsr batch`: folders, files and patterns to a folder, with one warm model."""

from pathlib import Path
from typing import Annotated

import typer

from flashvsr_cli.cli.flags import RUNNING, BatchFlags, takes_flags


@takes_flags(BatchFlags)
def batch(
    flags: BatchFlags,
    inputs: Annotated[
        list[str],
        typer.Argument(metavar="INPUT", help="Folders, files, or patterns in quotes such as 'clips/**/*.mp4'."),
    ],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", metavar="OUT_DIR", help="Folder of the results.", file_okay=False),
    ],
    recursive: Annotated[bool, typer.Option("--recursive", "-r", help="Folders within folders, too.")] = False,
    extension: Annotated[
        str | None,
        typer.Option(
            metavar="EXT", help="Container of the results. Default: the input's, mkv if it cannot be written."
        ),
    ] = None,
    skip_existing: Annotated[
        bool,
        typer.Option(
            help="Leave results alone that were made from the same content by the same settings.",
            rich_help_panel=RUNNING,
        ),
    ] = True,
    only_failed: Annotated[
        bool, typer.Option("--only-failed", help="Only what failed when it was last tried.", rich_help_panel=RUNNING)
    ] = False,
    retries: Annotated[
        int,
        typer.Option(
            min=0,
            metavar="N",
            help="Try a file so often again if the device or the disk failed; never a bad file.",
            rich_help_panel=RUNNING,
        ),
    ] = 1,
    jobs: Annotated[
        int,
        typer.Option(
            min=1,
            max=16,
            metavar="N",
            help="Files open at a time: one in the model, the others being read or finished.",
            rich_help_panel=RUNNING,
        ),
    ] = 2,
) -> None:
    """Upscale many files; what is done already is skipped, and a bad file does not stop the rest."""
    from flashvsr_cli.batch.request import BatchRequest, run_request
    from flashvsr_cli.batch.run import BatchOptions

    request = BatchRequest(
        inputs=inputs,
        options=BatchOptions(output, n_jobs=jobs, n_retries=retries),
        model=flags.model_options(),
        choose_settings=flags.settings,
        scale=flags.scale,
        input=flags.input_options(),
        encode=flags.encode_options(),
        recursive=recursive,
        extension=extension,
        overwrite=flags.overwrite,
        redo=not skip_existing,
        resume=flags.resume,
        only_failed=only_failed,
        report=flags.report,
        quiet=flags.quiet,
    )
    if not run_request(request):
        raise typer.Exit(1)
