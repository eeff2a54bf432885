"""One door to SQLite and PostgreSQL: addresses, transactions, locks, and their errors in one line.

A transaction that has ended well is on disk: SQLite runs in WAL mode with `synchronous=FULL`,
PostgreSQL with `synchronous_commit=on`, whatever the server's own default.
"""

from __future__ import annotations

import os
import random
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import URL, Connection, Engine, make_url

from whorl.arena.store.group_commit import GroupCommit
from whorl.base.errors import DataError, FaultError, InputError
from whorl.base.progress import say

BUSY_SECONDS = 60  # how long a writer waits for the others
SCRUB_SECONDS = 5  # how long an erasure waits for readers
LOOK_AGAIN = (0.0005, 0.003)  # seconds between two looks whether another process has ended its writing
TOO_LARGE = "ids have at most 64 bits; nothing with a larger id is in the store"
DIALECTS = ("sqlite", "postgresql")

# Names of PostgreSQL's advisory locks: numbers that nobody else should use in this database.
CHAIN, PROMPTS, SCHEMA = 0x77686F726C01, 0x77686F726C02, 0x77686F726C03

SYNC = sa.select(sa.func.pg_logical_emit_message(True, "whorl", ""))
UNSYNCED = "whorl_unsynced"  # in a connection's `info`: its commit is still to be synced


class Database:
    """A store's database. `read` and `write` give a connection inside a transaction.

    SQLite has one writer at a time: the threads of a process share commits (see `group_commit`). In
    PostgreSQL writers go side by side but for what they `lock`.
    """

    def __init__(self, address: str | Path) -> None:
        self.url = parse_address(address)
        self.sqlite = self.url.get_backend_name() == "sqlite"
        self.path = Path(self.url.database or "") if self.sqlite else None
        self.engine = _sqlite_engine(self.url) if self.sqlite else _postgresql_engine(self.url)
        self._group = GroupCommit(self.engine, whorl_write=True)

    def __str__(self) -> str:
        return str(self.path) if self.path else self.url.render_as_string(hide_password=True)

    def close(self) -> None:
        self.engine.dispose()

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that sees one moment of the store, however long it reads."""
        with self.faults(), self.engine.connect() as connection:
            if not self.sqlite:
                connection = connection.execution_options(
                    isolation_level="REPEATABLE READ", postgresql_readonly=True
                )
            with connection.begin():
                yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction; when the block has ended well, what it wrote is on disk."""
        if self.sqlite:
            with self.faults(), self._group.write() as connection:
                yield connection
            return
        with self.faults(), self.engine.connect() as connection:
            connection.info.pop(UNSYNCED, None)
            with connection.begin():
                yield connection
            if connection.info.pop(UNSYNCED, False):  # any record will do; this one says nothing
                connection.execution_options(isolation_level="AUTOCOMMIT").execute(SYNC)

    def lock(self, connection: Connection, name: int) -> None:
        """Be the only one under `name` (CHAIN, PROMPTS or SCHEMA) until the transaction ends.
        SQLite's writers are alone anyway.

        PostgreSQL holds locks until a commit is on disk, which would let one writer through a sync.
        So where others wait for CHAIN or PROMPTS the transaction is committed in memory, then synced
        without the lock, together with whoever else is at that point: its record lies before the
        sync's own.
        """
        if self.sqlite:
            return
        wait = f"SELECT pg_advisory_xact_lock({name})"
        if name == SCHEMA:
            connection.exec_driver_sql(wait)
        else:
            connection.info[UNSYNCED] = True
            connection.exec_driver_sql(f"SET LOCAL synchronous_commit = off; {wait}")

    def sync(self) -> None:
        """Wait until all that one can see is on disk. In SQLite nothing is seen before; in PostgreSQL what
        was committed in memory is (see `lock`)."""
        if not self.sqlite:
            with self.faults(), self.engine.connect() as connection:
                connection.execution_options(isolation_level="AUTOCOMMIT").execute(SYNC)

    def scrub(self) -> None:
        """Take what was erased out of the files as well, as far as the database lets us."""
        if not self.sqlite:
            with self.faults(), self.engine.connect() as connection:
                connection = connection.execution_options(isolation_level="AUTOCOMMIT")
                connection.execute(
                    sa.text(
                        "VACUUM arena_contents, arena_conversations, arena_people, arena_prompts,"
                        " arena_prompt_keys, arena_prompt_bands, arena_turn_prompts"
                    )
                )
            return
        # secure_delete wrote zeros into the pages; now the log of pages goes, once nobody reads it.
        with self._group.alone(), self.faults(), self.engine.connect() as connection:
            raw = connection.connection.cursor()
            raw.execute(f"PRAGMA busy_timeout={SCRUB_SECONDS * 1000}")
            busy = raw.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
            raw.execute(f"PRAGMA busy_timeout={BUSY_SECONDS * 1000}")
        if busy:
            say(
                f"store {self}: other readers are active; erased texts stay in {self.path}-wal until"
                " they finish"
            )

    @contextmanager
    def faults(self) -> Iterator[None]:
        """The database's errors as ours, one line each."""
        try:
            yield
        except sa.exc.DBAPIError as error:
            raise _explained(error, str(self)) from error
        except UnicodeEncodeError as error:  # the drivers', of what they are given
            raise InputError(
                "no database can store this: it contains half a character (a lone surrogate)"
            ) from error
        except OverflowError as error:
            raise InputError(TOO_LARGE) from error
        except sqlite3.Error as error:
            raise _in_words(" ".join(str(error).split()), str(self)) from error
        except sa.exc.TimeoutError as error:
            raise FaultError(f"store {self}: too many concurrent requests ({error}); try again") from error


def parse_address(address: str | Path) -> URL:
    """A file's path, `sqlite:///PATH` or `postgresql://USER@HOST/DATABASE`."""
    text = str(address)
    if "://" not in text:
        return URL.create("sqlite", database=str(Path(text).expanduser().absolute()))
    try:
        url = make_url(text)
    except (sa.exc.ArgumentError, ValueError) as error:
        raise InputError(f"store {text.partition('://')[0]}://… is not a database URL: {error}") from error
    backend = {"postgres": "postgresql"}.get(url.get_backend_name(), url.get_backend_name())
    if backend not in DIALECTS:
        raise InputError(f"store {backend}://…: give a file's path or postgresql://USER@HOST/DATABASE")
    if backend == "postgresql":
        return url.set(drivername="postgresql+psycopg")
    if not url.database or url.database == ":memory:" or url.database.startswith("file:"):
        raise InputError("store sqlite:// needs a file's path, since votes in memory would be lost")
    return URL.create("sqlite", database=str(Path(url.database).expanduser().absolute()))


def _sqlite_engine(url: URL) -> Engine:
    engine = sa.create_engine(
        url, pool_size=5, max_overflow=100, pool_timeout=BUSY_SECONDS, connect_args={"timeout": BUSY_SECONDS}
    )

    @sa.event.listens_for(engine, "connect")
    def prepare(connection: Any, record: Any) -> None:
        del record
        connection.create_function("whorl_fold", 1, _folded, deterministic=True)
        connection.isolation_level = None  # the driver begins nothing by itself: `begin` below does
        for pragma in ("foreign_keys=ON", "synchronous=FULL", "secure_delete=ON", "recursive_triggers=ON"):
            connection.execute(f"PRAGMA {pragma}")

    @sa.event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        if connection.get_execution_options().get("whorl_write"):
            _begin_to_write(connection.connection.dbapi_connection)
        else:
            connection.exec_driver_sql("BEGIN")

    return engine


def _folded(text: str | None) -> str | None:
    """SQLite's own `lower` knows of ASCII alone."""
    return None if text is None else text.casefold()


def _begin_to_write(raw: Any) -> None:
    """BEGIN IMMEDIATE, asked for every few milliseconds. SQLite's own waiting looks ten times a second
    at last, and a process whose writers leave small gaps would keep another one out for many seconds."""
    deadline = time.monotonic() + BUSY_SECONDS
    raw.execute("PRAGMA busy_timeout=0")
    try:
        while True:
            try:
                raw.execute("BEGIN IMMEDIATE")
                return
            except sqlite3.OperationalError as error:
                if "locked" not in str(error) or time.monotonic() > deadline:
                    raise
            time.sleep(random.uniform(*LOOK_AGAIN))
    finally:
        raw.execute(f"PRAGMA busy_timeout={BUSY_SECONDS * 1000}")


def _postgresql_engine(url: URL) -> Engine:
    engine = sa.create_engine(  # a new connection is a new process there: those that are open are kept
        url, pool_size=16, max_overflow=0, pool_timeout=BUSY_SECONDS, pool_pre_ping=True,
        connect_args={"connect_timeout": 10},
    )  # fmt: skip

    @sa.event.listens_for(engine, "connect")
    def prepare(connection: Any, record: Any) -> None:
        del record
        with connection.cursor() as cursor:
            cursor.execute("SET synchronous_commit = on")
            cursor.execute("SET client_encoding = 'UTF8'")
        connection.commit()

    return engine


def use_write_ahead_log(database: Database) -> None:
    """Put an SQLite file into WAL mode, once for all time. The change needs the file alone and does
    not wait by itself, so that processes starting together try again until one has made it."""
    assert database.path is not None
    with suppress(FileExistsError):  # what people said is for its owner's eyes
        os.close(os.open(database.path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            with database.engine.connect() as connection:
                cursor = connection.connection.cursor()
                mode = cursor.execute("PRAGMA journal_mode=WAL").fetchone()
            if mode and mode[0] == "wal":
                return
            raise FaultError(
                f"store {database}: this file system does not support shared memory; use a local disk"
            )
        except (sa.exc.DBAPIError, sqlite3.Error) as error:  # the bare cursor speaks with its driver's
            said = str(error.orig if isinstance(error, sa.exc.DBAPIError) else error)
            if "locked" not in said or time.monotonic() > deadline:
                raise _in_words(said, str(database)) from error
        time.sleep(0.02)


def _explained(error: sa.exc.DBAPIError, where: str) -> Exception:
    said = " ".join(str(error.orig).split())
    if isinstance(error, sa.exc.DataError) and "out of range" in said:
        return InputError(TOO_LARGE)
    if isinstance(error, sa.exc.DataError):
        return InputError(f"store {where}: the database cannot store this: {said}")
    if isinstance(error, sa.exc.IntegrityError | sa.exc.ProgrammingError):
        return DataError(f"store {where}: the database refused: {said}")
    return _in_words(said, where)


def _in_words(said: str, where: str) -> Exception:
    if "not a database" in said or "malformed" in said or "encrypted" in said:
        return DataError(f"store {where} is damaged or not an SQLite file ({said}); restore a backup")
    if (
        "append-only" in said
        or "keeps its rows" in said
        or "goes on behind" in said
        or "only be erased" in said
    ):
        return DataError(f"store {where}: the database refused: {said}")
    remedy = {
        "disk is full": "free some space; no acknowledged vote is lost",
        "No space left": "free some space; no acknowledged vote is lost",
        "unable to open": "check that the folder exists and is writable",
        "readonly": "check that the file is writable",
        "read-only": "check that the database is writable",
        "deadlock": "a migration ran in the meantime; try again",
        "locked": "another process has locked it for a minute; try again",
        "password authentication": "check the user and the password in the URL",
        "does not exist": "create it first: createdb",
    }
    hint = next((text for sign, text in remedy.items() if sign in said), "is the database running? try again")
    return FaultError(f"store {where}: {said}; {hint}")
