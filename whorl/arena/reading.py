"""Battles from a file: csv, tsv, jsonl or a JSON array, plain or gzipped.

A row needs `model_a`, `model_b` and `winner`; every other column is used where it is there (`COLUMNS`
says under which names). A row that is no battle is kept out with `file:line: why`, never guessed at.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from whorl.arena.battles import Battles
from whorl.arena.cells import (
    COLUMNS,
    ONE_HOT,
    BadRowError,
    count_of,
    first,
    has_count,
    model_name,
    read_cell,
    winner_code,
)
from whorl.arena.records import records
from whorl.arena.style import STYLES
from whorl.base.errors import InputError
from whorl.base.fields import nearest

MOST_KEPT = 1000  # bad rows whose text is kept; all are counted


@dataclass
class ReadReport:
    """What was read: good and bad rows; `bad` holds the first lines `file:line: why`."""

    good: int = 0
    bad_count: int = 0
    bad: list[str] = field(default_factory=list)
    columns: tuple[str, ...] = ()  # of `COLUMNS` and counts of style, those that were used


def read_battles(
    path: str | Path,
    *,
    where: tuple[str, str] | None = None,
    style: Sequence[str] | None = (),
) -> tuple[Battles, ReadReport]:
    """The good rows of a file, and what became of all of them.

    `where=(column, value)` keeps only rows with that value. `style` names counts to read from columns
    `<name>_a`, `<name>_b` (or FastChat's `conv_metadata`); None takes all of tokens, headers, lists
    and bold that the first row has. A row without a count that is asked for is a bad row.
    Raises `InputError` when the file cannot be read, lacks a column, or holds no good row.
    """
    path = Path(path)
    columns = _Columns(str(path), where, style)
    for place, row in records(path, columns.of_table):
        columns.add(place, row)
    return columns.finish()


class _Columns:
    """Grows the columns row by row."""

    def __init__(self, path: str, where: tuple[str, str] | None, style: Sequence[str] | None) -> None:
        self.path, self.where, self.style = path, where, style
        self.report = ReadReport()
        self.model_a: list[str] = []
        self.model_b: list[str] = []
        self.winner: list[int] = []
        self.extra: dict[str, list[Any]] = {name: [] for name in COLUMNS}
        self.sources = COLUMNS  # those of them that can be there
        self.names: dict[Any, str] = {}  # of models, as written and as meant
        self.counts: list[list[tuple[float, float]]] = []
        self.passed_over = 0
        self.where_seen: set[str] = set()

    def of_table(self, header: Sequence[str]) -> None:
        """The file is a table with these columns: all that a battle needs and that are asked for must be."""
        for name in ("model_a", "model_b", "winner"):
            if name in header or (name == "winner" and all(column in header for column in ONE_HOT)):
                continue
            raise InputError(
                f"{self.path}:1: no column {name!r}{nearest(name, header) if header else ''}"
                " (needed: model_a, model_b, winner)"
            )
        asked = [] if self.where is None else [(self.where[0], "--category")]
        asked += [(f"{name}_{side}", "--style") for name in self.style or () for side in "ab"]
        for column, option in asked:
            if column not in header:
                raise InputError(
                    f"{self.path}:1: no column {column!r}, which {option} asks for{nearest(column, header)}"
                )
        there = {name: tuple(word for word in words if word in header) for name, words in COLUMNS.items()}
        self.sources = {name: words for name, words in there.items() if words}

    def add(self, place: int, row: Mapping[str, Any] | str) -> None:
        try:
            if isinstance(row, str):
                raise BadRowError(row)
            if self.where and not self._wanted(row):
                self.passed_over += 1
                return
            model_a, model_b = self._name(row, "model_a"), self._name(row, "model_b")
            if model_a == model_b:
                raise BadRowError(f"{model_a!r} against itself")
            winner = winner_code(row, model_a, model_b)
            extra = [read_cell(name, first(row, columns)) for name, columns in self.sources.items()]
            if self.style is None:
                self.style = tuple(name for name in STYLES if has_count(row, name))
            counts = [count_of(row, name) for name in self.style]
        except BadRowError as error:
            self.report.bad_count += 1
            if len(self.report.bad) < MOST_KEPT:
                self.report.bad.append(f"{self.path}:{place}: {error}")
            return
        self.model_a.append(model_a)
        self.model_b.append(model_b)
        self.winner.append(winner)
        for name, value in zip(self.sources, extra, strict=True):
            self.extra[name].append(value)
        self.counts.append(counts)

    def _name(self, row: Mapping[str, Any], column: str) -> str:
        """Looked up: a file names few models often."""
        written = row.get(column)
        if not isinstance(written, str):
            return model_name(row, column)
        name = self.names.get(written)
        if name is None:
            name = self.names[written] = model_name(row, column)
        return name

    def _wanted(self, row: Mapping[str, Any]) -> bool:
        column, value = self.where  # type: ignore[misc]
        if column not in row:
            raise BadRowError(f"no {column!r}, which --category asks for")
        found = str(row[column])
        if len(self.where_seen) < 100:
            self.where_seen.add(found)
        return found.casefold() == value.casefold()

    def finish(self) -> tuple[Battles, ReadReport]:
        report = self.report
        report.good = len(self.winner)
        if not report.good:
            raise InputError(self._nothing())
        report.columns = tuple(
            name for name, column in self.extra.items() if any(value is not None for value in column)
        )

        def numbers(name: str) -> list[float] | None:
            column = self.extra[name]
            return [math.nan if value is None else value for value in column] if column else None

        def words(name: str) -> list[str] | None:
            column = self.extra[name]
            return [value or "" for value in column] if column else None

        battles = Battles.from_columns(
            self.model_a,
            self.model_b,
            self.winner,
            time=numbers("time"),
            probability=numbers("probability"),
            voter=words("voter"),
            category=words("category"),
            prompt=words("prompt"),
            style_names=tuple(self.style or ()),
            style=self.counts if self.style else None,
        )
        return battles, report

    def _nothing(self) -> str:
        if self.where and self.passed_over:
            column, value = self.where
            return (
                f"{self.path} has no battle with {column} {value!r}{nearest(value, sorted(self.where_seen))}"
            )
        if self.report.bad:
            return f"{self.path} holds no battle that can be rated; the first bad row: {self.report.bad[0]}"
        return f"{self.path} holds no battles: one row each with model_a, model_b and winner"
