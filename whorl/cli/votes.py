"""`whorl arena verify` and `whorl arena export`: the votes, checked and on their way back."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click

STORE = click.option(
    "--store",
    metavar="FILE|URL",
    help="A file or postgresql://USER@HOST/DATABASE [default: arena/arena.sqlite in the workspace].",
)


@click.command()
@STORE
@click.option("--head", metavar="NUMBER:HASH", help="The head an earlier check printed: finds a cut tail.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def verify(store: str | None, head: str | None, as_json: bool) -> None:
    """Walk the chain of votes and name the first row that is not as it was written.

    Prints the head of the chain. Write it down: with --head a later check finds rows taken from the end,
    which nothing inside the store can show. Exits with 2 where something was changed.
    """
    from whorl.arena.store import Head, Store
    from whorl.arena.store.store import default_store
    from whorl.base.errors import DataError
    from whorl.base.progress import progress

    wanted = Head.parse(head) if head is not None else None
    with Store.open(store or default_store(), create=False) as votes:
        with progress(votes.head().seq, "verify", "rows") as shown:
            found = votes.verify(wanted, advance=shown.advance)
        name = str(votes.database)
    if as_json:
        record = {**asdict(found), "head": str(found.head), "ok": found.ok, "store": name}
        click.echo(json.dumps(record, indent=2))
    elif found.ok:
        click.echo(f"{name}: {found.votes:,} votes, {found.entries:,} rows, {found.erased:,} erased: whole")
        click.echo(f"head {found.head}")
    if not found.ok:
        raise DataError(f"{name}: {found.problem}; the {found.entries:,} rows before it are whole")


@click.command()
@click.argument("directory", type=click.Path(path_type=Path))
@STORE
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def export(directory: Path, store: str | None, as_json: bool) -> None:
    """Preference pairs and conversations that may train a model, into the new folder DIRECTORY.

    Takes what people gave to `train`, whose prompts are not kept for rating, and counts the rest by its
    reason. preferences.jsonl is for whorl dpo, conversations.jsonl for whorl sft.
    """
    from whorl.arena.store import Store
    from whorl.arena.store import export as write
    from whorl.arena.store.store import default_store

    with Store.open(store or default_store(), create=False) as votes:
        made = write(votes, directory)
    if as_json:
        click.echo(json.dumps({**asdict(made), "path": str(made.path)}, indent=2))
        return
    click.echo(f"{made.path}: {made.preferences:,} preference pairs, {made.conversations:,} conversations")
    for reason, count in made.left_out.items():
        click.echo(f"  left out {count:,}: {reason}")
