"""Documents that were kept and ones that were not, a page at a time, however many there are."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from whorl.base.errors import DataError

PAGE = 8
SHOWN, WHOLE = 420, 30_000  # characters at once, and when it is opened
SEARCHED = 48 << 20  # bytes of rejects that are looked through for one page
COLUMNS = ["id", "text", "source", "line", "title", "kind", "split"]


@dataclass(frozen=True)
class Rejects:
    """Some of the rejects, and where the next ones begin ("" at the end). `searched` says that the page
    ended because enough had been looked through."""

    records: list[dict[str, Any]]
    after: str
    searched: bool


def kept(folder: Path, manifest: dict[str, Any], page: int) -> list[dict[str, Any]]:
    """Page `page` (from 1) of the documents, each with its signals: of all, one row group is read."""
    import pyarrow as pa

    skip = (page - 1) * PAGE
    found: list[dict[str, Any]] = []
    for name, entry in manifest["files"].items():
        if not name.startswith("documents/"):
            continue
        if skip >= entry["rows"]:
            skip -= entry["rows"]
            continue
        try:
            rows = _rows(folder / name, skip, PAGE - len(found), COLUMNS)
            beside = folder / name.replace("documents/", "signals/", 1)
            signals = _rows(beside, skip, len(rows), None) if beside.is_file() else [{} for _ in rows]
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{folder / name} cannot be read: {str(error).splitlines()[0]}") from error
        found += [shown(row | {"signals": _numbers(said)}) for row, said in zip(rows, signals, strict=True)]
        skip = 0
        if len(found) == PAGE:
            break
    return found


def _rows(path: Path, skip: int, count: int, columns: list[str] | None) -> list[dict[str, Any]]:
    """Rows `skip` to `skip + count` of a table, from the row groups that hold them."""
    import pyarrow.parquet as pq

    found: list[dict[str, Any]] = []
    with pq.ParquetFile(path) as table:
        for group in range(table.num_row_groups):
            rows = table.metadata.row_group(group).num_rows
            if skip >= rows:
                skip -= rows
                continue
            found += table.read_row_group(group, columns=columns).slice(skip, count - len(found)).to_pylist()
            skip = 0
            if len(found) == count:
                break
    return found


def _numbers(signals: dict[str, Any]) -> list[tuple[str, str]]:
    """A document's signals; of those with spans, how many there are."""
    told = []
    for name, value in signals.items():
        if isinstance(value, list):
            told.append((name, f"{len(value)} spans"))
        elif isinstance(value, float):
            told.append((name, f"{value:.4g}"))
    return told


def rejects(folder: Path, manifest: dict[str, Any], step: str, reason: str, after: str) -> Rejects:
    """The next page of rejects of a step and reason ("" for any) from the place `after` on."""
    files = [name for name in manifest["files"] if name.startswith("rejects/")]
    number, place = _read_place(after)
    records: list[dict[str, Any]] = []
    left = SEARCHED
    while number < len(files):
        with open(folder / files[number], "rb") as file:
            file.seek(place)
            while line := file.readline():
                place += len(line)
                left -= len(line)
                record = _parse(line, folder / files[number])
                if step in ("", record["step"]) and reason in ("", record["reason"]):
                    records.append(shown(record | {"text": original(record)}))
                if len(records) == PAGE or left <= 0:
                    return Rejects(records, _place(files, folder, number, place), len(records) < PAGE)
        number, place = number + 1, 0
    return Rejects(records, "", False)


def _parse(line: bytes, path: Path) -> dict[str, Any]:
    try:
        record = json.loads(line)
        return {name: record[name] for name in ("step", "reason", "source", "line")} | record
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: not a reject's record: {error!r}") from error


def _place(files: list[str], folder: Path, number: int, place: int) -> str:
    if place >= (folder / files[number]).stat().st_size:
        number, place = number + 1, 0
    return f"{number}.{place}" if number < len(files) else ""


def _read_place(after: str) -> tuple[int, int]:
    number, _, place = after.partition(".")
    return (int(number), int(place)) if number.isdecimal() and place.isdecimal() else (0, 0)


def original(record: dict[str, Any]) -> str:
    """A reject's text; of bytes that are no text, what can be read of them."""
    if "document" in record:
        return str(record["document"].get("text", ""))
    if "base64" in record:
        return base64.b64decode(record["base64"]).decode("utf-8", "replace")
    return str(record.get("text", ""))


def shown(record: dict[str, Any]) -> dict[str, Any]:
    """With the beginning of its text, and the rest as far as a page takes it."""
    text = record["text"]
    return record | {
        "start": text[:SHOWN], "rest": text[SHOWN:WHOLE] if len(text) > SHOWN else "",
        "cut": max(len(text) - WHOLE, 0), "characters": len(text),
    }  # fmt: skip
