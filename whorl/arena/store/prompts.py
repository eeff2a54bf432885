"""Prompts that say the same, kept on one side: what trains never rates.

A prompt is the first thing a person says. It joins the cluster of the stored prompt it equals, or of
the most similar one (MinHash over runs of three words, Broder 1997) from a Jaccard similarity of
`THRESHOLD` on. A cluster is for rating or for training by a hash of the prompt that founded it. One
that is similar to prompts of both sides is for neither: so no prompt that trains is similar to one
that rates. Images count by their bytes: prompts that share one belong together, whatever they say.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from whorl.arena.store.chain import check_text
from whorl.arena.store.records import Purpose
from whorl.arena.store.schema import conversations, prompt_bands, prompt_keys, prompts
from whorl.base.errors import InputError
from whorl.base.nouns import Message

THRESHOLD = 0.5
NGRAM, HASHES, SEED = 3, 64, 1
ROWS = 2  # places a band: a pair at the threshold shares none of 32 bands once in 10,000


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """What is compared of a prompt. `sketch` is uint64 [HASHES], None where only keys count; `bands` are
    numbers of which similar sketches share one."""

    keys: tuple[str, ...]
    sketch: np.ndarray | None = None
    bands: tuple[int, ...] = ()


class Place(NamedTuple):
    """Where a prompt belongs."""

    prompt: int
    cluster: int
    purpose: Purpose


def prepare(messages: Sequence[Message]) -> Prompt:
    """The prompt of a conversation: its first user message. Costly enough to be done outside of any
    transaction."""
    first = next((message for message in messages if message.role == "user"), None)
    if first is None:
        raise InputError("the opening has no user message; there is nothing to answer")
    check_text(first.text, "user message")
    if first.images:
        return Prompt(keys=tuple(sorted({f"image:{image.digest}" for image in first.images})))
    from whorl.data.dedup import Sketch
    from whorl.data.document import Document

    document = Document(id="prompt", text=first.text)
    words = " ".join(document.words) or first.text.strip()
    key = f"text:{hashlib.sha256(words.encode('utf-8', 'replace')).hexdigest()}"
    if not document.words:
        return Prompt(keys=(key,))
    sketch = Sketch(ngram=NGRAM, hashes=HASHES, seed=SEED)([document])[0]
    return Prompt(keys=(key,), sketch=sketch, bands=bands(sketch))


FIND = (
    sa.select(prompts.c.id, prompts.c.cluster, prompts.c.purpose)
    .join(prompt_keys, prompt_keys.c.prompt == prompts.c.id)
    .where(prompt_keys.c.key == sa.bindparam("wanted"))
    .with_for_update(read=True, key_share=True, of=prompts)  # an erasure waits, and then finds us
)
WANTED = prompt_keys.c.key.in_(sa.bindparam("keys", expanding=True))
NEAR = (
    sa.select(prompts.c.id, prompts.c.cluster, prompts.c.purpose, prompts.c.sketch, prompt_keys.c.key)
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
    the transaction. One with several images is left to `place`: who holds one of its rows and waits for
    the lock would stand in the way of an erasure that holds the lock and waits for the row."""
    if len(prompt.keys) > 1:
        return None
    row = connection.execute(FIND, {"wanted": prompt.keys[0]}).first()
    return None if row is None else Place(row.id, row.cluster, row.purpose)


def place(connection: Connection, prompt: Prompt, *, train_share: float, founder: Purpose | None) -> Place:
    """The cluster of `prompt`, founded where there is none. The caller holds the PROMPTS lock.

    A new cluster is for `founder`, or where that is None for training with probability `train_share`,
    decided by the prompt alone.
    """
    found = connection.execute(NEAR, {"keys": prompt.keys, "bands": prompt.bands}).all()
    known = [row for row in found if row.key is not None]
    if len(known) == len(prompt.keys) and len({row.id for row in known}) == 1:
        return Place(known[0].id, known[0].cluster, known[0].purpose)
    near = [(row.cluster, row.purpose) for row in known or _similar(prompt, found)]
    sides = {purpose for _, purpose in near} - {"neither"}
    purpose: Purpose
    if len(sides) > 1:
        purpose, cluster = "neither", near[0][0]
    elif sides:
        purpose = sides.pop()
        cluster = next(number for number, side in near if side == purpose)
    else:
        purpose = founder or ("train" if draw(prompt.keys[0]) < train_share else "rate")
        cluster = None
    fresh = [key for key in prompt.keys if key not in {row.key for row in known}]
    return _store(connection, prompt, fresh, cluster, purpose)


def draw(key: str) -> float:
    """A number in [0, 1) that the prompt alone decides."""
    return int.from_bytes(hashlib.sha256(f"split\0{key}".encode()).digest()[:8], "big") / 2**64


def _similar(prompt: Prompt, found: Sequence[Any]) -> list[Any]:
    """Rows of prompts from THRESHOLD on, the most similar first; of equals the older."""
    if prompt.sketch is None or not found:
        return []
    sketches = np.frombuffer(bytes.fromhex("".join(row.sketch for row in found)), dtype=np.uint64)
    shared = (sketches.reshape(len(found), HASHES) == prompt.sketch).mean(axis=1)
    order = np.argsort(-shared, kind="stable")
    return [found[place] for place in order if shared[place] >= THRESHOLD]


def similarity(one: np.ndarray, other: np.ndarray) -> float:
    """The estimated Jaccard similarity of two sketches."""
    return float((one == other).mean())


def bands(sketch: np.ndarray) -> tuple[int, ...]:
    """A signed 64-bit number for each band of ROWS neighbouring places."""
    found = set()
    for at in range(0, HASHES, ROWS):
        text = at.to_bytes(2, "big") + sketch[at : at + ROWS].tobytes()
        found.add(int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big", signed=True))
    return tuple(sorted(found))


# A founder's number is its cluster's.
FOUND = sa.text(
    "INSERT INTO arena_prompts (cluster, purpose, sketch) SELECT COALESCE(:cluster, MAX(id) + 1, 1),"
    " :purpose, :sketch FROM arena_prompts RETURNING id, cluster"
)
ADD_KEYS, ADD_BANDS = sa.insert(prompt_keys), sa.insert(prompt_bands)
# All in one: in PostgreSQL every statement is a journey on which others wait for the lock.
FOUND_ALL = sa.text(
    "WITH fresh AS (SELECT nextval(pg_get_serial_sequence('arena_prompts', 'id')) AS id),"
    " made AS (INSERT INTO arena_prompts (id, cluster, purpose, sketch)"
    " SELECT id, COALESCE(CAST(:cluster AS bigint), id), :purpose, :sketch FROM fresh RETURNING id, cluster),"
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
    row = {"cluster": cluster, "purpose": purpose, "sketch": sketch}
    if connection.dialect.name == "postgresql":
        made = connection.execute(FOUND_ALL, {**row, "keys": keys, "bands": list(prompt.bands)}).one()
        return Place(made.id, made.cluster, purpose)
    made = connection.execute(FOUND, row).one()
    if keys:
        connection.execute(ADD_KEYS, [{"key": key, "prompt": made.id} for key in keys])
    if prompt.bands:
        connection.execute(ADD_BANDS, [{"band": band, "prompt": made.id} for band in prompt.bands])
    return Place(made.id, made.cluster, purpose)


def forget(connection: Connection, prompt: int) -> None:
    """Drop a prompt's keys and sketch when no conversation that is left began with it. Its number stays
    taken: votes carry that of their cluster. The caller holds the PROMPTS lock."""
    # Whoever begins with it just now holds the row (see `find`), and is counted afterwards.
    connection.execute(sa.select(prompts.c.id).where(prompts.c.id == prompt).with_for_update()).all()
    left = sa.select(sa.func.count()).where(
        conversations.c.prompt == prompt, conversations.c.erased.is_(None)
    )
    if connection.execute(left).scalar_one() == 0:
        connection.execute(sa.delete(prompt_keys).where(prompt_keys.c.prompt == prompt))
        connection.execute(sa.delete(prompt_bands).where(prompt_bands.c.prompt == prompt))
        connection.execute(sa.update(prompts).where(prompts.c.id == prompt).values(sketch=None))
