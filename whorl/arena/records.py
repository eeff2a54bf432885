"""The records of a csv, tsv, jsonl or JSON file, plain or gzipped, each with its line."""

from __future__ import annotations

import csv
import gzip
import json
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from whorl.base.errors import InputError

LINES, ARRAYS = (".jsonl", ".ndjson"), (".json",)  # any other ending: a table
LONGEST_FIELD = 1 << 30  # a row may carry whole conversations


def records(
    path: Path, check: Callable[[Sequence[str]], None]
) -> Iterator[tuple[int, Mapping[str, Any] | str]]:
    """(line, row) of every record, or (line, why it is none); `check` sees a table's header first.

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
                yield from _csv_rows(path, file, check)
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


def _csv_rows(
    path: Path, file: TextIO, check: Callable[[Sequence[str]], None]
) -> Iterator[tuple[int, Mapping[str, Any] | str]]:
    first = file.readline()
    if not first.strip():
        raise InputError(f"{path} is empty; its first line names the columns: model_a,model_b,winner")
    delimiter = max(",;\t|", key=first.count)
    header = [name.strip() for name in next(csv.reader([first], delimiter=delimiter))]
    check(header)
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
