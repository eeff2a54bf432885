"""The records of a csv, tsv, jsonl or JSON file, plain or gzipped, each with its line."""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TextIO

from whorl.base.errors import InputError

LINES, ARRAYS = (".jsonl", ".ndjson"), (".json",)  # any other ending: a table
LONGEST_FIELD = 1 << 30  # a row may carry whole conversations
Record = tuple[int, Mapping[str, Any] | str]


class TableReader(Protocol):
    """What the reader of a table says of it."""

    def of_table(self, header: Sequence[str], line: int) -> Sequence[str]:
        """The columns by the names they are read under; raises where the table cannot be used."""
        ...

    def is_one_line(self, column: str) -> bool:
        """Whether a cell of this column can hold no line break."""
        ...

    def looks_whole(self, row: Mapping[str, str]) -> bool:
        """Whether a row would do by itself."""
        ...


def records(path: Path, table: TableReader) -> Iterator[Record]:
    """(line, row) of every record, or (line, why it is none); `table` is asked about tables alone.

    Raises `InputError` where the file as a whole cannot be read.
    """
    name = path.name.removesuffix(".gz")
    try:
        with _open(path) as file:
            if name.endswith(LINES):
                yield from _json_lines(file)
            elif name.endswith(ARRAYS):
                yield from _json_array(path, file)
            else:
                yield from _csv_rows(path, file, table)
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist; give a file of battles") from error
    except (OSError, EOFError, zlib.error) as error:  # gzip's BadGzipFile is an OSError
        raise InputError(f"{path} cannot be read to the end: {error}") from error


def _open(path: Path) -> TextIO:
    if path.is_dir():
        raise InputError(f"{path} is a directory; give a file of battles (csv or jsonl)")
    raw = gzip.GzipFile(path) if path.suffix == ".gz" else open(path, "rb")
    try:  # a pipe is read once: what is looked at stays in the buffer
        wide = raw.peek(2)[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)  # as spreadsheets may save
    except BaseException:
        raw.close()
        raise
    # Bytes that are not UTF-8 become surrogates, and only the rows that use them are refused.
    encoding, errors = ("utf-16", "replace") if wide else ("utf-8-sig", "surrogateescape")
    return io.TextIOWrapper(raw, encoding=encoding, errors=errors, newline="")


# -- JSON ----------------------------------------------------------------------------------------------


def _json_lines(file: TextIO) -> Iterator[Record]:
    for number, line in enumerate(file, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            yield number, f"not valid JSON: {error.msg} at column {error.colno}"
        except (RecursionError, ValueError) as error:
            yield number, _beyond(error)
        else:
            yield number, row if isinstance(row, dict) else "not a JSON object"


def _json_array(path: Path, file: TextIO) -> Iterator[Record]:
    try:
        rows = json.load(file)
    except json.JSONDecodeError as error:
        remedy = "; use .jsonl for one object per line" if error.msg == "Extra data" else ""
        raise InputError(f"{path}:{error.lineno}: not valid JSON: {error.msg}{remedy}") from error
    except (RecursionError, ValueError) as error:
        raise InputError(f"{path}: {_beyond(error)}") from error
    if isinstance(rows, dict) and isinstance(rows.get("battles"), list):
        rows = rows["battles"]
    if not isinstance(rows, list):
        raise InputError(f"{path} is not a JSON array of battles; use .jsonl for one object per line")
    for number, row in enumerate(rows, start=1):
        yield number, row if isinstance(row, dict) else "not a JSON object"


def _beyond(error: Exception) -> str:
    """What Python's parser does not go into, though it is JSON."""
    deep = isinstance(error, RecursionError)
    return "JSON that is nested too deeply" if deep else "JSON with a number of thousands of digits"


# -- tables --------------------------------------------------------------------------------------------


class _Lines:
    """A file's lines, with those that the row being read was made of."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self.number = 0  # of the last line read
        self.row: list[str] = []
        self.ended = False

    def __iter__(self) -> Iterator[str]:
        for line in self._file:
            self.number += 1
            self.row.append(line)
            yield line
        self.ended = True


def _csv_rows(path: Path, file: TextIO, table: TableReader) -> Iterator[Record]:
    lines = _Lines(file)
    through = iter(lines)
    first = next((line for line in through if line.strip()), "")
    if not first:
        raise InputError(f"{path} is empty; its first line must name the columns: model_a,model_b,winner")
    delimiter = max(",;\t|", key=first.count)
    before = csv.field_size_limit(LONGEST_FIELD)
    try:
        start = lines.number
        rows = csv.reader(_after(first, through), delimiter=delimiter)
        header = table.of_table([name.strip() for name in next(rows)], start)
        if lines.ended:
            raise InputError(_unclosed(path, start, lines.row[start - 1 :], delimiter))
        spans = _Spans(path, header, table, delimiter)
        while True:
            lines.row.clear()
            number = lines.number + 1
            try:
                row = next(rows)
            except StopIteration:
                return
            except csv.Error as error:
                yield number, f"not valid csv: {error}"
                continue
            if lines.ended:  # the reader wants another line in the midst of a quoted field alone
                raise InputError(_unclosed(path, number, lines.row, delimiter))
            if len(lines.row) > 1:
                spans.check(number, lines.row, row)
            if len(row) == len(header):
                yield number, dict(zip(header, row, strict=True))
            elif row:
                yield number, f"{len(row)} fields, but the first line names {len(header)}"
    finally:
        csv.field_size_limit(before)


def _after(first: str, rest: Iterator[str]) -> Iterator[str]:
    yield first
    yield from rest


class _Spans:
    """Rows of several lines: a quote that was left open takes other rows into its field, until one comes
    that has a quote as well. A row that may be such a one is refused with the file: who reads on would lose
    the votes in it in silence."""

    def __init__(self, path: Path, header: Sequence[str], table: TableReader, delimiter: str) -> None:
        self.path, self.header, self.table, self.delimiter = path, header, table, delimiter

    def check(self, number: int, lines: Sequence[str], row: Sequence[str]) -> None:
        """`lines` from `number` on were read as `row`."""
        swallowed = len(row) != len(self.header) or any(
            ("\n" in cell or "\r" in cell) and self.table.is_one_line(name)
            for name, cell in zip(self.header, row, strict=True)
        )
        if swallowed or any(map(self._is_row, lines[1:-1])):  # the last may hold the end of a field
            raise InputError(
                f"{self.path}:{number}: a quote opens here, and lines {number} to {number + len(lines) - 1}"
                " were read as one row; close it, or double it if it is part of the text"
            )

    def _is_row(self, line: str) -> bool:
        if line.count(self.delimiter) < len(self.header) - 1:
            return False
        cells = next(csv.reader([line], delimiter=self.delimiter))
        return len(cells) == len(self.header) and self.table.looks_whole(
            dict(zip(self.header, cells, strict=True))
        )


def _unclosed(path: Path, number: int, lines: Sequence[str], delimiter: str) -> str:
    """The line of a row's quote that stays open to the end of the file."""
    opened, state = number, "field begins"
    for place, line in enumerate(lines):
        for letter in line:
            if letter == '"' and state == "field begins":
                opened, state = number + place, "quoted"
            elif letter == '"' and state in ("quoted", "quote"):  # in a quote, a second one stands for itself
                state = "quote" if state == "quoted" else "quoted"
            elif state != "quoted":
                state = "field begins" if letter == delimiter else "in a field"
    return (
        f"{path}:{opened}: a quote opens here and is never closed, so everything after it is one"
        " field; close it, or double it if it is part of the text"
    )
