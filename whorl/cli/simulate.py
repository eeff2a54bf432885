"""`whorl arena simulate [NAME=]MODEL… --tasks …`: models meet without people."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from whorl.cli.votes import STORE

if TYPE_CHECKING:
    from whorl.arena.ratings import Ratings
    from whorl.arena.scripted import Played


class OrSynthetic(click.Command):
    """With --synthetic it is the command that makes its models up, and has that one's options."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        if "--synthetic" in args:
            from whorl.cli.synthetic import synthetic

            return synthetic.make_context(info_name, args, parent, **extra)
        return super().make_context(info_name, args, parent, **extra)


@click.command(cls=OrSynthetic, context_settings={"max_content_width": 110})
@click.argument("models", nargs=-1, metavar="[NAME=]MODEL|URL…", required=True)
@click.option("--tasks", "words", required=True, multiple=True, metavar="TASK,…",
              help="Tasks that give the prompts and grade the replies: arithmetic, lookups, digits,"
                  " gsm8k:FILE,"
              " FILE.jsonl or module:name.")  # fmt: skip
@click.option(
    "--battles", default=200, show_default=True, type=click.IntRange(min=1), help="Number of battles."
)
@click.option("--round", "round_", default=0, show_default=True, type=click.IntRange(min=0),
              help="Round number; each round uses examples not used in earlier rounds.")  # fmt: skip
@click.option("--tools", type=click.Choice(["listed", "known"]), default="listed", show_default=True,
              help="Whether tools are offered in each conversation, or the models were trained to know"
                  " them.")  # fmt: skip
@click.option("--max-tokens", default=256, show_default=True, help="Maximum tokens per reply.")
@STORE
@click.option("--json", "as_json", is_flag=True, help="Print {votes, rated, set_aside, ratings} as JSON.")
def simulate(
    models: tuple[str, ...], words: tuple[str, ...], battles: int, round_: int, store: str | None,
    as_json: bool, **options: Any,
) -> None:  # fmt: skip
    """Run battles between MODELS on held-out task prompts; the task's grades are the votes.

    \b
        whorl arena simulate base=runs/quickstart/base chat=runs/quickstart/model --tasks arithmetic
        whorl arena simulate --synthetic --help      made-up models: do the ratings recover the truth?

    A model is a directory (served for the duration) or a server's URL; NAME is its name in the store. Battles
    and votes go into the store as if people had cast them. Votes on held-out prompts count on the board;
    votes on a task's train split are for training, and whorl arena export exports them.
    """
    import asyncio

    named = {}
    for text in models:
        name, place = split_name(text)
        if name in named:
            from whorl.base.errors import InputError

            raise InputError(f"two models are named {name!r}; give one as NAME={place}")
        named[name] = place
    tasks = [word for text in words for word in text.split(",") if word]
    played, ratings = asyncio.run(meet(named, tasks, store, battles, round_, options))
    show(played, ratings, as_json)


def split_name(text: str) -> tuple[str, str]:
    """NAME=PLACE, or a place that names itself: by its folder, a run's model by its run's."""
    from pathlib import Path

    name, equals, place = text.partition("=")
    if equals and "/" not in name:
        return name, place
    path = Path(text)
    return (path.absolute().parent.name if path.name == "model" else path.name) or text, text


async def meet(
    models: dict[str, str], words: list[str], store: str | None, battles: int, round_: int,
    options: dict[str, Any],
) -> tuple[Played, Ratings | None]:  # fmt: skip
    """Play, then rate all that counts in the store; None where nothing does."""
    from contextlib import AsyncExitStack

    from whorl.arena.battles import Battles
    from whorl.arena.ratings import fit_bradley_terry
    from whorl.arena.scripted import play
    from whorl.arena.store import Store
    from whorl.arena.store.store import default_store
    from whorl.base.client import OpenAIClient
    from whorl.base.nouns import SamplingParams
    from whorl.evals.finding import find_task
    from whorl.evals.serving import is_address, served

    tasks = [find_task(word, tools=options["tools"], judge=None) for word in words]
    params = SamplingParams(max_tokens=options["max_tokens"])
    async with AsyncExitStack() as stack:
        clients = {}
        for name, place in models.items():
            address = place if is_address(place) else stack.enter_context(served(place))
            clients[name] = await stack.enter_async_context(OpenAIClient(address, traced=True))
            await clients[name].connect()
        with Store.open(store or default_store()) as votes:
            played = await play(votes, clients, tasks, battles=battles, seed=round_, params=params)
            rated = list(votes.battles())
    return played, fit_bradley_terry(Battles.from_rows(rated)) if rated else None


def show(played: Played, ratings: Ratings | None, as_json: bool) -> None:
    rows = [] if ratings is None else ratings.rows()
    if as_json:
        told = {"votes": dict(played.votes), "rated": played.rated, "set_aside": played.set_aside}
        click.echo(json.dumps(told | {"ratings": rows}, indent=2))
        return
    from rich.console import Console

    from whorl.arena.table import ratings_table
    from whorl.base.progress import say

    if ratings is not None:
        Console().print(ratings_table(ratings))
    counted = ", ".join(f"{count} {name}" for name, count in sorted(played.votes.items()))
    say(
        f"{played.battles} battles: {counted}; {played.rated} count on the board, the others are for training"
    )
    if played.set_aside:
        say(
            f"note: {played.set_aside} prompts had no vote: the store already uses them for the other"
            " purpose (rating or training)"
        )
