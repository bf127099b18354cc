"""The command line: which commands there are, and the one place where an error becomes a sentence and a code."""

import os
import sys
from contextlib import suppress
from typing import Annotated, NoReturn

import typer

from flashvsr_cli import __version__
from flashvsr_cli.cli import batch, bench, compare, dataset, doctor, info, train, upscale, weights
from flashvsr_cli.errors import InterruptError, OutputError, as_known_error
from flashvsr_cli.interrupts import let_signals_end, raise_on_signals
from flashvsr_cli.streams import repair_streams
from flashvsr_cli.torch_defaults import set_torch_defaults

PROGRAM = "flashvsr"

app = typer.Typer(
    name=PROGRAM,
    help="Upscale video with FlashVSR: one-step streaming diffusion, from file to file.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)
app.command("upscale")(upscale.upscale)
app.command("batch")(batch.batch)
app.command("info")(info.info)
app.command("doctor")(doctor.doctor)
app.add_typer(weights.app, name="weights")
app.add_typer(bench.app, name="bench")
app.command("compare")(compare.compare)
app.add_typer(train.app, name="train")
app.add_typer(dataset.app, name="dataset")

_state = {"debug": False}


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"flashvsr {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    _state["debug"] = debug


def main() -> NoReturn:
    """Run the command line and exit: 0 done, 1 failed, 2 wrong usage, 129, 130 or 143 interrupted."""
    repair_streams()
    set_torch_defaults(os.environ)
    raise_on_signals()
    try:
        app(prog_name=PROGRAM)
    except InterruptError as interrupt:
        if _state["debug"]:
            raise
        _fail(str(interrupt), None, interrupt.exit_code)
    except Exception as error:
        if _state["debug"]:
            raise
        known = as_known_error(error)
        _fail(known.message, known.next_step, known.exit_code)
    finally:
        let_signals_end()
    _exit(0)


def _fail(message: str, next_step: str | None, exit_code: int) -> NoReturn:
    from flashvsr_cli.console import print_error

    print_error(message, next_step)
    _exit(exit_code)


def _exit(code: int) -> NoReturn:
    """Exit; a stdout that takes no more must not turn into a traceback at shutdown."""
    with suppress(BrokenPipeError, OutputError):
        sys.stdout.flush()
    sys.exit(code)
