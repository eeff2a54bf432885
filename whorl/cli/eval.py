"""`whorl eval MODEL|URL --tasks arithmetic,my.jsonl,… [--against BASE]`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from whorl.evals.evaluation import Report


@click.command()
@click.argument("model", metavar="MODEL|URL")
@click.option(
    "--tasks", "words", required=True, multiple=True, metavar="TASK,…",
    help="arithmetic, lookups, digits, gsm8k:FILE, FILE.jsonl (prompt, reference, grade) or module:name;"
    " repeatable.",
)  # fmt: skip
@click.option("--against", metavar="MODEL|URL", help="Another model, asked the same: the paired difference.")
@click.option("--name", default="", help="The model's name on the server; default: the first it serves.")
@click.option("--limit", type=click.IntRange(min=1), help="Cases of each task at most.")
@click.option("--max-tokens", default=512, show_default=True, help="Tokens of a reply at most.")
@click.option("--temperature", default=0.0, show_default=True, help="0 is greedy.")
@click.option(
    "--tools", type=click.Choice(["listed", "known"]), default="listed", show_default=True,
    help="Whether tools are offered in each conversation, or the model has learnt which there are.",
)  # fmt: skip
@click.option("--judge", metavar="URL", help="The server whose model judges replies.")
@click.option("--judge-name", default="", help="The judge's name on its server.")
@click.option("--api-key-file", metavar="FILE", help="The first line is the key for URLs.")
@click.option(
    "--at-once", default=32, show_default=True, type=click.IntRange(min=1), help="Requests in flight."
)
@click.option("--out", metavar="FILE", help="Write the figures and every case as JSON.")
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
def command(model: str, words: tuple[str, ...], against: str | None, as_json: bool, **options: Any) -> None:
    """How good MODEL is at tasks: a model directory, which is served meanwhile, or a server's URL."""
    import asyncio

    names = [word for text in words for word in text.split(",") if word]
    report = asyncio.run(measure(model, names, options))
    base = (
        None if against is None else asyncio.run(measure(against, names, options | {"name": "", "out": None}))
    )
    show(report, base, as_json)


async def measure(model: str, words: list[str], options: dict[str, Any]) -> Report:
    """One model's report; a directory is served for its time."""
    from contextlib import AsyncExitStack, ExitStack

    from whorl.base.client import OpenAIClient
    from whorl.base.nouns import SamplingParams
    from whorl.evals.evaluation import evaluate
    from whorl.evals.finding import find_task
    from whorl.evals.serving import is_address, served

    key = read_key(options["api_key_file"])
    params = SamplingParams(max_tokens=options["max_tokens"], temperature=options["temperature"])
    async with AsyncExitStack() as stack:
        judge = None
        if options["judge"]:
            judge = OpenAIClient(options["judge"], model=options["judge_name"], api_key=key)
            await stack.enter_async_context(judge)
        tasks = [find_task(word, tools=options["tools"], judge=judge) for word in words]
        servers = stack.enter_context(ExitStack())
        address = model if is_address(model) else servers.enter_context(served(model))
        client = OpenAIClient(address, model=options["name"], api_key=key)
        await stack.enter_async_context(client)
        await client.connect()
        report = await evaluate(
            client, tasks, model=model, limit=options["limit"], params=params, at_once=options["at_once"]
        )
    if options["out"]:
        report.save(options["out"])
    return report


def read_key(path: str | None) -> str:
    if path is None:
        return ""
    from pathlib import Path

    from whorl.base.errors import InputError

    try:
        lines = Path(path).read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--api-key-file {path} cannot be read: {error}") from error
    if not lines:
        raise InputError(f"--api-key-file {path} is empty")
    return lines[0]


def show(report: Report, base: Report | None, as_json: bool) -> None:
    from whorl.evals.evaluation import compare

    differences = {row["task"]: row for row in compare(report, base)} if base is not None else {}
    if as_json:
        click.echo(json.dumps({"model": report.model, "figures": report.figures(),
                               "against": base.model if base else None,
                               "differences": list(differences.values())}))  # fmt: skip
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("task", "figure", "± s.e.", "cases", title=report.model)
    if base is not None:
        table.add_column(f"against {base.model}")
    for row in report.figures():
        share = row["unit"] == "share"
        value = f"{100 * row['value']:.1f} %" if share else f"{row['value']:.3f} bits/byte"
        error = f"{100 * row['error']:.1f}" if share else f"{row['error']:.3f}"
        cells = [row["task"], value, error, f"{row['cases']:,}"]
        if base is not None:
            found = differences[row["task"]]
            clear = "" if found["beyond_noise"] else ", within noise"
            cells.append(f"{100 * found['difference']:+.1f} ± {100 * found['error']:.1f}{clear}")
        table.add_row(*cells)
    Console().print(table)
