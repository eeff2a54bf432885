"""A store as files that either database reads back: one JSON-lines file a table, and a manifest.

The same form serves SQLite and PostgreSQL, so that a small team's file moves to a server by backup
and restore. Rows are lists in the order of the manifest's columns, sorted by primary key.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from whorl.arena.store import chain, parts
from whorl.arena.store.migrate import revision
from whorl.arena.store.records import Head
from whorl.arena.store.schema import VERSION_TABLE
from whorl.base.errors import DataError, InputError
from whorl.base.files import read_json, write_json
from whorl.base.posix import fsync_directory

FORMAT = 1
MANIFEST = "manifest.json"
AT_ONCE = 500  # rows a statement


def write_dump(connection: Connection, folder: Path) -> dict[str, Any]:
    """Write every table of ours to `folder`, which must not exist; its manifest.

    `connection` is in a transaction that sees one moment. The folder has its name only when it is
    whole and on disk.
    """
    if folder.exists():
        raise InputError(f"{folder} exists; choose a new name, since backups are never overwritten")
    part = parts.fresh(folder)
    try:
        manifest = {
            "format": FORMAT,
            "kind": "whorl arena store",
            "revision": revision(connection),
            "created": time.time(),
            "head": str(chain.head(connection)),
            "tables": {table.name: _write_table(connection, table, part) for table in _tables(connection)},
        }
        write_json(part / MANIFEST, manifest)
        fsync_directory(part)
        part.rename(folder)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    fsync_directory(folder.parent)
    return manifest


def _tables(connection: Connection) -> list[sa.Table]:
    """Our tables as they are in the database, whatever its revision; those referred to first."""
    found = sa.MetaData()
    found.reflect(connection, only=lambda name, _: name.startswith("arena_") and name != VERSION_TABLE)
    return found.sorted_tables


def _write_table(connection: Connection, table: sa.Table, folder: Path) -> dict[str, Any]:
    digest, rows = hashlib.sha256(), 0
    found = connection.execute(
        sa.select(table).order_by(*table.primary_key.columns), execution_options={"yield_per": AT_ONCE}
    )
    with open(folder / f"{table.name}.jsonl", "wb") as file:
        for row in found:
            line = (json.dumps(list(row), ensure_ascii=False, separators=(",", ":")) + "\n").encode("utf-8")
            digest.update(line)
            file.write(line)
            rows += 1
        file.flush()
        os.fsync(file.fileno())
    columns = [column.name for column in table.columns]
    return {"columns": columns, "rows": rows, "sha256": digest.hexdigest()}


def read_manifest(folder: Path) -> dict[str, Any]:
    if not (folder / MANIFEST).is_file():
        raise InputError(f"{folder} is not a backup of a store: it has no {MANIFEST}")
    manifest = read_json(folder / MANIFEST, what="manifest")
    if not isinstance(manifest, dict) or manifest.get("kind") != "whorl arena store":
        raise DataError(f"{folder / MANIFEST} is not the manifest of a store's backup")
    if not isinstance(manifest.get("format"), int) or manifest["format"] > FORMAT:
        raise InputError(f"{folder} was written by a newer whorl; pip install --upgrade 'whorl[arena]'")
    return manifest


def check_dump(folder: Path) -> dict[str, Any]:
    """Read everything back from disk: hashes, counts, and the chain. The manifest, and in it how many
    `votes` there are; DataError with file and place where something is not as it was written."""
    manifest = read_manifest(folder)
    previous, seq, votes = "", 0, 0
    for name, table in manifest["tables"].items():
        digest, count = hashlib.sha256(), 0
        for number, line in _lines(folder / f"{name}.jsonl"):
            digest.update(line)
            count += 1
            row = _row(line, table["columns"], f"{folder / name}.jsonl:{number}")
            if name == "arena_log":
                wanted = row.pop("hash")
                if row["previous"] != previous or row["seq"] != seq + 1 or chain.entry_hash(**row) != wanted:
                    raise DataError(f"{folder / name}.jsonl:{number}: the chain of votes breaks here")
                previous, seq, votes = wanted, row["seq"], votes + (row["kind"] == "vote")
        if digest.hexdigest() != table["sha256"] or count != table["rows"]:
            raise DataError(f"{folder / name}.jsonl was changed; use another backup")
    if str(Head(seq, previous)) != manifest["head"]:
        raise DataError(f"{folder}: the chain of votes ends at {seq}, the manifest says {manifest['head']}")
    return {**manifest, "votes": votes}


def load_dump(connection: Connection, folder: Path, manifest: dict[str, Any]) -> None:
    """Fill the empty tables of the dump's revision."""
    tables = _tables(connection)
    unknown = set(manifest["tables"]) - {table.name for table in tables}
    if unknown:
        raise DataError(f"{folder}: table {min(unknown)} is not of revision {manifest['revision']}")
    for table in tables:
        if table.name not in manifest["tables"]:
            continue
        columns = manifest["tables"][table.name]["columns"]
        path = folder / f"{table.name}.jsonl"
        rows = (_row(line, columns, f"{path}:{number}") for number, line in _lines(path))
        while batch := list(islice(rows, AT_ONCE)):
            connection.execute(sa.insert(table), batch)
        if connection.dialect.name == "postgresql":
            _continue_numbers(connection, table)


def _continue_numbers(connection: Connection, table: sa.Table) -> None:
    """PostgreSQL numbers new rows by a sequence of its own, which knows nothing of loaded rows."""
    name = sa.func.pg_get_serial_sequence(table.name, "id")
    if "id" not in table.c or connection.execute(sa.select(name)).scalar() is None:
        return
    last = sa.select(sa.func.max(table.c.id)).scalar_subquery()
    connection.execute(sa.select(sa.func.setval(name, sa.func.coalesce(last, 1), last.is_not(None))))


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    try:
        with open(path, "rb") as file:
            yield from enumerate(file, start=1)
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing from the backup; use another one") from error


def _row(line: bytes, columns: list[str], where: str) -> dict[str, Any]:
    try:
        values = json.loads(line)
        return dict(zip(columns, values, strict=True))
    except (ValueError, TypeError) as error:
        raise DataError(
            f"{where}: not a row of {len(columns)} columns ({error}); use another backup"
        ) from error
