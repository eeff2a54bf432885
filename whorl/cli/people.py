"""`whorl arena people list | add | token`: who may sign in to vote."""

from __future__ import annotations

import json

import click

from whorl.cli.votes import STORE, find_person

JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group()
def people() -> None:
    """Manage who may sign in: list, add, token."""


@people.command("list")
@STORE
@JSON
def list_(store: str | None, as_json: bool) -> None:
    """List everyone's number, name and role."""
    from whorl.arena.store import Store
    from whorl.arena.store.store import default_store

    with Store.open(store or default_store(), create=False) as votes:
        known = votes.people()
    if as_json:
        click.echo(
            json.dumps([{"id": one.id, "name": one.name, "role": one.role} for one in known], indent=2)
        )
        return
    for person in known:
        click.echo(f"{person.id:>4}  {person.role:<5}  {person.name}")


@people.command()
@click.argument("name")
@click.option("--role", type=click.Choice(["voter", "admin"]), default="voter", show_default=True)
@STORE
@JSON
def add(name: str, role: str, store: str | None, as_json: bool) -> None:
    """Add NAME and print the token to sign in with."""
    from whorl.arena.store import Store
    from whorl.arena.store.store import default_store

    with Store.open(store or default_store()) as votes:
        person = votes.add_person(name, role=role)  # type: ignore[arg-type]
        show(name, votes.new_token(person.id), as_json)


@people.command()
@click.argument("name")
@STORE
@JSON
def token(name: str, store: str | None, as_json: bool) -> None:
    """Print a new token for NAME; the old one stops working."""
    from whorl.arena.store import Store
    from whorl.arena.store.store import default_store

    with Store.open(store or default_store(), create=False) as votes:
        show(name, votes.new_token(find_person(votes, name).id), as_json)


def show(name: str, token: str, as_json: bool) -> None:
    from whorl.base.progress import say

    click.echo(json.dumps({"name": name, "token": token}, ensure_ascii=False) if as_json else token)
    say(f"{name}'s token, shown only once; only its hash is stored")
