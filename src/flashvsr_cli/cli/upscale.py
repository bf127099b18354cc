"""`flashvsr upscale`: one input to one output."""

from typing import Annotated

import typer

from flashvsr_cli.cli.flags import UpscaleFlags, takes_flags
from flashvsr_cli.cli.media_flags import InputArgument


@takes_flags(UpscaleFlags)
def upscale(
    flags: UpscaleFlags,
    source: InputArgument,
    output: Annotated[
        str,
        typer.Option(
            "--output", "-o", metavar="OUTPUT", help="Video, image, folder (ending in /) or pattern, or - for stdout."
        ),
    ],
) -> None:
    """Upscale a video, a picture, numbered pictures, or a stream."""
    from flashvsr_cli.console import print_line, reporting
    from flashvsr_cli.jobs import Job, OpenJob
    from flashvsr_cli.preflight import check_report
    from flashvsr_cli.report import write_report

    if flags.report:
        check_report(flags.report, [source], [output], overwrite=flags.overwrite)
    job = Job(
        source,
        output,
        scale=flags.scale,
        input=flags.input_options(),
        encode=flags.encode_options(),
        overwrite=flags.overwrite,
        resume=flags.resume,
    )
    with OpenJob(job) as opened:
        opened.read_ahead()
        from flashvsr_cli.startup import load_and_tell  # loads torch, which a wrong input need not wait for

        upscaler = load_and_tell(flags.model_options(), quiet=flags.quiet)
        with reporting(quiet=flags.quiet) as listener:
            report = opened.run(upscaler, flags.settings(upscaler.default_settings), listener)
    if flags.report:
        write_report(report.to_json(), flags.report, overwrite=flags.overwrite)
    if not flags.quiet:
        print_line(report.summary())
