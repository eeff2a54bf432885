"""`verify` against ways to change a store behind its back, on both databases (more in `test_tampering`)."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa

from whorl.arena.store import Head, Pairing, Store, Verification, chain
from whorl.arena.store.verification import verify
from whorl.base.errors import InputError
from whorl.base.nouns import Message

Fight = Callable[..., Pairing]


def verified(store: Store, *statements: str, head: Head | None = None) -> Verification:
    """What `verify` says after SQL that one may run who owns the database, without triggers and foreign
    keys; all of it is taken back."""
    engine, sqlite = store.database.engine, store.database.sqlite
    with engine.connect() as connection, connection.begin() as transaction:
        if sqlite:
            connection.exec_driver_sql("PRAGMA defer_foreign_keys = ON")
            triggers = "SELECT name FROM sqlite_master WHERE type = 'trigger'"
            for name in connection.exec_driver_sql(triggers).scalars().all():
                connection.exec_driver_sql(f"DROP TRIGGER {name}")
        else:
            connection.exec_driver_sql("SET LOCAL session_replication_role = replica")
        for statement in statements:
            connection.exec_driver_sql(statement if sqlite else statement.replace("%", "%%"))
        found = verify(connection, head)
        transaction.rollback()
    return found


@pytest.fixture(scope="module")
def voted(shared: Store, fight: Fight) -> Store:
    """Five votes, rows 2 to 6 of the log; the fourth battle (row 5) is erased in row 7; then a chat."""
    pairs = [fight(shared, f"Question {n} about {n * 7}") for n in range(4)]
    pairs.append(fight(shared, "One with a trace"))
    reply = Message(role="assistant", content=("Traced.",))
    for side in ("a", "b"):
        shared.say(pairs[4].id, reply, side=side, trace={"token_ids": [1, 2]})  # type: ignore[arg-type]
    for pair in pairs:
        shared.vote(pair.id, "model_a")
    shared.erase(pairs[3].id)
    shared.start_chat(1, [Message(role="user", content=("Tell me of flax.",))], consent="train")
    assert shared.verify().ok
    return shared


OTHER_BODY = 'REPLACE(body, \'"winner":"model_a"\', \'"winner":"model_b"\')'
CHANGES = [
    (f"UPDATE arena_log SET body = {OTHER_BODY} WHERE seq = 4", "row 4 of the log"),
    ("UPDATE arena_log SET kind = 'note' WHERE seq = 4", "row 4 of the log"),
    ("UPDATE arena_log SET subject = 'x' WHERE seq = 4", "row 4 of the log"),
    ("UPDATE arena_log SET recorded = recorded - 1 WHERE seq = 4", "row 4 of the log"),
    ("UPDATE arena_log SET previous = hash WHERE seq = 4", "row 4 of the log"),
    ("UPDATE arena_log SET hash = previous WHERE seq = 4", "row 4 of the log"),
    ("UPDATE arena_log SET seq = 40 WHERE seq = 4", "row 4 of the log is missing"),
    ("DELETE FROM arena_log WHERE seq = 4", "row 4 of the log is missing"),
    ("DELETE FROM arena_log WHERE seq = 1", "row 1 of the log is missing"),
    ("DELETE FROM arena_log", "row 1 of the log is missing"),
    ("INSERT INTO arena_log VALUES (0, 'vote', 'x', 0, '{}', '', 'h')", "row 0 of the log was inserted"),
    (
        "INSERT INTO arena_log SELECT seq + 1, 'vote', 'x', 0, '{}', hash, 'h' FROM arena_log "
        "ORDER BY seq DESC LIMIT 1",
        "(vote x) was changed",
    ),
    ("UPDATE arena_contents SET body = REPLACE(body, 'spindle', 'thread')", "row 2 of the log"),
    ("UPDATE arena_contents SET salt = '00000000000000000000000000000000' WHERE id = 2", "row 2 of the log"),
    ("UPDATE arena_contents SET salt = 'no hex' WHERE id = 2", "row 2 of the log"),
    ("UPDATE arena_contents SET body = NULL, salt = NULL WHERE id = 2", "records no erasure"),
    ("DELETE FROM arena_contents WHERE id = 2", "row 2 of the log"),
    ("DELETE FROM arena_turns WHERE id = 3", "row 2 of the log"),
    ("UPDATE arena_turns SET side = 'b' WHERE id = 2", "row 2 of the log"),
    ("UPDATE arena_turns SET content = 2 WHERE id = 1", "row 2 of the log"),
    ("UPDATE arena_turns SET trace = NULL WHERE trace IS NOT NULL", "row 6 of the log"),
    ("UPDATE arena_contents SET body = '{}' WHERE body LIKE '%token_ids%'", "row 6 of the log"),
    ("UPDATE arena_battles SET probability = 0.25", "row 2 of the log"),
    ("UPDATE arena_battles SET model_a = model_b, model_b = model_a", "row 2 of the log"),
    ("UPDATE arena_battles SET purpose = 'train'", "row 2 of the log"),
    ("DELETE FROM arena_battles", "row 2 of the log"),
    ("UPDATE arena_conversations SET consent = 'train'", "has consent train"),
    (
        "INSERT INTO arena_turns (id, conversation, side, role, content, weights, time) "
        "SELECT 900, conversation, 'a', 'assistant', content, '', 0 FROM arena_turns WHERE id = 3",
        "turn 900 was inserted",
    ),
    (
        "UPDATE arena_contents SET body = '{}', salt = '00' WHERE body IS NULL",
        "row 5 of the log",
    ),
]


@pytest.mark.parametrize(("change", "first"), CHANGES, ids=[change[:60] for change, _ in CHANGES])
def test_a_change_is_found_and_its_row_named(voted: Store, change: str, first: str) -> None:
    found = verified(voted, change)
    assert not found.ok
    assert first in found.problem
    assert "\n" not in found.problem
    assert verified(voted).ok


def test_two_rows_in_each_others_place_are_found(voted: Store) -> None:
    swap = [(3, -1), (4, 3), (-1, 4)]
    moves = [f"UPDATE arena_log SET seq = {there} WHERE seq = {here}" for here, there in swap]
    assert "row 3 of the log" in verified(voted, *moves).problem


def test_a_row_put_in_with_a_right_hash_breaks_at_the_next(voted: Store) -> None:
    """Who knows how hashes are made can forge one row, and is found by the row after it."""
    row = log_rows(voted)[2]
    body = row["body"].replace('"winner":"model_a"', '"winner":"tie"')
    forged = chain.entry_hash(3, "vote", row["subject"], row["recorded"], body, row["previous"])
    change = f"UPDATE arena_log SET body = '{body}', hash = '{forged}' WHERE seq = 3"
    assert "row 4 of the log" in verified(voted, change).problem
    assert "does not follow row 3" in verified(voted, change).problem


def test_a_cut_tail_or_a_new_chain_is_found_by_a_head_written_down(voted: Store, fight: Fight) -> None:
    for number in range(2):
        voted.vote(fight(voted, f"A late question {number} on {number * 7}").id, "tie")
    head = voted.head()
    assert voted.verify(str(head)).ok
    cut = "DELETE FROM arena_log WHERE seq > 8"
    assert verified(voted, cut).ok  # nothing inside the database can tell
    found = verified(voted, cut, head=head)
    assert "row 9 of the log is missing" in found.problem
    assert found.head.seq == 8 and found.votes == 5
    other = head._replace(seq=4, hash="0" * 64)
    assert "row 4 of the log is not the one" in voted.verify(other).problem
    for wrong in ("", "7", "7:xyz", "x:" + "0" * 64):
        with pytest.raises(InputError, match="must be NUMBER:HASH"):
            voted.verify(wrong)


FLAX = "WHERE conversation = (SELECT id FROM arena_battles ORDER BY time DESC LIMIT 1)"


def test_what_no_vote_covers_is_checked_too(voted: Store, fight: Fight) -> None:
    fight(voted, "A question on flax that nobody votes on")
    gone = verified(voted, f"UPDATE arena_contents SET body = NULL, salt = NULL {FLAX}")
    assert "content " in gone.problem and "no erasure" in gone.problem
    changed = verified(voted, f"UPDATE arena_contents SET body = '{{}}', salt = '00' {FLAX}")
    assert "content " in changed.problem and "was changed" in changed.problem


def log_rows(store: Store) -> list[dict[str, str]]:
    with store.database.read() as connection:
        rows = connection.execute(sa.text("SELECT * FROM arena_log ORDER BY seq")).mappings()
        return [dict(row) for row in rows]


def test_the_chain_is_the_formula(voted: Store) -> None:
    """Computed here anew, from the documented form alone."""
    import hashlib

    previous = ""
    for number, row in enumerate(log_rows(voted), start=1):
        fields = [number, row["kind"], row["subject"], row["recorded"], row["body"], previous]
        text = json.dumps(fields, separators=(",", ":"))
        assert row["hash"] == hashlib.sha256(text.encode()).hexdigest()
        previous = row["hash"]


def test_verify_says_how_far_it_is(voted: Store) -> None:
    read: list[int] = []
    voted.verify(advance=read.append)
    assert sum(read) == voted.head().seq


def test_a_file_cut_or_overwritten_is_one_line(tmp_path: Path, fight: Fight) -> None:
    from whorl.base.errors import WhorlError

    path = tmp_path / "arena.sqlite"
    with Store.open(path) as store:
        for name in ("amber-1", "birch-2"):
            store.add_model(name)
        store.add_person("ann")
        for number in range(30):
            store.vote(fight(store, f"Question {number} about {number * 7}").id, "tie")
    whole = path.read_bytes()
    for broken in (whole[: len(whole) // 2], b"no database at all " * 400, whole[:40_000] + b"\xff" * 60_000):
        path.write_bytes(broken)
        with pytest.raises(WhorlError) as caught, Store.open(path) as store:
            found = store.verify()
            raise WhorlError(found.problem or "it was not noticed")
        assert "not noticed" not in str(caught.value) and "\n" not in str(caught.value)
