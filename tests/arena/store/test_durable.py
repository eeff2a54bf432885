"""A transaction that has ended well is on disk, whatever the database's own default."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from whorl.arena.store import Store
from whorl.arena.store.database import CHAIN, Database

FULL = 2  # SQLite's number for it


def test_a_writer_waits_for_the_disk(store: Store) -> None:
    database = store.database
    with database.write() as connection:
        if database.sqlite:
            assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == FULL
            assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        else:
            assert connection.exec_driver_sql("SHOW synchronous_commit").scalar() == "on"


def test_where_the_server_s_default_is_not_to_wait(store: Store) -> None:
    """PostgreSQL's setting can be a database's own; a locked transaction is synced after its commit."""
    if store.database.sqlite:
        return  # it has no such default: a connection says what it wants
    with store.database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        name = connection.exec_driver_sql("SELECT current_database()").scalar()
        connection.exec_driver_sql(f"ALTER DATABASE {name} SET synchronous_commit = off")
    with sa.create_engine(store.database.url).connect() as plain:
        assert plain.exec_driver_sql("SHOW synchronous_commit").scalar() == "off"
    database, seen = Database(store.database.url.render_as_string(hide_password=False)), []

    def heard(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        level = cursor.connection.execute("SHOW synchronous_commit").fetchone()[0]
        seen.append((statement, level))

    with database.write() as connection:
        assert connection.exec_driver_sql("SHOW synchronous_commit").scalar() == "on"
    sa.event.listen(database.engine, "before_cursor_execute", heard)
    with database.write() as connection:
        database.lock(connection, CHAIN)
        assert connection.exec_driver_sql("SHOW synchronous_commit").scalar() == "off"
    database.close()
    assert "pg_logical_emit_message" in seen[-1][0] and seen[-1][1] == "on"
