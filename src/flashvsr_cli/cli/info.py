"""`flashvsr info`: what would be done with an input."""

import json

import typer

from flashvsr_cli.cli.flags import InfoFlags, JsonOption, takes_flags
from flashvsr_cli.cli.media_flags import InputArgument


@takes_flags(InfoFlags)
def info(
    flags: InfoFlags,
    source: InputArgument,
    as_json: JsonOption = False,
) -> None:
    """Show what `upscale` would do with an input: sizes, padding, chunks, memory. Computes and downloads nothing."""
    from flashvsr_cli.inspection import inspect_input
    from flashvsr_cli.tables import print_plan

    plan = inspect_input(source, flags.scale, flags.model_options(), flags.input_options(), flags.settings)
    if as_json:
        typer.echo(json.dumps(plan.to_json(), indent=2))
    else:
        print_plan(plan)
