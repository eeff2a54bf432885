"""`whorl data run | inspect | tokenize`: raw files to documents and tokens."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from whorl.cli.config_command import ConfigCommand
from whorl.cli.tokenize import tokenize

if TYPE_CHECKING:
    from rich.console import Console

    from whorl.data.inspect import Inspection
    from whorl.data.pipeline import Report


@click.group()
def command() -> None:
    """Turn raw files into documents and tokens."""


command.add_command(tokenize)


@command.command(cls=ConfigCommand, model="whorl.data.config:DataConfig")
@click.argument("paths", nargs=-1)
@click.option("--json", "as_json", is_flag=True, help="Print the counts as one JSON object.")
def run(paths: tuple[str, ...], as_json: bool, overrides: list[str]) -> None:
    """Read PATHS (files, folders, globs), or the inputs of a recipe CONFIG.toml, into a dataset at --out DIR.

    If killed or interrupted, run the same command again to resume.
    """
    from whorl.base.config import load_config
    from whorl.data.config import DataConfig
    from whorl.data.pipeline import run_config

    recipe, inputs = split_recipe(paths)
    config = load_config(DataConfig, recipe, overrides)
    report = run_config(config.model_copy(update={"paths": inputs}) if inputs else config)
    click.echo(
        json.dumps(_as_json(report)) if as_json else "\n".join([*report.lines(), str(report.directory)])
    )


def split_recipe(paths: Sequence[str]) -> tuple[str | None, tuple[str, ...]]:
    """The recipe, where the first path is a .toml file, and the inputs."""
    if paths and paths[0].endswith(".toml"):
        return paths[0], tuple(paths[1:])
    return None, tuple(paths)


def _as_json(report: Report) -> dict[str, Any]:
    return {**asdict(report), "directory": str(report.directory)}


@command.command(cls=ConfigCommand, model="whorl.data.config:ReadConfig")
@click.argument("path")
@click.option(
    "--samples", default=3, show_default=True, help="Number of documents to show, and of rejects per reason."
)
@click.option("--json", "as_json", is_flag=True, help="Print everything as one JSON object.")
def inspect(path: str, samples: int, as_json: bool, overrides: list[str]) -> None:
    """Show what is in PATH: a dataset directory, or raw files (read according to the keys)."""
    from whorl.base.config import load_config
    from whorl.data.config import ReadConfig
    from whorl.data.inspect import inspect as look

    found = look(path, samples=samples, config=load_config(ReadConfig, None, overrides))
    if as_json:
        click.echo(json.dumps(found.to_json()))
        return
    from rich.console import Console

    _show(found, Console(highlight=False))


def _show(found: Inspection, out: Console) -> None:
    from rich.markup import escape

    sides = ", ".join(f"{name} {count:,}" for name, count in found.splits.items() if name)
    out.print(
        f"[bold]{escape(found.path)}[/]  {found.documents:,} documents" + (f" ({sides})" if sides else "")
    )
    for step, counts in found.reasons.items():
        out.print(f"\n[bold]rejected by {escape(step)}[/]")
        for reason, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
            out.print(f"  {count:>10,}  {escape(reason)}")
    if found.quantiles:
        out.print()
        out.print(_quantile_table(found))
    for title, samples in (("kept", found.kept), ("rejected", found.rejected)):
        if samples:
            out.print(f"\n[bold]{title}[/]")
        for sample in samples:
            why = (
                f"  [red]{escape(sample['reason'])}[/] {escape(sample['detail'])}"
                if "reason" in sample
                else ""
            )
            out.print(f"[cyan]{escape(sample['source'])}:{sample['line']}[/]{why}", soft_wrap=True)
            out.print(f"  {escape(' '.join(sample['text'].split())[:160])}", soft_wrap=True)


def _quantile_table(found: Inspection) -> Any:
    from rich.table import Table

    from whorl.data.inspect import QUANTILES

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("quantile", no_wrap=True)
    for quantile in QUANTILES:
        named = {0.0: "least", 0.5: "median", 1.0: "most"}.get(quantile, f"{quantile:.0%}")
        table.add_column(named, justify="right")
    for name, values in found.quantiles.items():
        table.add_row(name, *(f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}" for value in values))
    return table
