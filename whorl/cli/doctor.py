"""`whorl doctor`: what this machine has, what works, and how to get what is missing."""

from __future__ import annotations

import json
from dataclasses import asdict

import click


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON array.")
def command(as_json: bool) -> None:
    """Check CPU, GPU, driver, torch, compiler, memory, disk and libraries, with a remedy for each problem.

    Exits with 1 if something is missing that Whorl cannot run without.
    """
    from whorl.cli.checks import run_checks

    failed = False
    if as_json:
        checks = list(run_checks())
        click.echo(json.dumps([asdict(check) for check in checks], indent=2))
        failed = any(check.state == "failed" for check in checks)
    else:
        marks = {"ok": ("✓", "green"), "missing": ("–", "yellow"), "failed": ("✗", "red")}
        for check in run_checks():
            mark, colour = marks[check.state]
            click.echo(f"{click.style(mark, fg=colour)} {check.name:<14}{check.found}")
            if check.remedy:
                click.echo(f"  {'':<14}{click.style('→ ' + check.remedy, fg=colour)}")
            failed |= check.state == "failed"
    raise SystemExit(1 if failed else 0)
