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
from typing import NamedTuple

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
    """What is compared of a prompt. `sketch` is uint64 [HASHES], None where only keys count."""

    keys: tuple[str, ...]
    sketch: np.ndarray | None


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
        return Prompt(keys=tuple(sorted({f"image:{image.digest}" for image in first.images})), sketch=None)
    from whorl.data.dedup import Sketch
    from whorl.data.document import Document

    document = Document(id="prompt", text=first.text)
    words = " ".join(document.words) or first.text.strip()
    key = f"text:{hashlib.sha256(words.encode('utf-8', 'replace')).hexdigest()}"
    if not document.words:
        return Prompt(keys=(key,), sketch=None)
    return Prompt(keys=(key,), sketch=Sketch(ngram=NGRAM, hashes=HASHES, seed=SEED)([document])[0])


def place(connection: Connection, prompt: Prompt, *, train_share: float, founder: Purpose | None) -> Place:
    """The cluster of `prompt`, founded where there is none. The caller holds the PROMPTS lock.

    A new cluster is for `founder`, or where that is None for training with probability `train_share`,
    decided by the prompt alone.
    """
    known = connection.execute(
        sa.select(prompts.c.id, prompts.c.cluster, prompts.c.purpose, prompt_keys.c.key)
        .join(prompt_keys, prompt_keys.c.prompt == prompts.c.id)
        .where(prompt_keys.c.key.in_(prompt.keys))
        .order_by(prompts.c.id)
    ).all()
    if len(known) == len(prompt.keys) and len({row.id for row in known}) == 1:
        return Place(known[0].id, known[0].cluster, known[0].purpose)
    near = [(row.cluster, row.purpose) for row in known] or _similar(connection, prompt)
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


def _similar(connection: Connection, prompt: Prompt) -> list[tuple[int, Purpose]]:
    """(cluster, purpose) of stored prompts from THRESHOLD on, the most similar first."""
    if prompt.sketch is None:
        return []
    sharing = sa.select(prompt_bands.c.prompt).where(prompt_bands.c.band.in_(bands(prompt.sketch)))
    found = connection.execute(
        sa.select(prompts.c.id, prompts.c.cluster, prompts.c.purpose, prompts.c.sketch).where(
            prompts.c.id.in_(sharing)
        )
    )
    near: list[tuple[float, int, int, Purpose]] = []
    for row in found:
        shared = similarity(prompt.sketch, np.frombuffer(bytes.fromhex(row.sketch), dtype=np.uint64))
        if shared >= THRESHOLD:
            near.append((-shared, row.id, row.cluster, row.purpose))
    return [(cluster, purpose) for _, _, cluster, purpose in sorted(near)]


def similarity(one: np.ndarray, other: np.ndarray) -> float:
    """The estimated Jaccard similarity of two sketches."""
    return float((one == other).mean())


def bands(sketch: np.ndarray) -> list[int]:
    """A signed 64-bit number for each band of ROWS neighbouring places."""
    found = set()
    for at in range(0, HASHES, ROWS):
        text = at.to_bytes(2, "big") + sketch[at : at + ROWS].tobytes()
        found.add(int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big", signed=True))
    return sorted(found)


def _store(
    connection: Connection, prompt: Prompt, keys: list[str], cluster: int | None, purpose: Purpose
) -> Place:
    sketch = None if prompt.sketch is None else prompt.sketch.tobytes().hex()
    row = {"cluster": cluster or 0, "purpose": purpose, "sketch": sketch}
    number: int = connection.execute(sa.insert(prompts).values(row).returning(prompts.c.id)).scalar_one()
    if cluster is None:  # a founder's number is its cluster's
        cluster = number
        connection.execute(sa.update(prompts).where(prompts.c.id == number).values(cluster=cluster))
    if keys:
        connection.execute(sa.insert(prompt_keys), [{"key": key, "prompt": number} for key in keys])
    if prompt.sketch is not None:
        rows = [{"band": band, "prompt": number} for band in bands(prompt.sketch)]
        connection.execute(sa.insert(prompt_bands), rows)
    return Place(number, cluster, purpose)


def forget(connection: Connection, prompt: int) -> None:
    """Drop a prompt's keys and sketch when no conversation that is left began with it."""
    left = sa.select(sa.func.count()).where(
        conversations.c.prompt == prompt, conversations.c.erased.is_(None)
    )
    if connection.execute(left).scalar_one() == 0:
        connection.execute(sa.delete(prompts).where(prompts.c.id == prompt))
