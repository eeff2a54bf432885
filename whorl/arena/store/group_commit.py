"""Many writers' transactions, one write to disk: group commit for SQLite (DeWitt et al. 1984).

SQLite syncs its log once a commit, some milliseconds each. Here the threads of a process that come
while another is at work join its transaction, each in a savepoint of its own, and one commit serves
them all. Nobody is told of success before that commit has ended.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from whorl.base.errors import FaultError

LARGEST = 64  # writers a commit, so that other processes have their turn
PATIENCE = 0.1  # seconds after which one who waits for a commit looks whether anybody makes it


class FairLock:
    """A lock that serves in the order of coming: `threading.Lock` lets one who has just left go first."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._held = False
        self._gates: deque[threading.Lock] = deque()

    def acquire(self) -> None:
        with self._guard:
            if not self._held:
                self._held = True
                return
            gate = threading.Lock()
            gate.acquire()
            self._gates.append(gate)
        try:
            gate.acquire()  # opened by the one before
        except BaseException:  # an interrupt: step out of the queue, or pass on what came meanwhile
            with self._guard:
                queued = gate in self._gates
                if queued:
                    self._gates.remove(gate)
            if not queued:
                self.release()
            raise

    def release(self) -> None:
        with self._guard:
            if self._gates:
                self._gates.popleft().release()
            else:
                self._held = False

    @property
    def waited_for(self) -> bool:
        return bool(self._gates)

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *raised: object) -> None:
        self.release()


class _Batch:
    """An open transaction and who waits for its end."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.transaction = connection.begin()
        self.writers = 0
        self.ended = threading.Event()
        self.error: Exception | None = None

    def lost(self) -> bool:
        """Whether SQLite has rolled everything back by itself, as it does on a full disk, or SQLAlchemy has
        given the connection up, as it does when a statement is interrupted."""
        if self.connection.invalidated:
            return True
        raw = self.connection.connection.dbapi_connection
        return raw is None or not raw.in_transaction


class GroupCommit:
    """Transactions on one SQLite database; `begin` is SQLAlchemy's execution options for a writer."""

    def __init__(self, engine: Engine, **begin: bool) -> None:
        self.lock = FairLock()
        self._engine = engine
        self._begin = begin
        self._batch: _Batch | None = None

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction of one's own, as far as one can see; on disk when the block has ended well."""
        with self.lock:
            batch = self._join()
            savepoint: sa.NestedTransaction | None = None
            try:
                savepoint = batch.connection.begin_nested()
                yield batch.connection
                savepoint.commit()
            except BaseException as error:
                self._undo(batch, savepoint, error)
                raise
            self._leave(batch)
        while not batch.ended.wait(PATIENCE):
            with self.lock:  # whoever should have committed was interrupted
                if not batch.ended.is_set():
                    self._end(batch)
        if batch.error is not None:
            raise batch.error

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Between two transactions: what was begun is committed, and nobody begins."""
        with self.lock:
            if self._batch is not None:  # its last writer saw us waiting and left the commit to us
                self._end(self._batch)
            yield

    def _join(self) -> _Batch:
        if self._batch is None:
            connection = self._engine.connect()
            try:
                self._batch = _Batch(connection.execution_options(**self._begin))
            except BaseException:
                connection.close()
                raise
        self._batch.writers += 1
        return self._batch

    def _leave(self, batch: _Batch) -> None:
        """Commit, unless somebody stands behind who will."""
        if not self.lock.waited_for or batch.writers >= LARGEST:
            self._end(batch)

    def _undo(self, batch: _Batch, savepoint: sa.NestedTransaction | None, error: BaseException) -> None:
        """Take back what one writer did; the others' stays, where SQLite has kept it."""
        if not batch.lost():
            try:
                if savepoint is not None:
                    savepoint.rollback()
            except BaseException:  # nobody may commit what is half undone
                self._give_up(batch, error)
                raise
            self._leave(batch)
        else:
            self._give_up(batch, error)

    def _give_up(self, batch: _Batch, error: BaseException) -> None:
        why = " ".join(str(error).split()) or type(error).__name__
        batch.error = FaultError(f"the latest votes were not stored: {why}; try again")
        self._end(batch)

    def _end(self, batch: _Batch) -> None:
        """Commit and tell everybody. The caller holds the lock. Whatever stops the commit (an interrupt
        too) is told to all who wait: nobody hears of success before there is one."""
        self._batch = None
        try:
            if batch.error is None:
                batch.transaction.commit()
            else:
                batch.transaction.rollback()
        except sa.exc.DBAPIError as error:
            batch.error = error
        except BaseException as error:  # the boundary between one writer's fault and the others' votes
            batch.error = FaultError(
                f"the commit was stopped ({type(error).__name__}); the latest writes may not be"
                " stored: check, and repeat them if needed"
            )
            batch.error.__cause__ = error
            if not isinstance(error, Exception):
                raise
        finally:
            try:
                if batch.error is not None:
                    batch.connection.invalidate()
                batch.connection.close()
            finally:
                batch.ended.set()
