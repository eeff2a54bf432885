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
    ONE_LINE,
    BadRowError,
    count_of,
    first,
    has_count,
    model_name,
    read_cell,
    saw_names,
    winner_code,
)
from whorl.arena.records import records
from whorl.arena.style import STYLES
from whorl.base.errors import InputError
from whorl.base.fields import nearest

MOST_KEPT = 1000  # bad rows whose text is kept; all are counted


@dataclass
class ReadReport:
    """What was read: good and bad rows; `bad` holds the first lines `file:line: why`. `named` rows are
    votes whose voter saw the models' names; they are left out, as FastChat's own analysis does."""

    good: int = 0
    named: int = 0
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
    for place, row in records(path, columns):
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

    def of_table(self, header: Sequence[str], line: int) -> Sequence[str]:
        """The file is a table with these columns: all that a battle needs and that are asked for must be."""
        header = self._meant(header, line)
        for name in ("model_a", "model_b", "winner"):
            if name in header or (name == "winner" and all(column in header for column in ONE_HOT)):
                continue
            raise InputError(
                f"{self.path}:{line}: no column {name!r}{nearest(name, header) if header else ''}"
                " (needed: model_a, model_b, winner)"
            )
        asked = [] if self.where is None else [(self.where[0], "--category")]
        asked += [(f"{name}_{side}", "--style") for name in self.style or () for side in "ab"]
        for column, option in asked:
            if column not in header:
                raise InputError(
                    f"{self.path}:{line}: no column {column!r}, which {option} needs{nearest(column, header)}"
                )
        there = {name: tuple(word for word in words if word in header) for name, words in COLUMNS.items()}
        self.sources = {name: words for name, words in there.items() if words}
        return header

    def _meant(self, header: Sequence[str], line: int) -> Sequence[str]:
        """Known columns whatever their case (Model_A); one that is there twice is refused."""
        known = {"model_a", "model_b", "winner", *ONE_HOT, *(word for of in COLUMNS.values() for word in of)}
        meant = [
            name.casefold() if name.casefold() in known and name.casefold() not in header else name
            for name in header
        ]
        used = known | {
            f"{name}_{side}" for name in (STYLES if self.style is None else self.style) for side in "ab"
        }
        used |= {self.where[0]} if self.where else set()
        for name in sorted(used):
            if meant.count(name) > 1:
                raise InputError(
                    f"{self.path}:{line}: column {name!r} appears twice; rename or drop one of them"
                )
        return meant

    def is_one_line(self, column: str) -> bool:
        return column in ONE_LINE or column in ONE_HOT

    def looks_whole(self, row: Mapping[str, str]) -> bool:
        try:
            winner_code(row, model_name(row, "model_a"), model_name(row, "model_b"))
        except BadRowError:
            return False
        return True

    def add(self, place: int, row: Mapping[str, Any] | str) -> None:
        try:
            if isinstance(row, str):
                raise BadRowError(row)
            if self.where and not self._wanted(row):
                self.passed_over += 1
                return
            if saw_names(row):
                self.report.named += 1
                return
            model_a, model_b = self._name(row, "model_a"), self._name(row, "model_b")
            if model_a == model_b:
                raise BadRowError(f"{model_a!r} paired with itself")
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
            raise BadRowError(f"no {column!r}, which --category needs")
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
        if self.report.named:
            return (
                f"{self.path} has no blind votes (anony is false in"
                f" {self.report.named:,} rows); only blind votes are rated"
            )
        if self.report.bad:
            return f"{self.path} has no battles that can be rated; the first bad row: {self.report.bad[0]}"
        return f"{self.path} has no battles; each row needs model_a, model_b and winner"
