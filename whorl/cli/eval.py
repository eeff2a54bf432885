"""`whorl eval MODEL|URL[#SERVED] --tasks arithmetic,my.jsonl,… [--against BASE]`."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from whorl.cli.places import Place, check_writable

if TYPE_CHECKING:
    from whorl.evals.evaluation import Report


@click.command()
@click.argument("model", metavar="MODEL|URL[#SERVED]")
@click.option(
    "--tasks", "words", required=True, multiple=True, metavar="TASK,…",
    help="arithmetic, lookups, digits, gsm8k:FILE, FILE.jsonl (prompt, reference, grade) or module:name;"
    " repeatable.",
)  # fmt: skip
@click.option(
    "--against",
    metavar="MODEL|URL[#SERVED]",
    help="Another model, given the same cases, for the paired difference.",
)
@click.option("--name", default="", help="The model's name on the server; default: the first one served.")
@click.option("--limit", type=click.IntRange(min=1), help="Maximum cases per task.")
@click.option("--max-tokens", default=512, show_default=True, help="Maximum tokens per reply.")
@click.option("--temperature", default=0.0, show_default=True, help="Sampling temperature; 0 = greedy.")
@click.option(
    "--tools", type=click.Choice(["listed", "known"]), default="listed", show_default=True,
    help="Whether tools are offered in each conversation, or the model was trained to know the tools.",
)  # fmt: skip
@click.option(
    "--judge", metavar="URL|MODEL", help="The server (or directory) of the model that judges replies."
)
@click.option("--judge-name", default="", help="The judge's name on its server.")
@click.option(
    "--api-key-file", metavar="FILE", help="File whose first line is the API key for MODEL's URL only."
)
@click.option("--against-key-file", metavar="FILE", help="File with the API key for --against's URL.")
@click.option("--judge-key-file", metavar="FILE", help="File with the API key for --judge's URL.")
@click.option(
    "--at-once",
    default=32,
    show_default=True,
    type=click.IntRange(min=1),
    help="Number of concurrent requests.",
)
@click.option("--out", metavar="FILE", help="Write the figures and every case as JSON.")
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
def command(model: str, words: tuple[str, ...], against: str | None, as_json: bool, **options: Any) -> None:
    """Measure how good MODEL is at tasks. MODEL is a model directory (served for the duration) or a server's
    URL.

    URL#SERVED picks one of several models on a server. A question that the server rejects (for example, one
    too long for the model) is reported and counts as 0.
    """
    import asyncio

    from whorl.base.errors import InputError, WhorlError

    names = [word.strip() for text in words for word in text.split(",") if word.strip()]
    if not names:
        raise InputError("--tasks names no task; give arithmetic, FILE.jsonl or similar")
    key = options["api_key_file"]
    places = [Place.of(model, name=options["name"], key_file=key, option="--api-key-file")]
    if against is not None:
        key = options["against_key_file"]
        places.append(Place.of(against, key_file=key, option="--against-key-file"))
    reports: list[Report] = []
    try:
        asyncio.run(measure(places, names, options, reports))
    except WhorlError:
        if reports:  # what was measured before the other one failed
            show(reports[0], None, as_json)
        raise
    show(reports[0], reports[1] if against is not None else None, as_json)


async def measure(
    places: Sequence[Place], words: Sequence[str], options: dict[str, Any], reports: list[Report]
) -> None:
    """The models' reports into `reports`, one after the other, once everything was found to be there."""
    from contextlib import AsyncExitStack

    from whorl.base.nouns import SamplingParams
    from whorl.evals.evaluation import evaluate
    from whorl.evals.finding import find_tasks

    check_writable(options["out"], "--out")
    for place in places:
        await place.check()
    params = SamplingParams(max_tokens=options["max_tokens"], temperature=options["temperature"])
    async with AsyncExitStack() as stack:
        judge = None
        if options["judge"]:
            asked = Place.of(
                options["judge"], name=options["judge_name"], key_file=options["judge_key_file"],
                option="--judge-key-file",
            )  # fmt: skip
            judge = await stack.enter_async_context(asked.open())
        tasks = find_tasks(words, tools=options["tools"], judge=judge)
        for place in places:
            async with place.open() as client:
                report = await evaluate(
                    client, tasks, model=place.word, limit=options["limit"], params=params,
                    at_once=options["at_once"],
                )  # fmt: skip
            if options["out"] and not reports:
                report.save(options["out"])
            reports.append(report)


def show(report: Report, base: Report | None, as_json: bool) -> None:
    from whorl.base.results import without_nan
    from whorl.evals.evaluation import compare

    differences = compare(report, base) if base is not None else []
    if as_json:
        click.echo(json.dumps(without_nan({
            "model": report.model, "figures": report.figures(), "against": base.model if base else None,
            "differences": differences,
        })))  # fmt: skip
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("task", "figure", "± s.e.", "95 %", "cases", title=report.model)
    if base is not None:
        table.add_column(f"against {base.model}")
    for place, row in enumerate(report.figures()):
        cases = f"{row['cases']:,}" + (f", {row['refused']:,} refused" if row["refused"] else "")
        ends = (number(row[end], row["unit"]) for end in ("low", "high"))
        cells = [row["task"], f"{number(row['value'], row['unit'])} {UNITS[row['unit']]}",
                 number(row["error"], row["unit"]), " to ".join(ends), cases]  # fmt: skip
        table.add_row(*cells, *([difference(differences[place])] if base is not None else []))
    Console().print(table)


UNITS = {"share": "%", "bits/byte": "bits/byte"}


def number(value: float, unit: str, sign: str = "") -> str:
    """In percent, or in bits a byte; a dash where one case tells nothing."""
    if math.isnan(value):
        return "—"
    return f"{100 * value:{sign}.1f}" if unit == "share" else f"{value:{sign}.3f}"


def difference(row: dict[str, Any]) -> str:
    """`+3.1 ± 1.2 points` of a share, or bits a byte; less is better there."""
    unit = "points" if row["unit"] == "share" else row["unit"]
    found = f"{number(row['difference'], row['unit'], '+')} ± {number(row['error'], row['unit'])} {unit}"
    return found + ("" if row["beyond_noise"] else ", within noise")
