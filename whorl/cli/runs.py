"""`whorl runs list | show | report`: what was trained."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from whorl.base.runs import Record, Run


@click.group()
def command() -> None:
    """What was trained: every run with its state, one in full, one as a page."""


@command.command("list")
@click.argument("root", type=click.Path(path_type=Path), default=None, required=False)
@click.option("--json", "as_json", is_flag=True, help="One JSON array on stdout.")
def list_(root: Path | None, as_json: bool) -> None:
    """Runs under ROOT ($WHORL_WORKSPACE or the current directory), oldest first."""
    from whorl.base.runs import list_runs

    runs = list_runs(root or Path(os.environ.get("WHORL_WORKSPACE") or "."))
    if as_json:
        click.echo(json.dumps([{**run.to_json(), "last": finite(run.last)} for run in runs], indent=2))
        return
    if not runs:
        click.echo("no runs here; whorl quickstart or whorl train makes one", err=True)
        return
    _print_table(runs)


@command.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="The whole record as one JSON object on stdout.")
def show(run: Path, as_json: bool) -> None:
    """One RUN: state, last figures, events, provenance."""
    from whorl.base.runs import read_run

    record = read_run(run)
    if as_json:
        click.echo(json.dumps(_as_json(record), indent=2))
    else:
        _print_record(record)


@command.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--output", type=click.Path(path_type=Path), help="Where to write it (default RUN/report.html)."
)
@click.option("--json", "as_json", is_flag=True, help='{"report": PATH} on stdout.')
def report(run: Path, output: Path | None, as_json: bool) -> None:
    """RUN as one page that works offline: plots, timeline, configuration, provenance."""
    from whorl.base.report import write_report

    path = write_report(run, output)
    click.echo(json.dumps({"report": str(path)}) if as_json else str(path))


def finite(values: dict[str, float]) -> dict[str, float | int | str]:
    """JSON has no nan and no infinity."""
    from whorl.base.logbook import number

    return {name: number(value) for name, value in values.items()}


def _as_json(record: Record) -> dict[str, Any]:
    metrics = [{"step": m.step, "time": m.time, "values": finite(m.values)} for m in record.metrics]
    return {
        **record.run.to_json(),
        "last": finite(record.run.last),
        "config": record.config,
        "events": record.events,
        "metrics": metrics,
    }


def _print_table(runs: list[Run]) -> None:
    from rich.console import Console
    from rich.table import Table

    from whorl.base.progress import duration
    from whorl.base.report import when

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name, align in (("run", "left"), ("state", "left"), ("started", "left"), ("time", "right")):
        table.add_column(name, justify=align, overflow="fold")  # type: ignore[arg-type]
    for name in ("steps", "loss"):
        table.add_column(name, justify="right")
    for run in runs:
        loss = f"{run.last['loss']:.4g}" if "loss" in run.last else ""
        table.add_row(run.path, run.state, when(run.started), duration(run.seconds), f"{run.steps:,}", loss)
    Console().print(table)


def _print_record(record: Record) -> None:
    from rich.console import Console
    from rich.markup import escape

    from whorl.base.progress import duration
    from whorl.base.report import event_line, provenance_rows, when

    run, out = record.run, Console(highlight=False)
    out.print(f"[bold]{escape(run.path)}[/]  {run.state}, {run.steps:,} steps in {duration(run.seconds)}")
    out.print("\n[bold]Last figures[/]")
    for name, value in run.last.items():
        out.print(f"  {escape(name):<20} {value:.6g}")
    out.print("\n[bold]Events[/]")
    for event in record.events:
        out.print(f"  {when(event['time'])}  {event['kind']:<11}{escape(event_line(event))}", soft_wrap=True)
    out.print("\n[bold]Provenance[/]")
    for name, text in provenance_rows(record):
        out.print(f"  {name:<14}{escape(text)}", soft_wrap=True)
