"""Battles from a file: csv, tsv, jsonl or a JSON array, plain or gzipped.

A row needs `model_a`, `model_b` and `winner`; every other column is used where it is there (`COLUMNS`
says under which names). A row that is no battle is kept out with `file:line: why`, never guessed at.
"""

from __future__ import annotations

import csv
import gzip
import json
import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

from whorl.arena.battles import BOTH_BAD, MODEL_A, MODEL_B, TIE, Battles
from whorl.arena.style import STYLES
from whorl.base.errors import InputError
from whorl.base.fields import nearest

# What may be called what: FastChat's files, Kaggle's and ours.
COLUMNS: dict[str, tuple[str, ...]] = {
    "time": ("time", "tstamp", "timestamp", "created_at"),
    "probability": ("probability", "propensity"),
    "voter": ("voter", "user", "judge"),
    "category": ("category",),
    "prompt": ("prompt", "prompt_hash", "question_id"),
}
ONE_HOT = {"winner_model_a": MODEL_A, "winner_model_b": MODEL_B, "winner_tie": TIE}  # Kaggle's
WORDS: dict[str, int] = {
    "model_a": MODEL_A,
    "a": MODEL_A,
    "left": MODEL_A,
    "model_b": MODEL_B,
    "b": MODEL_B,
    "right": MODEL_B,
    "tie": TIE,
    "draw": TIE,
    "tie (bothbad)": BOTH_BAD,
    "bothbad": BOTH_BAD,
    "both_bad": BOTH_BAD,
}
# FastChat's jsonl keeps the counts of replies in `conv_metadata`, some by kind: {"h1": 2, "h2": 1, …}.
METADATA = {
    "tokens": "sum_assistant_{}_tokens",
    "headers": "header_count_{}",
    "lists": "list_count_{}",
    "bold": "bold_count_{}",
}
LONGEST_FIELD = 1 << 30  # a row may carry whole conversations
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
    rows = _rows(path)
    for place, row in rows:
        columns.add(place, row)
    return columns.finish()


def _rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any] | str]]:
    """(line, row) of every record, or (line, why it is none)."""
    name = path.name.removesuffix(".gz")
    try:
        with _open(path) as file:
            if name.endswith((".jsonl", ".ndjson")):
                yield from _json_lines(file)
            elif name.endswith(".json"):
                yield from _json_array(path, file)
            else:
                yield from _csv_rows(path, file)
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist; give a file of battles") from error
    except (OSError, EOFError, zlib.error) as error:  # gzip's BadGzipFile is an OSError
        raise InputError(f"{path} cannot be read to its end: {error}") from error


def _open(path: Path) -> TextIO:
    if path.is_dir():
        raise InputError(f"{path} is a directory; give a file of battles (csv or jsonl)")
    # Bytes that are not UTF-8 become surrogates, and only the rows that use them are refused.
    options: dict[str, str] = {"encoding": "utf-8-sig", "errors": "surrogateescape", "newline": ""}
    if path.suffix == ".gz":
        return gzip.open(path, "rt", **options)  # type: ignore[call-overload]
    return open(path, **options)  # type: ignore[call-overload]


def _json_lines(file: TextIO) -> Iterator[tuple[int, Mapping[str, Any] | str]]:
    for number, line in enumerate(file, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            yield number, f"not valid JSON: {error.msg} at column {error.colno}"
            continue
        yield number, row if isinstance(row, dict) else "not a JSON object"


def _json_array(path: Path, file: TextIO) -> Iterator[tuple[int, Mapping[str, Any] | str]]:
    try:
        rows = json.load(file)
    except json.JSONDecodeError as error:
        raise InputError(f"{path}:{error.lineno}: not valid JSON: {error.msg}") from error
    if not isinstance(rows, list):
        raise InputError(f"{path} holds no JSON array of battles; one object a line goes into a .jsonl")
    for number, row in enumerate(rows, start=1):
        yield number, row if isinstance(row, dict) else "not a JSON object"


def _csv_rows(path: Path, file: TextIO) -> Iterator[tuple[int, Mapping[str, Any] | str]]:
    first = file.readline()
    if not first.strip():
        raise InputError(f"{path} is empty; its first line names the columns: model_a,model_b,winner")
    delimiter = max(",;\t|", key=first.count)
    header = [name.strip() for name in next(csv.reader([first], delimiter=delimiter))]
    _check_columns(path, header)
    before = csv.field_size_limit(LONGEST_FIELD)
    reader = csv.reader(file, delimiter=delimiter)
    try:
        while True:
            number = reader.line_num + 2
            try:
                row = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield number, f"not valid csv: {error}"
                continue
            if len(row) == len(header):
                yield number, dict(zip(header, row, strict=True))
            elif row:
                yield number, f"{len(row)} fields where the first line names {len(header)}"
    finally:
        csv.field_size_limit(before)


def _check_columns(path: Path, header: Sequence[str]) -> None:
    for name in ("model_a", "model_b", "winner"):
        if name in header or (name == "winner" and all(column in header for column in ONE_HOT)):
            continue
        raise InputError(
            f"{path}:1: no column {name!r}{nearest(name, header) if header else ''}"
            " (needed: model_a, model_b, winner)"
        )


class BadRowError(Exception):
    """Why a row is no battle."""


class _Columns:
    """Grows the columns row by row."""

    def __init__(self, path: str, where: tuple[str, str] | None, style: Sequence[str] | None) -> None:
        self.path, self.where, self.style = path, where, style
        self.report = ReadReport()
        self.model_a: list[str] = []
        self.model_b: list[str] = []
        self.winner: list[int] = []
        self.extra: dict[str, list[Any]] = {name: [] for name in COLUMNS}
        self.counts: list[list[tuple[float, float]]] = []
        self.passed_over = 0
        self.where_seen: set[str] = set()

    def add(self, place: int, row: Mapping[str, Any] | str) -> None:
        try:
            if isinstance(row, str):
                raise BadRowError(row)
            if self.where and not self._wanted(row):
                self.passed_over += 1
                return
            model_a, model_b = _name(row, "model_a"), _name(row, "model_b")
            if model_a == model_b:
                raise BadRowError(f"{model_a!r} against itself")
            winner = _winner(row, model_a, model_b)
            extra = [_read(name, _first(row, columns)) for name, columns in COLUMNS.items()]
            if self.style is None:
                self.style = tuple(name for name in STYLES if _has_count(row, name))
            counts = [_count(row, name) for name in self.style]
        except BadRowError as error:
            self.report.bad_count += 1
            if len(self.report.bad) < MOST_KEPT:
                self.report.bad.append(f"{self.path}:{place}: {error}")
            return
        self.model_a.append(model_a)
        self.model_b.append(model_b)
        self.winner.append(winner)
        for name, value in zip(COLUMNS, extra, strict=True):
            self.extra[name].append(value)
        self.counts.append(counts)

    def _wanted(self, row: Mapping[str, Any]) -> bool:
        column, value = self.where  # type: ignore[misc]
        if column not in row:
            raise BadRowError(f"no {column!r}, which --category asks about")
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

        def numbers(name: str) -> list[float]:
            return [math.nan if value is None else value for value in self.extra[name]]

        def words(name: str) -> list[str]:
            return [value or "" for value in self.extra[name]]

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


def _first(row: Mapping[str, Any], columns: Sequence[str]) -> Any:
    for column in columns:
        value = row.get(column)
        if value is not None and value != "":
            return value
    return None


def _text(value: str, what: str) -> str:
    if not value.isascii() and any("\ud800" <= letter <= "\udfff" for letter in value):
        raise BadRowError(f"{what} is not valid UTF-8")
    return value


def _name(row: Mapping[str, Any], column: str) -> str:
    value = row.get(column)
    if not isinstance(value, str) or not value.strip():
        empty = value is None or isinstance(value, str)
        raise BadRowError(f"{column} is {'empty' if empty else 'no text'}")
    return _text(value.strip(), column)


def _winner(row: Mapping[str, Any], model_a: str, model_b: str) -> int:
    value = row.get("winner")
    if value is None and "winner_tie" in row:
        chosen = [
            code for column, code in ONE_HOT.items() if str(row.get(column)).strip() in ("1", "1.0", "True")
        ]
        if len(chosen) != 1:
            raise BadRowError("not exactly one of winner_model_a, winner_model_b and winner_tie is 1")
        return chosen[0]
    if not isinstance(value, str) or not value.strip():
        raise BadRowError("winner is empty")
    word = value.strip()
    if word == model_a:
        return MODEL_A
    if word == model_b:
        return MODEL_B
    code = WORDS.get(word.casefold())
    if code is None:
        raise BadRowError(
            f"winner {_text(word, 'winner')[:60]!r} is none of model_a, model_b, tie, tie (bothbad)"
            " nor one of the two names"
        )
    return code


def _read(name: str, value: Any) -> Any:
    """A cell of one of `COLUMNS` as what it is; None stays None."""
    if value is None:
        return None
    if name == "time":
        return _time(value)
    if name == "probability":
        number = _number(value, name)
        if not 0 < number <= 1:
            raise BadRowError(f"probability {value} is not in (0, 1]")
        return number
    return _text(value if isinstance(value, str) else json.dumps(value, sort_keys=True), name)


def _time(value: Any) -> float:
    """Seconds since 1970, from a number or an ISO 8601 date (without a zone: UTC)."""
    try:
        return _number(value, "time")
    except BadRowError:
        pass
    try:
        when = datetime.fromisoformat(value.strip())
    except (AttributeError, ValueError):
        raise BadRowError(f"time {value!r} is neither seconds since 1970 nor an ISO 8601 date") from None
    return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()


def _number(value: Any, what: str) -> float:
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise BadRowError(f"{what} {value!r} is no number")
    return number


def _has_count(row: Mapping[str, Any], name: str) -> bool:
    return all(_cell(row, name, side) is not None for side in "ab")


def _cell(row: Mapping[str, Any], name: str, side: str) -> Any:
    value = row.get(f"{name}_{side}")
    if value is None and isinstance(row.get("conv_metadata"), dict) and name in METADATA:
        value = row["conv_metadata"].get(METADATA[name].format(side))
    return value


def _count(row: Mapping[str, Any], name: str) -> tuple[float, float]:
    pair = []
    for side in "ab":
        value = _cell(row, name, side)
        if value is None:
            raise BadRowError(f"no {name}_{side}, which style control asks for")
        parts = list(value.values()) if isinstance(value, dict) else [value]
        number = sum(_number(part, f"{name}_{side}") for part in parts)
        if number < 0:
            raise BadRowError(f"{name}_{side} {number:g} is below 0")
        pair.append(number)
    return pair[0], pair[1]
