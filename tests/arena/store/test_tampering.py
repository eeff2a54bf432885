"""Every table edited by hand, on both databases: `verify` says what is wrong, in one line."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa

from tests.arena.store.test_verify import log_rows, verified
from whorl.arena.store import Head, Pairing, Store, backup_workspace, chain, export, restore_workspace
from whorl.arena.store.heads import HeadNotes
from whorl.base.errors import DataError
from whorl.base.nouns import Message

Fight = Callable[..., Pairing]
ROOT = Path(__file__).parent.parent.parent.parent


def said(role: str, text: str) -> Message:
    return Message(role=role, content=(text,))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def full(shared: Store, fight: Fight) -> Store:
    """Voted battles (one of two questions, one erased), one without a vote, chats with and without consent,
    thumbs and a better reply."""
    shared.add_model("cedar-3")
    shared.add_person("bob")
    tool = {"type": "function", "function": {"name": "weigh", "parameters": {}}}
    first = fight(shared, "Where does the flax grow best?", tools=[tool])
    shared.say(first.id, said("user", "And where did it grow a thousand years ago?"))
    for side in ("a", "b"):
        shared.say(first.id, said("assistant", "Far away."), side=side, weight_version=f"w-{side}")  # type: ignore[arg-type]
    gone = fight(shared, "A secret that is taken back later on")
    for pair in (first, gone):
        shared.vote(pair.id, "model_a", person=1)
    shared.erase(gone.id)
    fight(shared, "A question of wool that nobody votes on")
    quiet = shared.start_chat(1, [said("user", "A chat of mine alone")], consent="none")
    shared.thumb(
        shared.say(quiet, said("assistant", "So it is."), model="amber-1"), -1, person=1, reason="dull"
    )
    chat = shared.start_chat(
        1, [said("user", "A chat about dyes and mordants")], consent="train", tools=[tool]
    )
    reply = shared.say(
        chat, said("assistant", "Alum."), model="amber-1", weight_version="w-a", trace={"x": 1}
    )
    shared.say(chat, said("user", "Which mordant is the least poisonous?"))
    shared.thumb(reply, 1, person=1)
    shared.write_better(reply, said("assistant", "Alum, mostly."), person=1)
    shared.set_consent(quiet, "rate")
    assert shared.verify().ok
    return shared


FIRST = "(SELECT MIN(conversation) FROM arena_turns WHERE id = 1)"
QUIET = "(SELECT id FROM arena_conversations WHERE kind = 'chat' AND consent = 'rate')"
CHAT = "(SELECT id FROM arena_conversations WHERE kind = 'chat' AND consent = 'train')"
GONE = "(SELECT id FROM arena_conversations WHERE erased IS NOT NULL)"
REPLY = f"(SELECT MIN(id) FROM arena_turns WHERE conversation = {CHAT} AND role = 'assistant')"
PROMPT_OF = "(SELECT prompt FROM arena_conversations WHERE id = {})"
FORGED = chain.canonical(said("assistant", "forged").to_openai())
SALT = "00" * 16
FORGE = f"SET body = '{FORGED}', salt = '{SALT}', digest = '{chain.content_digest(SALT, FORGED)}'"
EDITS = {
    # voted battles
    f"UPDATE arena_turns SET model = 'cedar-3' WHERE conversation = {FIRST} AND side = 'a'": "model",
    f"UPDATE arena_turns SET weights = 'forged' WHERE conversation = {FIRST} AND side = 'a'": "weights",
    f"UPDATE arena_turns SET parent = NULL WHERE conversation = {FIRST} AND side = 'a'": "the turn before it",
    f"UPDATE arena_conversations SET person = 2 WHERE id = {FIRST}": "the person of its conversation",
    f"UPDATE arena_conversations SET tools = NULL WHERE id = {FIRST}": "the tools of its conversation",
    f"UPDATE arena_conversations SET erased = 5 WHERE id = {FIRST}": "records no erasure",
    f"UPDATE arena_conversations SET erased = NULL WHERE id = {GONE}": "is not marked as erased",
    f"DELETE FROM arena_conversations WHERE id = {FIRST}": "conversation is missing",
    f"DELETE FROM arena_battles WHERE id = {FIRST}": "its battle is missing",
    f"DELETE FROM arena_contents WHERE conversation = {FIRST}": "row 2 of the log",
    f"UPDATE arena_contents {FORGE} WHERE id = 3": "turn 2 was changed",
    # chats
    f"UPDATE arena_contents {FORGE} WHERE id = (SELECT content FROM arena_turns WHERE id = {REPLY})":
        "was changed",
    f"UPDATE arena_turns SET weights = '' WHERE id = {REPLY}": "(weights)",
    f"UPDATE arena_turns SET model = NULL WHERE id = {REPLY}": "(model)",
    f"UPDATE arena_turns SET parent = NULL WHERE id = {REPLY}": "(the turn before it)",
    f"UPDATE arena_turns SET trace = NULL WHERE id = {REPLY}": "was changed",
    f"UPDATE arena_conversations SET consent = 'train' WHERE id = {QUIET}": "the log says rate",
    f"UPDATE arena_conversations SET consent = 'none' WHERE id = {CHAT}": "the log says train",
    f"UPDATE arena_conversations SET person = 2 WHERE id = {CHAT}": "the person",
    f"UPDATE arena_conversations SET tools = NULL WHERE id = {CHAT}": "the tools",
    f"UPDATE arena_conversations SET prompt = NULL WHERE id = {CHAT}": "a different prompt",
    f"UPDATE arena_conversations SET erased = 5 WHERE id = {QUIET}": "records no erasure",
    f"DELETE FROM arena_turns WHERE conversation = {CHAT}": "is missing",
    f"DELETE FROM arena_contents WHERE conversation = {CHAT}": "the tools of its conversation",
    f"DELETE FROM arena_conversations WHERE id = {CHAT}": "its conversation is missing",
    "INSERT INTO arena_turns (id, conversation, side, role, content, weights, time) SELECT 900, conversation,"
    f" '', 'assistant', content, '', 0 FROM arena_turns WHERE id = {REPLY}": "turn 900 is of a chat",
    "INSERT INTO arena_conversations (id, person, kind, consent, started)"
    " VALUES ('x', 1, 'chat', 'train', 0)": "a chat that is not in the log",
    # what people said of replies
    f"UPDATE arena_preferences SET value = -value WHERE conversation = {CHAT} AND kind = 'thumb'":
        "value of preference",
    f"UPDATE arena_preferences SET turn = {REPLY}, conversation = {CHAT} WHERE conversation = {QUIET}":
        "turn of",
    "UPDATE arena_preferences SET person = 2": "person of preference",
    "UPDATE arena_preferences SET kind = 'better' WHERE id = 1": "kind of preference",
    f"UPDATE arena_contents {FORGE} WHERE id = (SELECT content FROM arena_preferences WHERE kind = 'better')":
        "digest of preference",
    f"DELETE FROM arena_preferences WHERE conversation = {CHAT}": "is missing",
    "INSERT INTO arena_preferences (id, conversation, turn, person, kind, value, time) SELECT 900,"
    " conversation, turn, person, kind, value, time FROM arena_preferences WHERE id = 1":
        "preference 900 is of a chat",
    # prompts
    "UPDATE arena_prompts SET purpose = CASE purpose WHEN 'rate' THEN 'train' ELSE 'rate' END": "purpose",
    f"UPDATE arena_prompts SET purpose = 'rate' WHERE id = {PROMPT_OF.format(CHAT)}":
        "cluster or purpose of prompt",
    f"UPDATE arena_prompts SET cluster = 99 WHERE id = {PROMPT_OF.format(FIRST)}":
        "cluster or purpose",
    "DELETE FROM arena_turn_prompts": "is no longer prompt",
    "UPDATE arena_turn_prompts SET prompt = 1": "is no longer prompt",
    "INSERT INTO arena_turn_prompts VALUES (1, 1)": "is marked as a prompt",
    # the log's own
    "UPDATE arena_log SET recorded = recorded + 1 WHERE kind = 'chat'": "was changed",
    "UPDATE arena_log SET body = '{' WHERE kind = 'consent'": "was changed",
}  # fmt: skip


@pytest.mark.parametrize("edit", EDITS, ids=[edit[:70] for edit in EDITS])
def test_an_edit_by_hand_is_found_and_said(full: Store, edit: str) -> None:
    found = verified(full, edit)
    assert not found.ok and EDITS[edit] in found.problem
    assert "\n" not in found.problem
    assert full.verify().ok


@pytest.mark.parametrize("body", ["{", "[]", "{}", '{"turns":[1]}', "[" * 100_000, '{"consent":"all"}'])
@pytest.mark.parametrize("kind", ["vote", "chat", "turn", "preference", "consent"])
def test_a_forged_body_with_right_hashes_is_one_line(full: Store, kind: str, body: str) -> None:
    """Who can make hashes anew can write anything into a body, and gets no traceback for it."""
    rows, changes, previous = log_rows(full), [], ""
    last = max(row["seq"] for row in rows if row["kind"] == kind)
    for row in rows:
        text = body if row["seq"] == last else row["body"]
        digest = chain.entry_hash(
            int(row["seq"]), row["kind"], row["subject"], int(row["recorded"]), text, previous
        )
        if int(row["seq"]) >= int(last):
            quoted = text.replace("'", "''")
            where = f"WHERE seq = {row['seq']}"
            changes.append(
                f"UPDATE arena_log SET body = '{quoted}', previous = '{previous}', hash = '{digest}' {where}"
            )
        previous = digest
    found = verified(full, *changes)
    assert found.problem.startswith(f"row {last} of the log ({kind} ") and "\n" not in found.problem


# -- heads that were noted -------------------------------------------------------------------------


def cut(store: Store, rows: int) -> None:
    """Take rows from the log's end, as who owns the database can."""
    with store.database.engine.connect() as connection, connection.begin():
        if store.database.sqlite:
            connection.exec_driver_sql("DROP TRIGGER arena_log_no_delete")
        else:
            connection.exec_driver_sql("SET LOCAL session_replication_role = replica")
        last = connection.execute(sa.text("SELECT MAX(seq) FROM arena_log")).scalar_one()
        connection.execute(sa.text("DELETE FROM arena_log WHERE seq > :last"), {"last": last - rows})


@pytest.fixture
def noted(store: Store, tmp_path: Path) -> Store:
    """A store whose heads have a place, also where it is a PostgreSQL database."""
    (tmp_path / "arena").mkdir()
    store.notes = HeadNotes.of(store.database, tmp_path / "arena")
    return store


@pytest.mark.parametrize("note", ["verify", "close", "export", "backup"])
def test_a_cut_tail_is_found_without_being_asked_for(
    noted: Store, address: str, fight: Fight, tmp_path: Path, note: str
) -> None:
    for number in range(3):
        noted.vote(fight(noted, f"Question {number} about {number * 7}").id, "tie")
    if note == "verify":
        assert noted.verify().ok
    elif note == "export":
        export(noted, tmp_path / "out")
    elif note == "backup":
        backup_workspace(tmp_path / "backup", workspace=tmp_path, store=address)
    else:
        noted.note()
    cut(noted, rows=1)
    found = noted.verify()
    assert "row 4 of the log is missing: the log ends there, but 4 were noted in" in found.problem
    noted.vote(fight(noted, "Another one in the place of the last").id, "tie")
    assert "row 4 of the log is not the one whose hash was noted in" in noted.verify().problem


def test_a_store_notes_its_head_when_it_is_opened_and_closed(tmp_path: Path, fight: Fight) -> None:
    with Store.open(tmp_path / "arena.sqlite") as store:
        for name in ("amber-1", "birch-2"):
            store.add_model(name)
        store.add_person("ann")
        store.vote(fight(store).id, "tie")
        end = store.head()
    notes = HeadNotes(tmp_path / "arena.sqlite.heads")
    assert [head.seq for head in notes.read()] == [1, 2] and notes.read()[-1] == end
    with Store.open(tmp_path / "arena.sqlite"):
        pass
    assert len(notes.read()) == 2  # nothing is new
    assert notes.path is not None and notes.path.stat().st_mode & 0o077 == 0


def test_notes_outlive_a_kill_and_say_so_when_they_are_damaged(noted: Store, fight: Fight) -> None:
    noted.vote(fight(noted).id, "tie")
    assert noted.verify().ok
    path = noted.notes.path
    assert path is not None
    with open(path, "a") as file:
        file.write('{"seq": 9, "ha')  # torn off
    assert noted.verify().ok
    noted.vote(fight(noted, "Another question, about geese").id, "tie")
    assert noted.verify().ok
    with pytest.raises(DataError, match=r"heads:\d+ is not a valid head"):
        noted.verify()


def test_a_new_or_restored_store_begins_its_notes_anew(
    tmp_path: Path, fight: Fight, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "arena" / "arena.sqlite"
    with Store.open(path, train_share=0.0) as store:
        for name in ("amber-1", "birch-2"):
            store.add_model(name)
        store.add_person("ann")
        backup_workspace(tmp_path / "backup", workspace=tmp_path)
        store.vote(fight(store).id, "tie")
    for file in path.parent.glob("arena.sqlite*"):
        if not file.name.endswith(".heads"):
            file.unlink()
    restore_workspace(tmp_path / "backup", workspace=tmp_path)
    assert "arena.sqlite.heads.1" in capsys.readouterr().err
    with Store.open(path) as store:
        assert store.verify().ok and store.verify().votes == 0


def test_the_command_finds_a_cut_tail_and_forged_bodies(tmp_path: Path, fight: Fight) -> None:
    def run() -> subprocess.CompletedProcess[str]:
        words = [sys.executable, "-m", "whorl", "arena", "verify", "--store", str(path)]
        return subprocess.run(words, capture_output=True, text=True, cwd=ROOT)

    path = tmp_path / "arena.sqlite"
    with Store.open(path) as store:
        for name in ("amber-1", "birch-2"):
            store.add_model(name)
        store.add_person("ann")
        for number in range(2):
            store.vote(fight(store, f"Question {number} about {number * 7}").id, "tie")
    assert run().returncode == 0
    with Store.open(path) as store:
        cut(store, rows=1)
        done = run()
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "row 3 of the log is missing" in done.stderr.splitlines()[-1]


def test_a_head_that_was_noted_is_one_line_of_json(noted: Store) -> None:
    noted.note()
    assert noted.notes.path is not None
    [line] = noted.notes.path.read_text().splitlines()[-1:]
    record = json.loads(line)
    assert Head(record["seq"], record["hash"]) == noted.head() and set(record) == {"seq", "hash", "time"}
