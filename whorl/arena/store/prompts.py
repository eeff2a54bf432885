"""Prompts that say the same, kept on one side: what trains never rates.

A prompt is what a person asks: the first message of a conversation, and every later one that stands for
itself. It joins the cluster of the stored prompt it equals, or of the most similar one (see `likeness`).
A cluster is for rating or for training by a hash of the prompt that founded it. One that is similar to
prompts of both sides is for neither: so no prompt that trains is similar to one that rates.

Of an erased prompt marks stay: its keys and bands under a secret of the store's own. They tell nothing but
that a prompt, asked again, is the same, and so it keeps its side.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets as random_secrets
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from whorl.arena.store.likeness import (
    HASHES,
    NGRAM,
    ROWS,
    SEED,
    THRESHOLD,
    Prompt,
    bands,
    contained,
    of_message,
    prepare,
    similarity,
    stands_alone,
)  # fmt: skip
from whorl.arena.store.records import Purpose
from whorl.arena.store.schema import (
    conversations,
    prompt_bands,
    prompt_keys,
    prompt_marks,
    prompts,
    secrets,
    turn_prompts,
)  # fmt: skip

__all__ = [
    "HASHES", "NGRAM", "SEED", "THRESHOLD", "Place", "Prompt", "bands", "draw", "find", "forget", "look",
    "of_message", "place", "prepare", "similarity", "stands_alone",
]  # fmt: skip


class Place(NamedTuple):
    """Where a prompt belongs."""

    prompt: int
    cluster: int
    purpose: Purpose


FIND = (
    sa.select(prompts.c.id, prompts.c.cluster, prompts.c.purpose)
    .join(prompt_keys, prompt_keys.c.prompt == prompts.c.id)
    .where(prompt_keys.c.key == sa.bindparam("wanted"))
    .with_for_update(read=True, key_share=True, of=prompts)  # an erasure waits, and then finds us
)
WANTED = prompt_keys.c.key.in_(sa.bindparam("keys", expanding=True))
NEAR = (
    sa.select(
        prompts.c.id,
        prompts.c.cluster,
        prompts.c.purpose,
        prompts.c.sketch,
        prompts.c.size,
        prompt_keys.c.key,
    )
    .outerjoin(prompt_keys, sa.and_(prompt_keys.c.prompt == prompts.c.id, WANTED))
    .where(
        prompts.c.id.in_(
            sa.union(
                sa.select(prompt_keys.c.prompt).where(WANTED),
                sa.select(prompt_bands.c.prompt).where(
                    prompt_bands.c.band.in_(sa.bindparam("bands", expanding=True))
                ),
            )
        )
    )
    .order_by(prompts.c.id)
)


def find(connection: Connection, prompt: Prompt) -> Place | None:
    """Where a prompt belongs that was asked before, word by word. Needs no lock; the row stays as long as
    the transaction. One with images is left to `place`: who holds one of its rows and waits for the lock
    would stand in the way of an erasure that holds the lock and waits for the row."""
    if prompt.pictured:
        return None
    row = connection.execute(FIND, {"wanted": prompt.keys[0]}).first()
    return None if row is None else Place(row.id, row.cluster, row.purpose)


def place(connection: Connection, prompt: Prompt, *, train_share: float, founder: Purpose | None) -> Place:
    """The cluster of `prompt`, founded where there is none. The caller holds the PROMPTS lock.

    A new cluster is for `founder`, or where that is None for training with probability `train_share`,
    decided by the prompt alone.
    """
    near, known = _near(connection, prompt)
    fresh = [key for key in prompt.keys if key not in known]
    same = known.get(prompt.keys[0])
    if not prompt.pictured and same is not None:
        _name(connection, same, fresh)
        return same
    if not fresh and len({row.prompt for row in known.values()}) == 1:
        return known[prompt.keys[0]]
    purpose, cluster = _side(near)
    if purpose is None:
        purpose = founder or ("train" if draw(prompt.keys[0]) < train_share else "rate")
    return _store(connection, prompt, fresh, cluster, purpose)


def look(connection: Connection, prompt: Prompt) -> Purpose | None:
    """What the prompts that `prompt` is like are for; None for one that is like none. Keeps nothing."""
    return _side(_near(connection, prompt)[0])[0]


def _side(near: Sequence[Place]) -> tuple[Purpose | None, int | None]:
    """The purpose and the cluster of one that is like all of `near`."""
    sides = {found.purpose for found in near} - {"neither"}
    if len(sides) > 1:
        return "neither", near[0].cluster
    if not sides:
        return None, None
    purpose = sides.pop()
    return purpose, next(found.cluster for found in near if found.purpose == purpose)


def _near(connection: Connection, prompt: Prompt) -> tuple[list[Place], dict[str, Place]]:
    """The places of prompts like this one, and by their keys those that have one of its keys."""
    found = connection.execute(NEAR, {"keys": prompt.keys, "bands": prompt.bands}).all()
    known = {row.key: Place(row.id, row.cluster, row.purpose) for row in found if row.key is not None}
    similar = [Place(row.id, row.cluster, row.purpose) for row in _similar(prompt, found)]
    return [*known.values(), *similar, *_erased(connection, prompt)], known


def draw(key: str) -> float:
    """A number in [0, 1) that the prompt alone decides."""
    return int.from_bytes(hashlib.sha256(f"split\0{key}".encode()).digest()[:8], "big") / 2**64


def _similar(prompt: Prompt, found: Sequence[Any]) -> list[Any]:
    """Rows of prompts that are similar enough, the most similar first; of equals the older."""
    found = [row for row in found if row.sketch is not None]
    if prompt.sketch is None or not found:
        return []
    sketches = np.frombuffer(bytes.fromhex("".join(row.sketch for row in found)), dtype=np.uint64)
    shared = (sketches.reshape(len(found), HASHES) == prompt.sketch).mean(axis=1)
    order = np.argsort(-shared, kind="stable")
    return [
        found[place]
        for place in order
        if shared[place] >= THRESHOLD or contained(shared[place], prompt.size, found[place].size or 0)
    ]


# A founder's number is its cluster's.
FOUND = sa.text(
    "INSERT INTO arena_prompts (cluster, purpose, sketch, size) SELECT COALESCE(:cluster, MAX(id) + 1, 1),"
    " :purpose, :sketch, :size FROM arena_prompts RETURNING id, cluster"
)
ADD_KEYS, ADD_BANDS = sa.insert(prompt_keys), sa.insert(prompt_bands)
# All in one: in PostgreSQL every statement is a journey on which others wait for the lock.
FOUND_ALL = sa.text(
    "WITH fresh AS (SELECT nextval(pg_get_serial_sequence('arena_prompts', 'id')) AS id),"
    " made AS (INSERT INTO arena_prompts (id, cluster, purpose, sketch, size)"
    " SELECT id, COALESCE(CAST(:cluster AS bigint), id), :purpose, :sketch, CAST(:size AS bigint) FROM fresh"
    " RETURNING id, cluster),"
    " named AS (INSERT INTO arena_prompt_keys (key, prompt)"
    " SELECT key, id FROM made, unnest(CAST(:keys AS text[])) AS key),"
    " banded AS (INSERT INTO arena_prompt_bands (band, prompt)"
    " SELECT band, id FROM made, unnest(CAST(:bands AS bigint[])) AS band)"
    " SELECT id, cluster FROM made"
)


def _store(
    connection: Connection, prompt: Prompt, keys: list[str], cluster: int | None, purpose: Purpose
) -> Place:
    sketch = None if prompt.sketch is None else prompt.sketch.tobytes().hex()
    row = {"cluster": cluster, "purpose": purpose, "sketch": sketch, "size": prompt.size or None}
    if connection.dialect.name == "postgresql":
        made = connection.execute(FOUND_ALL, {**row, "keys": keys, "bands": list(prompt.bands)}).one()
        return Place(made.id, made.cluster, purpose)
    made = connection.execute(FOUND, row).one()
    found = Place(made.id, made.cluster, purpose)
    _name(connection, found, keys)
    if prompt.bands:
        connection.execute(ADD_BANDS, [{"band": band, "prompt": made.id} for band in prompt.bands])
    return found


def _name(connection: Connection, found: Place, keys: Sequence[str]) -> None:
    if keys:
        connection.execute(ADD_KEYS, [{"key": key, "prompt": found.prompt} for key in keys])


# -- what is left of an erased prompt --------------------------------------------------------------

MARKED = (
    sa.select(prompts.c.id, prompts.c.cluster, prompts.c.purpose, prompt_marks.c.mark)
    .join(prompt_marks, prompt_marks.c.prompt == prompts.c.id)
    .where(prompt_marks.c.mark.in_(sa.bindparam("marks", expanding=True)))
    .order_by(prompts.c.id)
)
# Two sketches at the threshold share a quarter of their bands on average, fewer than this once in 50.
BANDS_ALIKE = round(HASHES / ROWS * THRESHOLD**ROWS / 2)


def forget(connection: Connection, prompt: int) -> None:
    """Put marks in the place of a prompt's keys and sketch when no conversation that is left has it. Its
    number stays taken: votes carry that of their cluster. The caller holds the PROMPTS lock."""
    # Whoever begins with it just now holds the row (see `find`), and is counted afterwards.
    connection.execute(sa.select(prompts.c.id).where(prompts.c.id == prompt).with_for_update()).all()
    begun = sa.select(sa.func.count()).where(
        conversations.c.prompt == prompt, conversations.c.erased.is_(None)
    )
    asked = sa.select(sa.func.count()).where(turn_prompts.c.prompt == prompt)
    if connection.execute(begun).scalar_one() + connection.execute(asked).scalar_one():
        return
    keys = connection.execute(sa.select(prompt_keys.c.key).where(prompt_keys.c.prompt == prompt)).scalars()
    kept = connection.execute(sa.select(prompt_bands.c.band).where(prompt_bands.c.prompt == prompt)).scalars()
    secret = _secret(connection, make=True)
    marks = {*_marks(secret, keys.all()), *_marks(secret, kept.all())}
    if marks:
        connection.execute(
            sa.insert(prompt_marks), [{"mark": mark, "prompt": prompt} for mark in sorted(marks)]
        )
    connection.execute(sa.delete(prompt_keys).where(prompt_keys.c.prompt == prompt))
    connection.execute(sa.delete(prompt_bands).where(prompt_bands.c.prompt == prompt))
    connection.execute(sa.update(prompts).where(prompts.c.id == prompt).values(sketch=None, size=None))


def _erased(connection: Connection, prompt: Prompt) -> list[Place]:
    """The places of erased prompts that were the same, or similar."""
    secret = _secret(connection, make=False)
    if not secret:  # nothing was ever erased
        return []
    keys, parts = _marks(secret, prompt.keys), _marks(secret, prompt.bands)
    same: list[Place] = []
    shared: dict[Place, int] = {}
    for row in connection.execute(MARKED, {"marks": [*keys, *parts]}):
        found = Place(row.id, row.cluster, row.purpose)
        if row.mark in keys:
            same.append(found)
        shared[found] = shared.get(found, 0) + (row.mark in parts)
    close = sorted((found for found in shared if found not in same), key=lambda found: -shared[found])
    return [*same, *(found for found in close if shared[found] >= BANDS_ALIKE)]


SECRET = sa.select(secrets.c.value).where(secrets.c.name == "prompt marks")


def _secret(connection: Connection, *, make: bool) -> str:
    """The secret the marks are made with; "" where there is none yet."""
    found: str | None = connection.execute(SECRET).scalar()
    if found is None and make:
        found = random_secrets.token_hex(32)
        connection.execute(sa.insert(secrets).values(name="prompt marks", value=found))
    return found or ""


def _marks(secret: str, values: Iterable[object]) -> list[str]:
    key = bytes.fromhex(secret)
    return [hmac.new(key, str(value).encode(), hashlib.sha256).hexdigest()[:32] for value in values]
