"""`whorl backup` and `whorl restore`: a workspace's votes and the small files of its runs.

A backup is a folder: `whorl-backup.json` with the hash of every file, `store/` (see `dump`) and
`files/` as they lie in the workspace. Weights and checkpoints are listed, not copied. Nothing is ever
written over: neither a backup, nor a store, nor a file that differs.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from whorl import __version__
from whorl.arena.store import chain, parts
from whorl.arena.store.database import SCHEMA, Database, use_write_ahead_log
from whorl.arena.store.dump import check_dump, load_dump, write_dump
from whorl.arena.store.heads import HeadNotes
from whorl.arena.store.migrate import alembic_config, known_revisions, refusal, refuse_none, upgrade
from whorl.arena.store.records import Head
from whorl.arena.store.schema import metadata
from whorl.arena.store.store import Store, default_store
from whorl.base.errors import DataError, InputError
from whorl.base.files import CHUNK, atomic_write, read_json, sha256_file, write_json
from whorl.base.posix import fsync_directory
from whorl.base.runs import find_runs

FORMAT = 1
MANIFEST = "whorl-backup.json"
SMALL = 64 << 20  # bytes; a larger file is listed only
SUFFIXES = frozenset({".toml", ".json", ".jsonl", ".html", ".csv", ".jinja", ".txt", ".md", ".svg"})
CHECKPOINTS = "checkpoints"


@dataclass(frozen=True, kw_only=True)
class Backup:
    """A backup that was read back and is whole. `left_out` is {path: bytes} of what was too large."""

    path: Path
    head: Head | None  # of the votes; None where the workspace has no store
    votes: int
    files: int
    left_out: dict[str, int]


def backup_workspace(
    target: str | Path, *, workspace: str | Path = ".", store: str | Path | None = None
) -> Backup:
    """Back up `workspace` to the folder `target`, which must not exist, and read it back.

    `store` is the store's address (the workspace's own). Votes may come in meanwhile: the backup holds
    one moment. A file that a run is just writing is copied as far as it is.
    """
    target, workspace = Path(target), Path(workspace)
    if target.exists() or target.is_symlink():
        raise InputError(f"{target} exists; choose a new name, since backups are never overwritten")
    if not workspace.is_dir():
        raise InputError(f"workspace {workspace} is not a directory")
    part = parts.fresh(target)
    try:
        held = _dump_store(store, workspace, part / "store")
        files, left_out = _copy_files(workspace, part / "files")
        if not held and not files:
            raise InputError(f"nothing to back up: {workspace} contains neither a store of votes nor runs")
        write_json(part / MANIFEST, {
            "format": FORMAT, "kind": "whorl workspace", "whorl": __version__, "created": time.time(),
            "store": held, "files": files, "left_out": left_out,
        })  # fmt: skip
        made = check_backup(part)
        part.rename(target)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    fsync_directory(target.parent)
    return Backup(path=target, head=made.head, votes=made.votes, files=made.files, left_out=left_out)


def _dump_store(store: str | Path | None, workspace: Path, folder: Path) -> bool:
    database = Database(store if store is not None else default_store(workspace))
    if store is None and database.path is not None and not database.path.is_file():
        return False
    try:
        refuse_none(database)
        with database.read() as connection:
            head = Head.parse(write_dump(connection, folder)["head"])
        database.sync()
        HeadNotes.of(database, default_store(workspace).parent).add(head)
    finally:
        database.close()
    return True


def _copy_files(workspace: Path, folder: Path) -> tuple[dict[str, Any], dict[str, int]]:
    """{path: {sha256, size}} of what was copied, and {path: size} of what was not."""
    copied: dict[str, Any] = {}
    left_out: dict[str, int] = {}
    for path in sorted(_files_of_runs(workspace)):
        name, size = path.relative_to(workspace).as_posix(), path.stat().st_size
        inside = PurePosixPath(name).parts
        if path.suffix not in SUFFIXES or size > SMALL or CHECKPOINTS in inside:
            left_out[name] = size
            continue
        copied[name] = _copy(path, folder / name)
    return copied, left_out


def _files_of_runs(workspace: Path) -> Iterator[Path]:
    """Regular files in runs, but for those inside of backups; a run inside a run counts once."""
    seen: set[Path] = set()
    for run in find_runs(workspace):
        if any((above / MANIFEST).is_file() for above in (run, *run.parents)):
            continue
        for path in run.rglob("*"):
            if path not in seen and path.is_file() and not path.is_symlink():
                seen.add(path)
                yield path


def _copy(source: Path, target: Path) -> dict[str, Any]:
    digest, size = hashlib.sha256(), 0
    with open(source, "rb") as file, atomic_write(target, "wb") as out:
        while block := file.read(CHUNK):
            digest.update(block)
            size += len(block)
            out.write(block)
    return {"sha256": digest.hexdigest(), "size": size}


# -- reading back ----------------------------------------------------------------------------------


def check_backup(folder: str | Path) -> Backup:
    """Read a whole backup: every hash, every row, the chain. DataError names the file that is not as
    it was written."""
    folder = Path(folder)
    manifest = read_manifest(folder)
    for name, wanted in manifest["files"].items():
        path = folder / "files" / inside(name)
        if not path.is_file() or sha256_file(path) != wanted["sha256"]:
            raise DataError(f"{path} is missing or was changed; use another backup")
    head, votes = None, 0
    if manifest["store"]:
        dump = check_dump(folder / "store")
        head, votes = Head.parse(dump["head"]), dump["votes"]
    return Backup(
        path=folder, head=head, votes=votes, files=len(manifest["files"]), left_out=manifest["left_out"]
    )


def read_manifest(folder: Path) -> dict[str, Any]:
    if not (folder / MANIFEST).is_file():
        raise InputError(f"{folder} is not a backup: it has no {MANIFEST}; make one with whorl backup")
    manifest = read_json(folder / MANIFEST, what="backup's manifest")
    if not isinstance(manifest, dict) or manifest.get("kind") != "whorl workspace":
        raise DataError(f"{folder / MANIFEST} is not the manifest of a workspace's backup")
    if not isinstance(manifest.get("format"), int) or manifest["format"] > FORMAT:
        raise InputError(f"{folder} was written by a newer whorl; pip install --upgrade whorl")
    return manifest


def inside(name: str) -> PurePosixPath:
    """A path that stays in the folder it is joined to, whoever wrote the manifest."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name or not path.parts:
        raise DataError(f"the manifest names {name!r}, which is outside the workspace; use another backup")
    return path


# -- restoring -------------------------------------------------------------------------------------


def restore_workspace(
    backup: str | Path, *, workspace: str | Path = ".", store: str | Path | None = None
) -> Backup:
    """Put a backup back where nothing is: its store to `store` (the workspace's own), its files into
    `workspace`. A folder that a migration's backup left, which holds a store alone, is taken as well.

    Everything is checked first; InputError, and nothing written, where a store is there already or a
    file with other content.
    """
    backup, workspace = Path(backup), Path(workspace)
    if (backup / MANIFEST).is_file():
        made = check_backup(backup)
        manifest = read_manifest(backup)
        dump = backup / "store" if manifest["store"] else None
    else:
        found = check_dump(backup)
        made = Backup(path=backup, head=Head.parse(found["head"]), votes=found["votes"], files=0, left_out={})
        manifest, dump = {"files": {}}, backup
    wanted = _wanted_files(manifest["files"], workspace)
    if dump is not None:
        restore_store(dump, store if store is not None else default_store(workspace), workspace)
    for name in wanted:
        _copy(backup / "files" / inside(name), workspace / inside(name))
    return made


def _wanted_files(files: dict[str, Any], workspace: Path) -> list[str]:
    wanted = []
    for name, entry in files.items():
        path = workspace / inside(name)
        if not path.exists():
            wanted.append(name)
        elif not path.is_file() or sha256_file(path) != entry["sha256"]:
            raise InputError(f"{path} exists and differs from the backup; restore into another workspace")
    return wanted


def restore_store(folder: Path, address: str | Path, workspace: Path) -> None:
    """A store from its dump: on a new file, or in a PostgreSQL database that holds none. Heads that were
    noted there of a store that is gone are set aside."""
    manifest = check_dump(folder)
    if manifest["revision"] not in known_revisions():
        raise refusal(folder, manifest["revision"])
    database, arena = Database(address), default_store(workspace).parent
    try:
        if database.path is None:
            _fill(database, folder, manifest)
        else:
            _fill_file(database.path, folder, manifest)
        HeadNotes.of(database, arena).set_aside()
    finally:
        database.close()
    with Store.open(
        address, backups=arena / "backups"
    ) as store:  # migrates it, where the dump is older than this code
        found = store.verify(manifest["head"])
    if not found.ok:
        raise DataError(
            f"store {address} was restored as backed up, but was already damaged: {found.problem}"
        )


def _fill_file(path: Path, folder: Path, manifest: dict[str, Any]) -> None:
    """Under another name first, so that no half store ever has the name."""
    if path.exists():
        raise InputError(f"{path} exists; give --store another file, since stores are never overwritten")
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    remove_store(part)
    database = Database(part)
    try:
        use_write_ahead_log(database)
        _fill(database, folder, manifest)
        database.scrub()
        database.close()
        os.link(part, path)  # fails where a file came meanwhile
    except FileExistsError as error:
        raise InputError(
            f"{path} exists; give --store another file, since stores are never overwritten"
        ) from error
    finally:
        database.close()
        remove_store(part)
    fsync_directory(path.parent)


def remove_store(path: Path) -> None:
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def _fill(database: Database, folder: Path, manifest: dict[str, Any]) -> None:
    with database.write() as connection:
        database.lock(connection, SCHEMA)
        _refuse_a_store(database, connection)
        upgrade(connection, alembic_config(), manifest["revision"])
        load_dump(connection, folder, manifest)
        if str(chain.head(connection)) != manifest["head"]:
            raise DataError(f"{folder}: the votes read back do not match the manifest")


def _refuse_a_store(database: Database, connection: Connection) -> None:
    if set(sa.inspect(connection).get_table_names()) & set(metadata.tables):
        raise InputError(f"{database} already contains a store; give --store an empty database")
