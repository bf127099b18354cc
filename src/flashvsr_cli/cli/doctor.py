"""`flashvsr doctor`: what this machine has, what is missing, and how to get it."""

import json
from typing import Annotated

import typer


def doctor(as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False) -> None:
    """Show versions, devices, codecs and the weights' cache, and what is missing."""
    from flashvsr_cli.diagnosis import examine
    from flashvsr_cli.tables import print_findings

    findings = examine()
    if as_json:
        typer.echo(json.dumps([finding.to_json() for finding in findings], indent=2))
    else:
        print_findings(findings)
    if any(finding.state == "missing" for finding in findings):
        raise typer.Exit(1)
