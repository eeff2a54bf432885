"""Models that may fight, and the people who talk to them and sign in."""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
import time
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from whorl.arena.store import chain
from whorl.arena.store.records import ROLES, Model, Person, Role
from whorl.arena.store.schema import models, people
from whorl.base.errors import InputError

ERASED_NAME = "erased-{}"  # of a person's number, and nobody else's


def put_model(connection: Connection, name: str, address: str, aliases: Sequence[str], active: bool) -> Model:
    """Make a model known, or change what is known of it."""
    chain.check_name(name, "a model")
    chain.check_name(address, f"the address of model {name!r}", empty=True)
    for alias in aliases:
        chain.check_name(alias, f"an alias of model {name!r}")
    row = {"address": address, "aliases": json.dumps(list(aliases)), "active": active}
    changed = connection.execute(sa.update(models).where(models.c.name == name).values(row))
    if not changed.rowcount:
        added = chain.microseconds(time.time())
        connection.execute(sa.insert(models).values(name=name, added=added, **row))
    return Model(name=name, address=address, aliases=tuple(aliases), active=active)


def read_models(connection: Connection) -> list[Model]:
    rows = connection.execute(sa.select(models).order_by(models.c.name)).all()
    return [
        Model(name=row.name, address=row.address, aliases=tuple(json.loads(row.aliases)), active=row.active)
        for row in rows
    ]


def add(connection: Connection, name: str, role: Role) -> Person:
    """A new person. The caller holds the PROMPTS lock: of two of one name at once the second is told."""
    chain.check_name(name, "a person")
    if name.startswith(ERASED_NAME.format("")):
        raise InputError(f"person {name!r}: such names are reserved for erased people; choose another")
    check_role(role)
    if connection.execute(sa.select(people.c.id).where(people.c.name == name)).first():
        raise InputError(f"person {name!r} is already in the store")
    row = {"name": name, "role": role, "added": chain.microseconds(time.time())}
    number = connection.execute(sa.insert(people).values(row).returning(people.c.id)).scalar_one()
    return Person(id=number, name=name, role=role)


def read(connection: Connection) -> list[Person]:
    return [_as_person(row) for row in connection.execute(sa.select(people).order_by(people.c.id))]


def read_one(connection: Connection, person: int) -> Person | None:
    row = connection.execute(ONE, {"number": person}).first()
    return None if row is None else _as_person(row)


ONE = sa.select(people).where(people.c.id == sa.bindparam("number"))  # asked for with every page


def _as_person(row: sa.Row[Any]) -> Person:
    stamp = _hashed(row.token)[:16] if row.token else ""
    return Person(id=row.id, name=row.name, role=row.role, stamp=stamp)


def set_role(connection: Connection, person: int, role: str) -> None:
    check_role(role)
    _change(connection, person, role=role)


def renew_token(connection: Connection, person: int) -> str:
    token = secrets.token_urlsafe(24)
    _change(connection, person, token=_hashed(token))
    return token


def sign_in(connection: Connection, name: str, token: str) -> Person:
    """The person of that name and token. InputError says not which of the two was wrong."""
    row = connection.execute(sa.select(people).where(people.c.name == name)).first()
    kept = row.token if row is not None and row.token else ""
    if not hmac.compare_digest(kept, _hashed(token)) or row is None:
        raise InputError("wrong name or token; ask an admin for a new token")
    return _as_person(row)


def sign_out(connection: Connection, person: int) -> None:
    _change(connection, person, token=None)


def forget(connection: Connection, person: int) -> None:
    """Take away the name and the token; the number stays, votes carry it."""
    _change(connection, person, name=ERASED_NAME.format(person), token=None, role="voter")


def check_role(role: str) -> None:
    if role not in ROLES:
        raise InputError(f"role {role!r} is not one of {', '.join(ROLES)}")


def _change(connection: Connection, person: int, **values: str | None) -> None:
    done = connection.execute(sa.update(people).where(people.c.id == person).values(values))
    if not done.rowcount:
        raise InputError(f"person {person} is not in the store; add them with add_person")


def _hashed(token: str) -> str:
    """Tokens are random and long: a plain hash of one tells nothing."""
    return hashlib.sha256(token.encode("utf-8", "replace")).hexdigest()
