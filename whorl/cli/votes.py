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
@click.option("--head", metavar="NUMBER:HASH", help="A head noted elsewhere (NUMBER:HASH).")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def verify(store: str | None, head: str | None, as_json: bool) -> None:
    """Verify the hash chain of votes and chats, and name the first row that was altered.

    Rows removed from the end are detected with the heads noted next to the store (NAME.heads) at every check,
    backup and export. Prints the head of the chain; if you note it elsewhere and pass it as --head, changes
    to that file are detected too. Exits with 2 if anything was changed.
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
        click.echo(
            f"{name}: {found.votes:,} votes, {found.entries:,} rows, {found.erased:,} erased: chain intact"
        )
        if found.older:
            click.echo(f"{found.older:,} chats, turns and preferences predate the log's coverage")
        click.echo(f"head {found.head}")
    refuse_damage(found, name)


def walk(store: Store, wanted: Head | None = None) -> Verification:
    from whorl.base.progress import progress

    with progress(store.head().seq, "verify", "rows") as shown:
        return store.verify(wanted, advance=shown.advance)


def refuse_damage(found: Verification, name: str) -> None:
    from whorl.base.errors import DataError

    if not found.ok:
        raise DataError(f"{name}: {found.problem}; the {found.entries:,} rows before it are intact")


@click.command()
@click.argument("directory", type=click.Path(path_type=Path))
@STORE
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def export(directory: Path, store: str | None, as_json: bool) -> None:
    """Export preference pairs and conversations for training into the new folder DIRECTORY.

    Takes what people consented to `train` on, except prompts reserved for rating, and counts the rest by
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
@click.option("--person", "name", metavar="NAME", help="Erase everything NAME ever said, and the name.")
@STORE
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object; needs --yes.")
def erase(conversation: str | None, name: str | None, store: str | None, yes: bool, as_json: bool) -> None:
    """Permanently erase what was said in CONVERSATION (its id), or by --person NAME.

    Shows what will be erased and asks. Votes stay and count, without their texts; a tombstone in the log
    records this, and the whole chain is verified afterwards. Earlier backups and exports still contain the
    texts.
    """
    from whorl.arena.store import Store
    from whorl.arena.store.store import default_store
    from whorl.base.errors import InputError
    from whorl.base.progress import say

    if (conversation is None) == (name is None):
        raise InputError("give either a conversation's id or --person NAME")
    if as_json and not yes:
        raise InputError("--json cannot prompt; add --yes")
    with Store.open(store or default_store(), create=False) as votes:
        person = find_person(votes, name) if name is not None else None
        listed = [conversation] if conversation is not None else of_person(votes, person)
        goes = what_goes(votes, listed)
        who = f"person {name!r} with name and token" if person else f"conversation {conversation}"
        if not yes:
            ask(f"{who}: {goes['conversations']:,} conversations with {goes['turns']:,} messages will be"
                f" erased permanently ({goes['votes']:,} votes stay, without their texts)")  # fmt: skip
        end = votes.erase_person(person.id) if person else votes.erase(listed[0])
        found, place = walk(votes, end), str(votes.database)
    refuse_damage(found, place)
    if as_json:
        click.echo(json.dumps({**goes, "head": str(found.head), "store": place}, indent=2))
    else:
        click.echo(f"{place}: {who} erased, {goes['turns']:,} messages; {found.votes:,} votes, chain intact")
        click.echo(f"head {found.head}")
    say("earlier backups and exports still contain the texts: delete those you do not need")


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
            raise InputError(f"conversation {conversation} is already erased")
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
        raise InputError("nothing was erased; answer y or add --yes")
