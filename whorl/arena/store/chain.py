"""The hash chain over the log of votes.

Row n's hash covers its own fields and the hash of row n - 1 (as in Haber and Stornetta 1991), so a
row cannot be changed, taken out, put in or moved without changing every hash after it. What people
wrote is covered by salted digests: once text and salt are gone, the digest tells nothing of the text
and the chain still holds.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import math
import secrets
import time
import unicodedata
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from whorl.arena.store.records import Head
from whorl.arena.store.schema import contents, log
from whorl.base.errors import DataError, InputError

START = Head(0, "")
MICRO = 1_000_000
LARGEST_CONTENT = 64 << 20  # bytes of one message or trace, images included
LONGEST_NAME = 300  # characters of a model, a person, a category, a weight version
LATEST = 253_402_300_800  # the first second of the year 10,000
LARGEST_TEXT = 1 << 20  # characters of one message: more than any model here reads


def canonical(value: Any) -> str:
    """JSON in one way only: sorted keys, no spaces, characters as they are."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def entry_hash(seq: int, kind: str, subject: str, recorded: int, body: str, previous: str) -> str:
    """SHA-256 of a log row: of the JSON list of its fields, `body` as the text it is."""
    text = json.dumps([seq, kind, subject, recorded, body, previous], separators=(",", ":"))
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def content_digest(salt: str, body: str) -> str:
    """HMAC-SHA-256 of a content under its salt (hex)."""
    return hmac.new(bytes.fromhex(salt), body.encode("utf-8"), hashlib.sha256).hexdigest()


# Statements of the busy paths are made once: building one takes as long as running it.
LAST = sa.select(log.c.seq, log.c.hash, log.c.recorded).order_by(log.c.seq.desc()).limit(1)
ADD_ENTRY = sa.insert(log)


def head(connection: Connection) -> Head:
    row = connection.execute(LAST).first()
    return Head(row.seq, row.hash) if row else START


def append(connection: Connection, kind: str, subject: str, body: dict[str, Any]) -> Head:
    """Add a row at the end. The caller holds the CHAIN lock."""
    row = connection.execute(LAST).first()
    seq, previous, last = (row.seq, row.hash, row.recorded) if row else (0, "", 0)
    entry: dict[str, Any] = {
        "seq": seq + 1,
        "kind": kind,
        "subject": subject,
        "recorded": max(microseconds(time.time()), last + 1),  # a clock set back does not reorder the log
        "body": canonical(body),
        "previous": previous,
    }
    digest = entry_hash(**entry)
    connection.execute(ADD_ENTRY, {**entry, "hash": digest})
    return Head(seq + 1, digest)


PACK_FROM = 1000  # bytes of a trace from which packing pays


def packed(trace: Mapping[str, Any]) -> dict[str, Any]:
    """A trace as it is kept: token ids, prompt ids and log-probs are long, and packed take half the room."""
    try:
        text = canonical(dict(trace))
        data = text.encode("utf-8")
    except (TypeError, ValueError, RecursionError):
        return dict(trace)  # `sealed` says what is wrong with it
    if not PACK_FROM <= len(data) <= LARGEST_CONTENT:
        return dict(trace)
    return {"packed": base64.b64encode(zlib.compress(data, 6)).decode("ascii")}


def unpacked(body: str, where: str) -> dict[str, Any]:
    """The trace that was packed, or kept as it was."""
    trace: dict[str, Any] = json.loads(body)
    if trace.keys() != {"packed"}:
        return trace
    try:
        reader = zlib.decompressobj()
        text = reader.decompress(base64.b64decode(trace["packed"], validate=True), LARGEST_CONTENT)
        found: dict[str, Any] = json.loads(text)
    except (ValueError, TypeError, zlib.error) as error:
        raise DataError(f"{where}: its trace cannot be read ({error}); run whorl arena verify") from error
    return found


def sealed(conversation: str, value: dict[str, Any], what: str) -> dict[str, Any]:
    """A message or trace as a row of contents, with a fresh salt. `what` names it in errors. Needs no
    look into the store: done before a transaction, nobody waits for it."""
    try:
        body = canonical(value)
        size = len(body.encode("utf-8"))
    except UnicodeEncodeError as error:
        problem = "holds half a character (a lone surrogate), which is not text"
        raise InputError(f"{what} {problem}; send valid UTF-8") from error
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"{what} cannot be stored as JSON: {error}") from error
    if size > LARGEST_CONTENT:
        raise InputError(f"{what} is {size >> 20} MB, more than {LARGEST_CONTENT >> 20} MB; shorten it")
    salt = secrets.token_hex(16)
    return {"conversation": conversation, "digest": content_digest(salt, body), "salt": salt, "body": body}


ADD_CONTENTS = sa.insert(contents).returning(contents.c.id, contents.c.digest)


def add_contents(connection: Connection, rows: Sequence[dict[str, Any]]) -> list[int]:
    """Keep what was sealed, all in one statement; the numbers, in the rows' order."""
    made = connection.execute(ADD_CONTENTS, rows if len(rows) > 1 else rows[0])
    numbers = {row.digest: row.id for row in made}  # salted, so no two are alike
    return [numbers[row["digest"]] for row in rows]


def check_text(text: str, what: str) -> None:
    if len(text) > LARGEST_TEXT:
        size = f"{len(text):,} characters long, more than {LARGEST_TEXT:,}"
        raise InputError(f"{what} is {size}; shorten it")


def check_name(text: str, what: str, *, empty: bool = False) -> str:
    """A name as either database keeps it, on one line, of a length that can be shown."""
    if not isinstance(text, str) or not (empty or text.strip()):
        raise InputError(f"{what} needs a name")
    if len(text) > LONGEST_NAME:
        raise InputError(f"{what} is {len(text):,} characters long, more than {LONGEST_NAME}; shorten it")
    if any(unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp") for letter in text):
        raise InputError(f"{what} {text!r} contains a control character or half a character; remove it")
    return text


def microseconds(seconds: float) -> int:
    return round(seconds * MICRO)


def seconds(micro: int) -> float:
    return micro / MICRO


def checked_time(given: float | None) -> float:
    """`given` seconds since the epoch, or now."""
    if given is None:
        return time.time()
    number = isinstance(given, int | float) and not isinstance(given, bool)
    if not number or not math.isfinite(given) or not 0 <= given < LATEST:
        raise InputError(f"time {given!r} is not seconds since 1970")
    return float(given)


def parse_body(text: str, where: str) -> dict[str, Any]:
    try:
        body = msgspec.json.decode(text)
    except msgspec.DecodeError as error:
        raise DataError(f"{where}: body is not JSON ({error}); run whorl arena verify") from error
    if not isinstance(body, dict):
        raise DataError(f"{where}: body is not an object; run whorl arena verify")
    return body
