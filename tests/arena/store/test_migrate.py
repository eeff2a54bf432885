"""Migrations: once, under a lock, after a checked backup; killed midway; older code and newer data."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

from whorl.arena.store import Head, Pairing, Store, chain
from whorl.arena.store.database import Database
from whorl.arena.store.dump import check_dump, load_dump, write_dump
from whorl.arena.store.migrate import migrate, newest
from whorl.arena.store.schema import VERSION_TABLE, metadata
from whorl.base.errors import DataError, InputError
from whorl.base.nouns import Message

Fight = Callable[..., Pairing]
ROOT = Path(__file__).parent.parent.parent.parent

NOW, NEXT = newest(), "9999"
# A revision to come that is long enough to be killed in: it rewrites every turn with pauses between.
SECOND = """
import time
import sqlalchemy as sa
from alembic import op

revision, down_revision = "%s", "%s"

def upgrade():
    op.add_column("arena_turns", sa.Column("note", sa.String))
    if op.get_bind().dialect.name == "sqlite":
        op.execute("DROP TRIGGER arena_turns_no_update")
    else:
        op.execute("DROP TRIGGER arena_turns_no_update ON arena_turns")
    print("in the middle", flush=True)
    for number in op.get_bind().execute(sa.text("SELECT id FROM arena_turns ORDER BY id")).scalars().all():
        op.get_bind().execute(sa.text("UPDATE arena_turns SET note = 'n' WHERE id = :id"), {"id": number})
        time.sleep(0.01)
    print("at the end", flush=True)
"""


@pytest.fixture
def revisions(tmp_path: Path) -> Path:
    folder = tmp_path / "re visions 100%"
    folder.mkdir()
    (folder / "v9999_note.py").write_text(SECOND % (NEXT, NOW))
    return folder


@pytest.fixture
def old(address: str, tmp_path: Path, fight: Fight) -> str:
    """The address of a closed store of today's revision with eight votes."""
    with Store.open(address, train_share=0.0) as store:
        for name in ("amber-1", "birch-2"):
            store.add_model(name)
        store.add_person("ann")
        for number in range(8):
            store.vote(fight(store, f"Question {number} about {number * 7}").id, "tie")
    return address


def version(address: str) -> str:
    database = Database(address)
    with database.read() as connection:
        found: str = connection.execute(sa.text(f"SELECT version_num FROM {VERSION_TABLE}")).scalar_one()
    database.close()
    return found


def start(address: str, backups: Path, revisions: Path) -> subprocess.Popen[str]:
    code = (
        "import sys; from pathlib import Path; from whorl.arena.store import Store\n"
        "print('opening', flush=True)\n"
        "store = Store.open(sys.argv[1], backups=Path(sys.argv[2]), revisions=[Path(sys.argv[3])])\n"
        "found = store.verify(); print('votes', found.votes, found.problem, flush=True)"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code, address, str(backups), str(revisions)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip


def test_the_migrations_make_the_tables_of_the_code(store: Store) -> None:
    def ours(item: object, name: str | None, kind: str, reflected: bool, other: object) -> bool:
        return not (kind == "table" and name == VERSION_TABLE)

    with store.database.read() as connection:
        options = {"include_object": ours, "compare_type": True, "compare_server_default": True}
        context = MigrationContext.configure(connection, opts={**options, "version_table": VERSION_TABLE})
        assert compare_metadata(context, metadata) == []


def test_a_migration_runs_after_a_backup_that_holds_the_old_store(
    old: str, tmp_path: Path, revisions: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Store.open(old, backups=tmp_path / "backups", revisions=[revisions]) as store:
        assert store.verify().votes == 8
    assert version(old) == NEXT
    [backup] = (tmp_path / "backups").iterdir()
    assert f"backup checked: {backup}" in capsys.readouterr().err
    found = check_dump(backup)
    assert (found["revision"], found["votes"]) == (NOW, 8)
    with Store.open(old, backups=tmp_path / "backups", revisions=[revisions]):
        pass
    assert len(list((tmp_path / "backups").iterdir())) == 1


def test_a_store_of_the_first_revision_is_brought_here(
    old: str, address: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """A store as the first release wrote it: today's tables without what came later, a chat among them."""
    folder = tmp_path / "dump"
    with Store.open(old) as store:
        hear_a_chat(store)
    with Store.open(old) as store, store.database.read() as connection:
        manifest, known = write_dump(connection, folder), store.conversations()
        votes = list(store.battles(rated=None))
    for name, column in (("arena_conversations", "title"), ("arena_prompts", "size")):
        without(folder, manifest, name, column)
    for name in ("arena_prompt_marks", "arena_secrets", "arena_turn_prompts"):
        del manifest["tables"][name]
    head = without_chats(folder)
    if address.startswith("postgresql"):
        first = request.getfixturevalue("postgresql").database()
    else:
        first = str(tmp_path / "first.sqlite")
    database = Database(first)
    migrate(database, backups=tmp_path / "none", target="0001")
    with database.write() as connection:
        load_dump(connection, folder, manifest)
    database.close()
    assert version(first) == "0001"
    with Store.open(first, backups=tmp_path / "backups") as store:
        assert store.conversations() == known and {one.title for one in known} == {""}
        assert list(store.battles(rated=None)) == votes
        store.rename_conversation(known[0].id, "Spinning")
        found = store.verify(head)
        assert found.ok and found.older == 5  # a chat, two turns, a thumb and a better reply
        [chat] = (one.id for one in known if one.kind == "chat")
        store.thumb(store.turns(chat)[1].id, -1, person=1)
        assert store.verify().ok and store.verify().older == 5
    change = "UPDATE arena_preferences SET value = 1 - value"
    database = Database(first)
    with database.write() as connection:
        if not database.sqlite:
            connection.execute(sa.text("SET LOCAL session_replication_role = replica"))
        else:
            connection.execute(sa.text("DROP TRIGGER arena_preferences_no_update"))
        connection.execute(sa.text(change))
    database.close()
    with Store.open(first) as store:
        assert "value of preference 1 was changed" in store.verify().problem
    assert version(first) == NOW
    [backup] = (tmp_path / "backups").iterdir()
    assert check_dump(backup)["revision"] == "0001"


def hear_a_chat(store: Store) -> None:
    chat = store.start_chat(1, [Message(role="user", content=("Tell me of flax.",))], consent="train")
    reply = store.say(chat, Message(role="assistant", content=("It is spun.",)))
    store.thumb(reply, 1, person=1)
    store.write_better(reply, Message(role="assistant", content=("It is spun well.",)), person=1)


def without(folder: Path, manifest: dict[str, Any], name: str, column: str) -> None:
    """Take a column out of a dump."""
    table, path = manifest["tables"][name], folder / f"{name}.jsonl"
    place = table["columns"].index(column)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(row[:place] + row[place + 1 :]) + "\n" for row in rows))
    table["columns"].remove(column)


def without_chats(folder: Path) -> Head:
    """Take the rows of chats out of a dump's log, as if they had never been; the head."""
    path, kept, end = folder / "arena_log.jsonl", [], chain.START
    for line in path.read_text().splitlines():
        _, kind, subject, recorded, body, _, _ = json.loads(line)
        if kind not in ("chat", "turn", "preference"):
            fields = (end.seq + 1, kind, subject, recorded, body, end.hash)
            end = Head(end.seq + 1, chain.entry_hash(*fields))
            kept.append(json.dumps([*fields, end.hash]) + "\n")
    path.write_text("".join(kept))
    return end


def test_processes_that_start_at_once_migrate_once(old: str, tmp_path: Path, revisions: Path) -> None:
    processes = [start(old, tmp_path / "backups", revisions) for _ in range(3)]
    outputs = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0] * 3, outputs
    assert all("votes 8 \n" in out for out, _ in outputs)
    assert sum("in the middle" in out for out, _ in outputs) == 1
    assert len(list((tmp_path / "backups").iterdir())) == 1
    assert version(old) == NEXT


def test_processes_that_start_at_once_make_one_store(address: str, tmp_path: Path) -> None:
    none = tmp_path / "none"
    none.mkdir()
    processes = [start(address, tmp_path / "backups", none) for _ in range(3)]
    outputs = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0] * 3, outputs
    with Store.open(address) as store:
        assert store.verify().entries == 1
    assert not (tmp_path / "backups").exists()


def test_killed_midway_leaves_the_old_store_and_then_the_new(
    old: str, tmp_path: Path, revisions: Path
) -> None:
    draw = random.Random(5)
    process = start(old, tmp_path / "backups", revisions)
    assert process.stdout is not None
    assert process.stdout.readline() == "opening\n"
    assert process.stdout.readline() == "in the middle\n"
    time.sleep(draw.uniform(0, 0.1))
    process.kill()
    rest, _ = process.communicate()
    assert "at the end" not in rest
    assert version(old) == NOW
    with Store.open(old) as store:  # today's code goes on with it
        assert store.verify().votes == 8
        assert store.models()
    with Store.open(old, backups=tmp_path / "backups", revisions=[revisions]) as store:
        assert store.verify().votes == 8
    assert version(old) == NEXT


def test_killed_at_any_moment_leaves_old_or_new_and_no_half_backup(
    old: str, tmp_path: Path, revisions: Path
) -> None:
    draw, backups = random.Random(6), tmp_path / "backups"
    for _ in range(4):
        process = start(old, backups, revisions)
        assert process.stdout is not None
        assert process.stdout.readline() == "opening\n"
        time.sleep(draw.uniform(0, 0.4))
        process.kill()
        process.communicate()
        for folder in backups.glob("arena-*"):
            assert check_dump(folder)["votes"] == 8
        if version(old) == NOW:
            with Store.open(old) as store:
                assert store.verify().votes == 8
    with Store.open(old, backups=backups, revisions=[revisions]) as store:
        assert store.verify().votes == 8


def test_a_damaged_store_is_not_migrated(old: str, tmp_path: Path, revisions: Path) -> None:
    database = Database(old)
    if database.sqlite:
        with database.write() as connection:
            connection.execute(sa.text("DROP TRIGGER arena_log_no_update"))
            connection.execute(sa.text("UPDATE arena_log SET body = '{}' WHERE seq = 3"))
    else:
        with database.write() as connection:
            connection.execute(sa.text("SET LOCAL session_replication_role = replica"))
            connection.execute(sa.text("UPDATE arena_log SET body = '{}' WHERE seq = 3"))
    database.close()
    with pytest.raises(DataError, match=r"arena_log\.jsonl:3: the chain of votes breaks here"):
        Store.open(old, backups=tmp_path / "backups", revisions=[revisions])
    assert version(old) == NOW


def test_older_code_refuses_newer_data_and_leaves_it(old: str, tmp_path: Path, revisions: Path) -> None:
    with Store.open(old, backups=tmp_path / "backups", revisions=[revisions]) as store:
        store.add_person("bob")
    with pytest.raises(InputError, match=rf"has revision {NEXT}.*pip install --upgrade") as caught:
        Store.open(old)
    assert "\n" not in str(caught.value)
    assert version(old) == NEXT


def test_code_that_was_open_during_a_migration_stops_writing(
    old: str, tmp_path: Path, revisions: Path, fight: Fight
) -> None:
    with Store.open(old) as before:
        pair = fight(before)
        with Store.open(old, backups=tmp_path / "backups", revisions=[revisions]):
            pass
        with pytest.raises(InputError, match=f"has revision {NEXT}"):
            before.vote(pair.id, "tie")
        for look in (lambda: list(before.battles(rated=None)), before.models, before.verify):
            with pytest.raises(InputError, match=f"has revision {NEXT}"):
                look()


def test_writers_beside_a_migration_are_done_before_or_refused(
    old: str, tmp_path: Path, revisions: Path, fight: Fight
) -> None:
    """Nothing but the refusal comes, and what was acknowledged is in the migrated store."""
    with Store.open(old) as before:

        def work(start: int) -> list[str]:
            kept: list[str] = []
            for number in range(10_000):
                try:
                    pair = fight(before, f"Writer {start} with its question {number}")
                    before.vote(pair.id, "tie")
                except InputError as error:
                    assert f"has revision {NEXT}" in str(error)
                    break
                kept.append(pair.id)
                time.sleep(0.02)
            return kept

        with ThreadPoolExecutor(3) as pool:
            writers = [pool.submit(work, number) for number in range(3)]
            process = start(old, tmp_path / "backups", revisions)
            out, err = process.communicate(timeout=120)
            assert process.returncode == 0, err
            kept = {battle for writer in writers for battle in writer.result()}
    with Store.open(old, revisions=[revisions]) as store:
        assert kept <= {row.battle for row in store.battles(rated=None)}
        assert store.verify().votes == 8 + len(kept)
    assert f"votes {8 + len(kept)} " in out
    [backup] = (tmp_path / "backups").iterdir()
    assert check_dump(backup)["votes"] == 8 + len(kept)


def test_a_database_with_other_tables_is_left_alone(address: str) -> None:
    database = Database(address)
    with database.write() as connection:
        connection.execute(sa.text("CREATE TABLE arena_models (name TEXT)"))
        connection.execute(sa.text("INSERT INTO arena_models VALUES ('precious')"))
    database.close()
    with pytest.raises(InputError, match="'arena_models' that is not Whorl's"):
        Store.open(address)
    with database.read() as connection:
        assert connection.execute(sa.text("SELECT name FROM arena_models")).scalar() == "precious"
        assert sa.inspect(connection).get_table_names() == ["arena_models"]
    database.close()


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("mysql://host/name", "mysql://…: give a file's path or postgresql://"),
        ("sqlite://", "votes in memory would be lost"),
        ("sqlite:///:memory:", "votes in memory would be lost"),
        ("postgresql://ann:hunter2@127.0.0.1:1/none", r"is the database running\?"),
        ("nonsense://:::", "give a file's path|is not a database URL"),
    ],
)
def test_an_address_that_cannot_be_is_one_line_without_the_password(address: str, said: str) -> None:
    from whorl.base.errors import WhorlError

    with pytest.raises(WhorlError, match=said) as caught:
        Store.open(address)
    assert "\n" not in str(caught.value) and "hunter2" not in str(caught.value)


def test_a_database_without_a_store_is_not_filled_by_reading(address: str) -> None:
    database = Database(address)
    with database.write() as connection:
        connection.execute(sa.text("CREATE TABLE precious (name TEXT)"))
    with pytest.raises(InputError, match="no store at"):
        Store.open(address, create=False)
    with database.read() as connection:
        assert sa.inspect(connection).get_table_names() == ["precious"]
    database.close()


def test_a_store_that_is_not_there_is_not_made_by_reading(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no store at"):
        Store.open(tmp_path / "arena.sqlite", create=False)
    assert list(tmp_path.iterdir()) == []
    with Store.open(tmp_path / "arena.sqlite", train_share=0.25):
        pass
    assert (tmp_path / "arena.sqlite").stat().st_mode & 0o077 == 0
    with pytest.raises(InputError, match=r"made with train_share 0\.25"):
        Store.open(tmp_path / "arena.sqlite", train_share=0.5)
    with Store.open(tmp_path / "arena.sqlite", create=False) as store:
        assert store.settings["train_share"] == 0.25
