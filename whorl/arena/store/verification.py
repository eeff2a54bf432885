"""`verify`: walk the log from its first row and name the first that is not as it was written."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from whorl.arena.store import chain
from whorl.arena.store.evidence import BrokenRowError, Evidence, body_of, name_of
from whorl.arena.store.records import Head
from whorl.arena.store.schema import log

ROWS_AT_ONCE = 400


@dataclass(frozen=True, kw_only=True)
class Verification:
    """What was found: `problem` is empty for a log that is whole, and else names the first bad row.
    `older` counts the chats, turns and preferences that predate the log's coverage: they are
    as they were when that began."""

    entries: int  # rows that are as they were written, from the first on
    votes: int
    erased: int  # conversations of which only the tombstone is left
    head: Head
    problem: str = ""
    older: int = 0

    @property
    def ok(self) -> bool:
        return not self.problem


def verify(
    connection: Connection,
    wanted: Head | None = None,
    *,
    noted: Sequence[Head] = (),
    where: str = "written down",
    advance: Callable[[int], object] | None = None,
) -> Verification:
    """Check every hash, all that a vote and the chats are about, and that nothing was erased unsaid.

    `wanted` is a head printed earlier, `noted` are those that were noted beside the store (`where`): a log
    that does not hold them has lost its tail, or was written anew. `advance` is told how many rows were read.
    """
    gone = sa.select(log.c.subject).where(log.c.kind == "erase")
    evidence = Evidence(connection, set(connection.execute(gone).scalars()))
    end, votes, problem, older = chain.START, 0, "", 0
    heads = {head.seq: (head.hash, f"noted in {where}") for head in noted}
    heads |= {wanted.seq: (wanted.hash, "written down")} if wanted is not None else {}
    try:
        for rows in _pages(connection):
            for row in rows:
                end = _next(row, end, heads)
                if row.kind == "cover":
                    older = sum(value for value in body_of(row).values() if isinstance(value, int))
            evidence.check(rows)
            votes += sum(row.kind == "vote" for row in rows)
            if advance is not None:
                advance(len(rows))
        _check_end(end, heads)
        evidence.check_rest()
    except BrokenRowError as error:
        problem = str(error)
    return Verification(
        entries=end.seq, votes=votes, erased=len(evidence.erased), head=end, problem=problem, older=older
    )


def _pages(connection: Connection) -> Iterator[Sequence[Row[Any]]]:
    last = -(2**63)
    while True:
        query = sa.select(log).where(log.c.seq > last).order_by(log.c.seq).limit(ROWS_AT_ONCE)
        rows = connection.execute(query).all()
        if not rows:
            return
        yield rows
        last = rows[-1].seq


def _next(row: Row[Any], end: Head, heads: Mapping[int, tuple[str, str]]) -> Head:
    """The head with `row` on it."""
    if not isinstance(row.seq, int):
        raise BrokenRowError(f"row {row.seq!r} of the log was inserted: it has no number")
    if row.seq > end.seq + 1:
        raise BrokenRowError(f"row {end.seq + 1} of the log is missing")
    if row.seq != end.seq + 1:
        raise BrokenRowError(f"row {row.seq} of the log was inserted before row 1")
    texts = (row.kind, row.subject, row.body, row.previous, row.hash)
    if not all(isinstance(text, str) for text in texts) or row.hash != chain.entry_hash(
        row.seq, row.kind, row.subject, row.recorded, row.body, row.previous
    ):
        raise BrokenRowError(f"{name_of(row)} was changed")
    if row.previous != end.hash:
        raise BrokenRowError(f"{name_of(row)} does not follow row {end.seq}")
    if row.seq == 1 and row.kind != "open":
        raise BrokenRowError("row 1 of the log is not the opening row")
    digest, where = heads.get(row.seq, (row.hash, ""))
    if row.hash != digest:
        raise BrokenRowError(f"row {row.seq} of the log is not the one whose hash was {where}")
    return Head(row.seq, row.hash)


def _check_end(end: Head, heads: Mapping[int, tuple[str, str]]) -> None:
    if end.seq == 0:
        raise BrokenRowError("row 1 of the log is missing")
    last = max(heads, default=0)
    if end.seq < last:
        where = heads[last][1]
        copied = "; if you restored an older copy on purpose, move that file away" if "noted" in where else ""
        raise BrokenRowError(
            f"row {end.seq + 1} of the log is missing: the log ends there, but {last} were {where}{copied}"
        )
