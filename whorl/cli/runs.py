"""`whorl runs list | show | report | trace`: what was trained, and from what."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from whorl.base.lineage import Origin
    from whorl.base.runs import Record, Run

MOST_SHOWN = 12  # inputs of one thing


@click.group()
def command() -> None:
    """Look at past runs: all with their states, one in full, one as a page; trace a reply back to its
    source."""


@command.command("list")
@click.argument("root", type=click.Path(path_type=Path), default=None, required=False)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON array.")
def list_(root: Path | None, as_json: bool) -> None:
    """List runs under ROOT (default: $WHORL_WORKSPACE or the current directory), oldest first."""
    from whorl.base.runs import list_runs

    runs = list_runs(root or Path(os.environ.get("WHORL_WORKSPACE") or "."))
    if as_json:
        click.echo(json.dumps([{**run.to_json(), "last": finite(run.last)} for run in runs], indent=2))
        return
    if not runs:
        click.echo("no runs here; start one with whorl quickstart or whorl train", err=True)
        return
    _print_table(runs)


@command.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print the whole record as one JSON object.")
def show(run: Path, as_json: bool) -> None:
    """Show one RUN: state, last figures, events, provenance."""
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
    """Write RUN as one page that works offline: plots, timeline, configuration, provenance."""
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
    from whorl.base.runs import STATE_WORDS

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name, align in (("run", "left"), ("state", "left"), ("started", "left"), ("time", "right")):
        table.add_column(name, justify=align, overflow="fold")  # type: ignore[arg-type]
    for name in ("steps", "loss"):
        table.add_column(name, justify="right")
    for run in runs:
        loss = f"{run.last['loss']:.4g}" if "loss" in run.last else ""
        state = STATE_WORDS.get(run.state, run.state)
        table.add_row(run.path, state, when(run.started), duration(run.seconds), f"{run.steps:,}", loss)
    Console().print(table)


def _print_record(record: Record) -> None:
    from rich.console import Console
    from rich.markup import escape

    from whorl.base.progress import duration
    from whorl.base.report import provenance_rows, when
    from whorl.base.runs import STATE_WORDS
    from whorl.base.timeline import event_line

    run, out = record.run, Console(highlight=False)
    state = STATE_WORDS.get(run.state, run.state)
    out.print(f"[bold]{escape(run.path)}[/]  {state}, {run.steps:,} steps in {duration(run.seconds)}")
    out.print("\n[bold]Last figures[/]")
    for name, value in run.last.items():
        out.print(f"  {escape(name):<20} {value:.6g}")
    out.print("\n[bold]Events[/]")
    for event in record.events:
        out.print(f"  {when(event['time'])}  {event['kind']:<11}{escape(event_line(event))}", soft_wrap=True)
    out.print("\n[bold]Provenance[/]")
    for name, text in provenance_rows(record):
        out.print(f"  {name:<14}{escape(text)}", soft_wrap=True)


@command.command()
@click.argument("what")
@click.option("--id", "id", default="", help="The reply's id in a file of traces (default: the last one).")
@click.option(
    "--root", type=click.Path(path_type=Path), help="The folder with runs and data (default: as in list)."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def trace(what: str, id: str, root: Path | None, as_json: bool) -> None:
    """Trace a reply back to its weights, the run that made them, and its documents.

    WHAT is a weight version, as replies report it, or a file of traces: from `whorl serve --traces`, or the
    traces.jsonl of `whorl arena export`.
    """
    from whorl.base.lineage import find_trace, trace_back

    record = find_trace(what, id) if Path(what).is_file() else None
    version = record["weight_version"] if record else what
    origin = trace_back(version, root or Path(os.environ.get("WHORL_WORKSPACE") or "."))
    if as_json:
        reply = {"id": record["id"], "message": record["message"]} if record else None
        click.echo(json.dumps({"reply": reply, "origin": origin.to_json()}, indent=2))
        return
    _print_origin(origin, record)


def _print_origin(origin: Origin, record: dict[str, Any] | None) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.tree import Tree

    from whorl.base.lineage import SHORT

    def line(one: Origin) -> str:
        known = f"[bold]{one.kind}[/] {escape(one.name)}  [dim]{one.hash[:SHORT]}[/]"
        return f"{known}  {escape(one.note)}".rstrip() + (f"\n[dim]{escape(one.path)}[/]" if one.path else "")

    def grow(tree: Tree, one: Origin) -> None:
        for before in one.origins[:MOST_SHOWN]:
            grow(tree.add(line(before)), before)
        if len(one.origins) > MOST_SHOWN:
            tree.add(f"and {len(one.origins) - MOST_SHOWN:,} more; --json has them all")

    out = Console(highlight=False, width=None if sys.stdout.isatty() else 1000)  # a file's lines stay whole
    if record:
        said = str(record["message"].get("content") or record["message"].get("tool_calls") or "")
        out.print(f"[bold]reply[/] {escape(record['id'])}  {escape(said[:200])!s}")
    tree = Tree(line(origin))
    grow(tree, origin)
    out.print(tree, soft_wrap=True)
