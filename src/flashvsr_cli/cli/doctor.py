"""`flashvsr doctor`: what this machine has, what is missing, and how to get it."""

import json

import typer

from flashvsr_cli.cli.flags import JsonOption


def doctor(as_json: JsonOption = False) -> None:
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
