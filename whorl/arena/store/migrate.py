"""A store brought to the tables this code knows: once, under a lock, after a backup that was checked.

The check of the revision, the backup and the change are one transaction: killed in the middle, the
store is as it was. Code that is older than the store does not touch it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.engine import Connection

from whorl.arena.store.database import SCHEMA, Database, use_write_ahead_log
from whorl.arena.store.schema import VERSION_TABLE, metadata
from whorl.base.errors import FaultError, InputError
from whorl.base.progress import say

MIGRATIONS = Path(__file__).parent / "migrations"


def migrate(
    database: Database, *, backups: Path, revisions: Sequence[Path] = (), target: str = "head"
) -> Path | None:
    """Make the tables, or bring them to revision `target`; the backup's path if one was needed.

    `revisions` are further folders with Alembic revisions; `backups` is where the backup of a store
    goes before it is changed. Raises InputError where the store is newer than this code or the
    database holds something else.
    """
    if database.path is not None:
        if not database.path.parent.is_dir():
            database.path.parent.mkdir(parents=True, exist_ok=True)
        use_write_ahead_log(database)
    config = alembic_config(revisions)
    wanted = resolve(config, target)
    with database.read() as connection:
        if revision(connection) == wanted:
            return None
    with database.write() as connection:
        database.lock(connection, SCHEMA)
        current = revision(connection)
        if current == wanted:
            return None  # another process was first
        refuse_what_is_not_ours(database, connection, current, config)
        backup = _back_up(database, connection, current, wanted, backups) if current else None
        upgrade(connection, config, target)
        if revision(connection) != wanted:
            raise FaultError(f"store {database}: the migration to {wanted} did not happen")
    return backup


def upgrade(connection: Connection, config: Config, target: str) -> None:
    """Run the revisions up to `target` inside the connection's transaction."""
    config.attributes["connection"] = connection
    command.upgrade(config, target)


def alembic_config(revisions: Sequence[Path] = ()) -> Config:
    config = Config()
    config.set_main_option("script_location", _escaped(MIGRATIONS))
    if revisions:
        config.set_main_option("path_separator", "newline")
        places = [MIGRATIONS / "versions", *revisions]
        config.set_main_option("version_locations", "\n".join(map(_escaped, places)))
    return config


def _escaped(path: Path) -> str:
    return str(path).replace("%", "%%")  # Alembic's options are a ConfigParser's


def newest(revisions: Sequence[Path] = ()) -> str:
    """The revision this code reads and writes."""
    return resolve(alembic_config(revisions), "head")


def resolve(config: Config, target: str) -> str:
    script = ScriptDirectory.from_config(config)
    name = script.get_current_head() if target == "head" else script.get_revision(target).revision
    if name is None:
        raise FaultError(f"no migrations in {MIGRATIONS}; reinstall whorl")
    return name


def refuse_none(database: Database) -> None:
    """InputError where there is no store yet; nothing is made by looking."""
    there = database.path is None or database.path.is_file()
    if there:
        with database.read() as connection:
            there = revision(connection) is not None
    if not there:
        raise InputError(f"no store at {database}; give --store a file or a postgresql:// URL that has one")


def enter(database: Database, connection: Connection, wanted: str) -> None:
    """A writer's first step: no migration may run beside it, nor have run since the store was opened.
    Taken before any other lock, so that writers and a migration never wait for each other."""
    query = f"SELECT version_num FROM {VERSION_TABLE}"
    if database.sqlite:
        found = connection.exec_driver_sql(query).scalar_one()
    else:  # one journey for both; SQLAlchemy looks at the first statement's result alone
        sent = connection.exec_driver_sql(f"SELECT 1; LOCK TABLE {VERSION_TABLE} IN ROW SHARE MODE; {query}")
        while sent.cursor.nextset():
            pass
        (found,) = sent.cursor.fetchone() or ("",)
    if found != wanted:
        raise refusal(database, found)


def refuse_newer(database: Database, connection: Connection, wanted: str) -> None:
    """A reader's first step: what a newer whorl has made of the tables, this code may misread."""
    found = connection.exec_driver_sql(f"SELECT version_num FROM {VERSION_TABLE}").scalar_one()
    if found != wanted:
        raise refusal(database, found)


def known_revisions(config: Config | None = None) -> set[str]:
    """All revisions that this code can read."""
    script = ScriptDirectory.from_config(config or alembic_config())
    return {found.revision for found in script.walk_revisions()}


def revision(connection: Connection) -> str | None:
    """The revision of the tables; None where there are none."""
    return MigrationContext.configure(
        connection, opts={"version_table": VERSION_TABLE}
    ).get_current_revision()


def refusal(where: object, found: str) -> InputError:
    return InputError(
        f"store {where} has revision {found}, which this version of whorl does not know;"
        " use the newer one: pip install --upgrade 'whorl[arena]'"
    )


def refuse_what_is_not_ours(
    database: Database, connection: Connection, current: str | None, config: Config
) -> None:
    if current is not None:
        if current not in known_revisions(config):
            raise refusal(database, current)
        return
    tables = set(sa.inspect(connection).get_table_names())
    # A PostgreSQL database may be shared with others; a file of ours holds our tables alone.
    strange = tables if database.sqlite else tables & set(metadata.tables)
    if strange:
        raise InputError(
            f"store {database} holds a table {min(strange)!r} that is not Whorl's; give another file"
            " or database"
        )


def _back_up(database: Database, connection: Connection, current: str, wanted: str, backups: Path) -> Path:
    from whorl.arena.store.dump import check_dump, write_dump

    if not database.sqlite:  # wait for writers, and keep new ones out: see `enter`
        connection.execute(sa.text(f"LOCK TABLE {VERSION_TABLE} IN EXCLUSIVE MODE"))
    path = _unused(backups, f"arena-{current}-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}")
    say(f"arena store {database}: revision {current} to {wanted}; backing up to {path}")
    write_dump(connection, path)
    check_dump(path)
    say(f"backup checked: {path} (whorl restore reads it)")
    return path


def _unused(folder: Path, name: str) -> Path:
    number, path = 1, folder / name
    while path.exists():
        number += 1
        path = folder / f"{name}-{number}"
    return path
