"""A board that can be shown again: the same battles and settings give the same bytes.

Figures are rounded to hundredths of a point before they are written, far above what the order of a sum or
another machine's BLAS can move, and everything else in a board is exact.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from whorl.arena.battles import Battles
from whorl.arena.config import RatingConfig
from whorl.arena.ratings import Ratings, fit_bradley_terry
from whorl.base.errors import DataError, InputError
from whorl.base.files import atomic_write

FORMAT = 1


@dataclass(frozen=True)
class Board:
    """Ratings as published: `rows` as `Ratings.rows` has them, and what they were made from.

    `battles` is the digest of the battles the settings were applied to, `until` the time of the last one
    of them (None where no time is known), `at` the moment at which a store's log was cut for it, if one was.
    """

    settings: RatingConfig
    battles: str
    votes: int
    until: float | None
    rows: tuple[dict[str, Any], ...]
    style: dict[str, tuple[float, float, float]]
    tie_width: float
    notes: tuple[str, ...]
    at: float | None = None

    def to_bytes(self) -> bytes:
        """Canonical JSON: sorted keys, no spaces, UTF-8, one newline at the end."""
        record: dict[str, Any] = {
            "format": FORMAT,
            "settings": self.settings.model_dump(mode="json"),
            "battles": self.battles,
            "votes": self.votes,
            "until": self.until,
            "rows": list(self.rows),
            "style": {name: [round(value, 4) for value in three] for name, three in self.style.items()},
            "tie_width": round(self.tie_width, 4),
            "notes": list(self.notes),
        }
        if self.at is not None:
            record["at"] = self.at
        text = json.dumps(record, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        return (text + "\n").encode("utf-8")

    @property
    def digest(self) -> str:
        """SHA-256 of the board's bytes: its name."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    def save(self, path: str | Path) -> None:
        with atomic_write(path, "wb") as file:
            file.write(self.to_bytes())


class OtherBoardError(DataError):
    """A board made again is not the one that it was made from."""


def rate(battles: Battles, settings: RatingConfig) -> Ratings:
    """The ratings of a board; raises what `fit_bradley_terry` raises."""
    chosen = battles if settings.category is None else battles.of_category(settings.category)
    return fit_bradley_terry(chosen, **settings.model_dump(exclude={"category"}))


def make_board(battles: Battles, settings: RatingConfig | None = None, *, at: float | None = None) -> Board:
    """The board of these battles; raises what `fit_bradley_terry` raises."""
    settings = RatingConfig() if settings is None else settings
    ratings = rate(battles, settings)
    chosen = battles if settings.category is None else battles.of_category(settings.category)
    known = chosen.time[np.isfinite(chosen.time)]
    return Board(
        settings=settings,
        battles=battles.digest,
        votes=ratings.votes,
        until=float(known.max()) if len(known) else None,
        rows=tuple(ratings.rows()),
        style=ratings.style,
        tie_width=ratings.tie_width,
        notes=ratings.notes,
        at=at,
    )


def replay(board: bytes, battles: Battles, where: str = "board") -> Board:
    """The board made again from the battles; raises `OtherBoardError` unless its bytes are `board`'s.

    The error says what differs: the battles, a model's row, or something else.
    """
    record = read_board(board, where)
    try:
        settings = RatingConfig.model_validate(record.get("settings"))
    except ValidationError as error:
        raise DataError(
            f"{where}: its settings do not fit this version: {error.errors()[0]['msg']}"
        ) from error
    if record.get("battles") != battles.digest:
        raise OtherBoardError(
            f"{where} was made from other battles: {record.get('votes')} votes, digest"
            f" {str(record.get('battles'))[:12]}…, here {len(battles)}, {battles.digest[:12]}…"
        )
    made = make_board(battles, settings, at=record.get("at"))
    if made.to_bytes() != board:
        raise OtherBoardError(
            f"{where} does not match its battles: {difference(record, json.loads(made.to_bytes()))}"
        )
    return made


def read_board(board: bytes, where: str = "board") -> dict[str, Any]:
    """A board's record; a broken or newer one is an error."""
    try:
        record = json.loads(board)
    except (ValueError, RecursionError) as error:  # not UTF-8, no JSON, or JSON beyond what Python reads
        raise DataError(f"{where} is not valid JSON: {error}") from error
    if not isinstance(record, dict) or not isinstance(record.get("format"), int):
        raise DataError(f"{where} is not a board: it has no format number")
    at = record.get("at")
    if at is not None and (isinstance(at, bool) or not isinstance(at, int | float)):
        raise DataError(f"{where}: its 'at' is not a time in seconds since 1970")
    if record["format"] > FORMAT:
        raise InputError(
            f"{where} has format {record['format']}, newer than {FORMAT}: update whorl to read it"
        )
    return record


def difference(one: dict[str, Any], other: dict[str, Any]) -> str:
    """The first thing that two records of boards have otherwise."""
    for key in sorted(set(one) | set(other)):
        if one.get(key) == other.get(key):
            continue
        if key != "rows":
            return f"{key} is {one.get(key)!r}, recomputed {other.get(key)!r}"
        for mine, yours in zip(one.get(key, []), other.get(key, []), strict=False):
            if mine != yours:
                return f"row {mine}, recomputed {yours}"
        return f"{len(one.get(key, []))} rows, recomputed {len(other.get(key, []))}"
    return "same content, different bytes (spaces or key order)"
