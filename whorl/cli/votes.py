"""`whorl arena verify | export | erase`: the votes, checked, on their way back, and without their words."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from whorl.arena.store import Head, Person, Store, Verification

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

    wanted = Head.parse(head) if head is not None else None
    with Store.open(store or default_store(), create=False) as votes:
        found = walk(votes, wanted)
        name = str(votes.database)
    if as_json:
        record = {**asdict(found), "head": str(found.head), "ok": found.ok, "store": name}
        click.echo(json.dumps(record, indent=2))
    elif found.ok:
        click.echo(f"{name}: {found.votes:,} votes, {found.entries:,} rows, {found.erased:,} erased: whole")
        click.echo(f"head {found.head}")
    refuse_damage(found, name)


def walk(store: Store, wanted: Head | None = None) -> Verification:
    from whorl.base.progress import progress

    with progress(store.head().seq, "verify", "rows") as shown:
        return store.verify(wanted, advance=shown.advance)


def refuse_damage(found: Verification, name: str) -> None:
    from whorl.base.errors import DataError

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


@click.command()
@click.argument("conversation", required=False)
@click.option("--person", "name", metavar="NAME", help="All that NAME ever said, and the name.")
@STORE
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout; needs --yes.")
def erase(conversation: str | None, name: str | None, store: str | None, yes: bool, as_json: bool) -> None:
    """Take away what was said in CONVERSATION (its id), or by --person NAME, for good.

    Says what goes and asks. Votes stay and count, without words; a tombstone in the log says so, and the
    whole chain is checked afterwards. Backups and exports made before still hold the words.
    """
    from whorl.arena.store import Store
    from whorl.arena.store.store import default_store
    from whorl.base.errors import InputError
    from whorl.base.progress import say

    if (conversation is None) == (name is None):
        raise InputError("give a conversation's id or --person NAME, one of the two")
    if as_json and not yes:
        raise InputError("--json asks nothing; say --yes too")
    with Store.open(store or default_store(), create=False) as votes:
        person = find_person(votes, name) if name is not None else None
        listed = [conversation] if conversation is not None else of_person(votes, person)
        goes = what_goes(votes, listed)
        who = f"person {name!r} with name and token" if person else f"conversation {conversation}"
        if not yes:
            ask(f"{who}: {goes['conversations']:,} conversations with {goes['turns']:,} messages go for good"
                f" ({goes['votes']:,} votes stay, without words)")  # fmt: skip
        end = votes.erase_person(person.id) if person else votes.erase(listed[0])
        found, place = walk(votes, end), str(votes.database)
    refuse_damage(found, place)
    if as_json:
        click.echo(json.dumps({**goes, "head": str(found.head), "store": place}, indent=2))
    else:
        click.echo(f"{place}: {who} erased, {goes['turns']:,} messages; {found.votes:,} votes, whole")
        click.echo(f"head {found.head}")
    say("backups and exports made before still hold the words: delete those you do not need")


def find_person(store: Store, name: str) -> Person:
    from whorl.base.errors import InputError
    from whorl.base.fields import nearest

    people = {person.name: person for person in store.people()}
    if name not in people:
        raise InputError(f"person {name!r} is not in the store{nearest(name, people)}")
    return people[name]


def of_person(store: Store, person: Person | None) -> list[str]:
    return [one.id for one in store.conversations(person=person.id, erased=False)] if person else []


def what_goes(store: Store, conversations: list[str]) -> dict[str, int]:
    from whorl.base.errors import InputError

    turns = voted = 0
    for conversation in conversations:
        held = store.conversation(conversation)
        if held.erased is not None:
            raise InputError(f"conversation {conversation} is erased already")
        turns += len(store.turns(conversation))
        voted += held.kind == "battle" and store.battle(conversation).voted
    return {"conversations": len(conversations), "turns": turns, "votes": voted}


def ask(what: str) -> None:
    """Go on at a yes alone; nobody there is a no."""
    from whorl.base.errors import InputError

    try:
        wanted = click.confirm(f"{what}. Erase?", err=True)
    except click.Abort:
        wanted = False
    if not wanted:
        raise InputError("nothing was erased; answer y, or give --yes")
