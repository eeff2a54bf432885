"""Writers that share a commit: served in order, and all told the truth when the disk is full."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa

from whorl.arena.store import Store
from whorl.arena.store.group_commit import FairLock
from whorl.base.errors import FaultError, InputError
from whorl.base.nouns import Message


def test_the_lock_serves_in_the_order_of_coming() -> None:
    lock, served = FairLock(), []

    def work(number: int) -> None:
        with lock:
            served.append(number)

    lock.acquire()
    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for number, thread in enumerate(threads):
        thread.start()
        while len(lock._gates) <= number:
            time.sleep(0.001)
    assert lock.waited_for
    lock.release()
    for thread in threads:
        thread.join()
    assert served == list(range(8)) and not lock.waited_for


def test_the_lock_excludes() -> None:
    lock, inside, most = FairLock(), 0, 0

    def work(_: int) -> None:
        nonlocal inside, most
        for _ in range(200):
            with lock:
                inside += 1
                most = max(most, inside)
                inside -= 1

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(work, range(6)))
    assert (inside, most) == (0, 1)


def writers(store: Store, count: int, size: int) -> tuple[set[str], list[Exception]]:
    """Conversations that were acknowledged, and what the others were told."""
    start, kept, told = threading.Barrier(count), set(), []

    def work(number: int) -> None:
        message = Message(role="user", content=(f"{number} " + "x" * size,))
        start.wait()
        try:
            kept.add(store.start_chat(1, [message], consent="none"))
        except FaultError as error:
            told.append(error)

    with ThreadPoolExecutor(count) as pool:
        for done in [pool.submit(work, number) for number in range(count)]:
            done.result()
    return kept, told


def test_writers_share_commits(tmp_path: Path) -> None:
    with Store.open(tmp_path / "arena.sqlite") as store:
        store.add_person("ann")
        commits: list[int] = []
        sa.event.listen(store.database.engine, "commit", lambda connection: commits.append(1))
        kept, told = writers(store, count=24, size=10)
        assert len(kept) == 24 and not told
        assert len(commits) < 24
        assert {talk.id for talk in store.conversations()} == kept


def test_on_a_full_disk_what_was_acknowledged_is_there_and_nothing_else(tmp_path: Path) -> None:
    with Store.open(tmp_path / "arena.sqlite") as store:
        store.add_person("ann")
        with store.database.engine.connect() as connection:
            pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
        store.database.close()
        limit = f"PRAGMA max_page_count={pages + 60}"
        sa.event.listen(store.database.engine, "connect", lambda raw, record: raw.execute(limit))
        kept, told = set(), []
        for _ in range(4):
            more, errors = writers(store, count=8, size=20_000)
            kept |= more
            told += errors
        assert kept and told
        assert all("\n" not in str(error) for error in told)
        assert {talk.id for talk in store.conversations()} == kept
        assert store.verify().ok


def test_one_who_fails_takes_nobody_along(tmp_path: Path) -> None:
    with Store.open(tmp_path / "arena.sqlite") as store:
        store.add_person("ann")

        def work(number: int) -> str | None:
            try:
                message = Message(role="user", content=("hello",))
                return store.start_chat(1 if number % 3 else 9, [message], consent="none")
            except InputError:
                return None

        with ThreadPoolExecutor(12) as pool:
            made = list(pool.map(work, range(48)))
        assert [one is None for one in made] == [number % 3 == 0 for number in range(48)]
        assert {talk.id for talk in store.conversations()} == {one for one in made if one}


def test_who_shares_a_transaction_that_is_lost_is_told(tmp_path: Path) -> None:
    """SQLite may roll back the whole of a transaction by itself; here one writer does it."""
    with Store.open(tmp_path / "arena.sqlite") as store, ThreadPoolExecutor(2) as pool:
        group = store.database._group
        add = "INSERT INTO arena_people VALUES (1, 'bob', 'voter', NULL, 0)"

        def loses() -> None:
            with store.database.write() as connection:
                connection.exec_driver_sql("ROLLBACK")
                raise ZeroDivisionError

        with pytest.raises(FaultError, match="were not stored"), store.database.write() as connection:
            connection.execute(sa.text(add))
            second = pool.submit(loses)
            while not group.lock.waited_for:
                time.sleep(0.001)
        with pytest.raises(ZeroDivisionError):
            second.result()
        assert store.people() == []
        assert store.add_person("ann").name == "ann"


def test_a_write_that_is_interrupted_leaves_the_others_whole(tmp_path: Path) -> None:
    with Store.open(tmp_path / "arena.sqlite") as store:
        with pytest.raises(KeyboardInterrupt), store.database.write() as connection:
            connection.execute(sa.text("INSERT INTO arena_people VALUES (1, 'bob', 'voter', NULL, 0)"))
            raise KeyboardInterrupt
        assert store.people() == []
        assert store.add_person("ann").name == "ann"


def test_an_erasure_behind_a_writer_commits_for_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The writer sees somebody waiting and leaves the commit to whom it is: here nobody writes."""
    with Store.open(tmp_path / "arena.sqlite") as store, ThreadPoolExecutor(1) as pool:
        add = "INSERT INTO arena_people VALUES (1, 'bob', 'voter', NULL, 0)"
        with store.database.write() as connection:
            connection.execute(sa.text(add))
            erasure = pool.submit(store.database.scrub)
            while not store.database._group.lock.waited_for:
                time.sleep(0.001)
        erasure.result()
        assert [person.name for person in store.people()] == ["bob"]
    assert "other readers are active" not in capsys.readouterr().err


@pytest.mark.parametrize("raised", [KeyboardInterrupt, ZeroDivisionError, SystemExit])
def test_a_commit_that_is_stopped_is_acknowledged_to_nobody(
    tmp_path: Path, raised: type[BaseException]
) -> None:
    """Two writers share a transaction; the one who commits is stopped inside of it, by something that is
    no error of the database's."""
    with Store.open(tmp_path / "arena.sqlite") as store:
        store.add_person("ann")
        group, told = store.database._group, {}

        def commit(connection: object) -> None:
            raise raised

        def work(number: int) -> None:
            try:
                told[number] = store.start_chat(1, [Message(role="user", content=("hello",))], consent="none")
            except (FaultError, KeyboardInterrupt, SystemExit) as error:
                told[number] = type(error).__name__

        threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
        with group.lock:
            for number, thread in enumerate(threads):
                thread.start()
                while len(group.lock._gates) <= number:
                    time.sleep(0.001)
            sa.event.listen(store.database.engine, "commit", commit)
        for thread in threads:
            thread.join()
        sa.event.remove(store.database.engine, "commit", commit)
        expected = {"FaultError", raised.__name__} if not issubclass(raised, Exception) else {"FaultError"}
        assert set(told.values()) == expected
        assert store.conversations() == []
        assert store.start_chat(1, [Message(role="user", content=("hello",))], consent="none")
        assert store.verify().ok


def test_a_statement_that_is_interrupted_takes_its_transaction_along_and_says_so(tmp_path: Path) -> None:
    """SQLAlchemy gives such a connection up, and with it what others wrote in the same transaction."""
    with Store.open(tmp_path / "arena.sqlite") as store, ThreadPoolExecutor(2) as pool:
        store.add_person("ann")
        group, opening = store.database._group, [Message(role="user", content=("hello",))]

        def interrupt(connection: object, cursor: object, statement: str, *rest: object) -> None:
            if "arena_people" in statement and "INSERT" in statement:
                raise KeyboardInterrupt

        with group.lock:
            first = pool.submit(store.start_chat, 1, opening, consent="none")
            while not group.lock.waited_for:
                time.sleep(0.001)
            sa.event.listen(store.database.engine, "before_cursor_execute", interrupt)
            second = pool.submit(store.add_person, "bob")
            while len(group.lock._gates) < 2:
                time.sleep(0.001)
        with pytest.raises(FaultError, match="were not stored"):
            first.result()
        with pytest.raises(KeyboardInterrupt):
            second.result()
        sa.event.remove(store.database.engine, "before_cursor_execute", interrupt)
        assert store.conversations() == [] and len(store.people()) == 1
        assert store.start_chat(1, opening, consent="none") and store.verify().ok
