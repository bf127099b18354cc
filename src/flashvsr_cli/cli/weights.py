"""`flashvsr weights`: the models, which of their files are here, fetching and verifying them."""

import json
from enum import StrEnum
from typing import Annotated

import typer

from flashvsr_cli import weights, weights_status
from flashvsr_cli.cli.flags import JsonOption
from flashvsr_cli.console import fetching
from flashvsr_cli.errors import WeightsError
from flashvsr_cli.options import Decoder
from flashvsr_cli.tables import print_model_files
from flashvsr_cli.weights_registry import needed_roles, read_registry

app = typer.Typer(
    no_args_is_help=True,
    help="The models: list them, download them, verify what is here.",
)


class DecoderChoice(StrEnum):
    """Whose files `download` fetches."""

    TINY = "tiny"
    FULL = "full"
    ALL = "all"

    @property
    def decoders(self) -> tuple[Decoder, ...]:
        """The decoders that are meant."""
        choices: dict[DecoderChoice, tuple[Decoder, ...]] = {
            DecoderChoice.TINY: ("tiny",),
            DecoderChoice.FULL: ("full",),
            DecoderChoice.ALL: ("tiny", "full"),
        }
        return choices[self]


@app.command("list")
def list_command(as_json: JsonOption = False) -> None:
    """The models, their files, and which of them are downloaded and verified. Needs no network."""
    models = weights_status.list_models()
    if as_json:
        typer.echo(json.dumps([_model_facts(status) for status in models], indent=2))
        return
    registry = read_registry()
    for status in models:
        defaults = {registry.default: " (default with a CUDA device)", registry.default_cpu: " (default on a CPU)"}
        note = defaults.get(status.model.name, "")
        print_model_files(f"{status.model.name}{note}: {status.model.summary}", status.files)


@app.command("download")
def download_command(
    name: Annotated[str | None, typer.Argument(help="A model of `flashvsr weights list`.", show_default="v1.1")] = None,
    decoder: Annotated[DecoderChoice, typer.Option(help="Whose files to fetch.")] = DecoderChoice.TINY,
    force: Annotated[bool, typer.Option("--force", help="Fetch again what is already here.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Fetch a model into the Hugging Face Hub's cache and verify it; goes on where it was interrupted."""
    model = name or read_registry().default
    with fetching(quiet=False) as on_progress:
        paths = weights.download_model(model, decoders=decoder.decoders, force=force, on_progress=on_progress)
    if as_json:
        typer.echo(json.dumps({"model": model, "files": [str(path) for path in paths]}, indent=2))
        return
    for path in paths:
        typer.echo(path)


@app.command("verify")
def verify_command(
    model: Annotated[
        str | None,
        typer.Argument(help="A model's name, a folder or a file.", show_default="every model with files here"),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Hash the files of a model and compare; files that are not listed are read through instead."""
    names = [model] if model else _present_models()
    results = {}
    with fetching(quiet=False) as on_progress:
        for name in names:
            results[name] = weights_status.verify_model(name, on_progress=on_progress)
    if as_json:
        typer.echo(
            json.dumps({name: [_file_facts(file) for file in found] for name, found in results.items()}, indent=2)
        )
    else:
        for name, found in results.items():
            print_model_files(name, found)
    for name, found in results.items():
        _refuse_unusable(name, found)


def _present_models() -> list[str]:
    present = [
        status.model.name
        for status in weights_status.list_models()
        if any(file.path is not None and len(file.known.versions) == 1 for file in status.files if file.known)
    ]
    if not present:
        raise WeightsError("No model has been downloaded.", "Run `flashvsr weights download`.")
    return present


def _refuse_unusable(name: str, files: list[weights_status.FileStatus]) -> None:
    for file in files:
        if file.state == "wrong":
            raise WeightsError(f"{file.file_name} of {name} is not what it should be ({file.path}).", file.detail)
    for file in files:
        if file.state == "missing" and file.role in needed_roles("tiny"):
            raise WeightsError(
                f"{file.file_name} of {name} is missing.",
                f"Run `flashvsr weights download {name}`." if file.known else "Put the file into the folder.",
            )


def _model_facts(status: weights_status.ModelStatus) -> dict[str, object]:
    model = status.model
    return {
        "name": model.name,
        "version": model.version,
        "summary": model.summary,
        "license": model.license,
        "files": [_file_facts(file) for file in status.files],
    }


def _file_facts(file: weights_status.FileStatus) -> dict[str, object]:
    facts: dict[str, object] = {"file": file.file_name, "role": file.role, "state": file.state}
    facts["path"] = str(file.path) if file.path else None
    facts["sha256"] = file.sha256
    facts["detail"] = file.detail
    if file.known is not None:
        facts["expected"] = {
            "repository": file.known.repository,
            "revision": file.known.revision,
            "path": file.known.path,
            "bytes": file.known.n_bytes,
            "sha256": file.known.sha256,
            "inferred": sorted(file.known.inferred),
        }
    return facts
