"""A board that is kept up to date reads what is new alone, and is the one made from the whole log."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from whorl.arena.battles import Battles
from whorl.arena.board import make_board
from whorl.arena.store import LiveVotes, Pairing, Said, Store, chain
from whorl.arena.store.records import CONSENTS, WINNERS
from whorl.arena.store.schema import log
from whorl.arena.store.votes import vote_body
from whorl.base.errors import DataError
from whorl.base.nouns import Message

Fight = Callable[..., Pairing]
MODELS = ("amber-1", "birch-2", "cedar-3")
REPLIES = ("It turns.", "- one\n- **two**", "I am amber 1.")


@dataclass(frozen=True)
class Cast:
    models: list[str]
    prompt: int
    category: str
    winner: str
    consent: str
    replies: tuple[str, str]


@dataclass(frozen=True)
class Begin:
    """A battle that waits for its vote."""

    consent: str


@dataclass(frozen=True)
class Change:
    battle: int
    consent: str


@dataclass(frozen=True)
class Erase:
    battle: int


@dataclass(frozen=True)
class Vote:
    battle: int


@dataclass(frozen=True)
class Look:
    """The board is asked for."""


consents, numbers = st.sampled_from(CONSENTS), st.integers(0, 20)
casts = st.builds(
    Cast, models=st.permutations(MODELS), prompt=st.integers(0, 6), category=st.sampled_from(["", "x", "y"]),
    winner=st.sampled_from(WINNERS), consent=consents,
    replies=st.tuples(st.sampled_from(REPLIES), st.sampled_from(REPLIES)),
)  # fmt: skip
deeds = st.one_of(
    casts, casts, st.builds(Begin, consents), st.builds(Change, numbers, consents), st.builds(Erase, numbers),
    st.builds(Vote, numbers), st.builds(Look),
)  # fmt: skip


def reply(text: str) -> list[Said]:
    return [Said(message=Message(role="assistant", content=(text,)), weight_version="w")]


def do(store: Store, deed: object, begun: list[str]) -> None:
    opening = [Message(role="user", content=(f"Question {getattr(deed, 'prompt', 99) ** 3} of its kind",))]
    if isinstance(deed, Cast):
        a, b, _ = deed.models
        made = store.add_battle(
            1, opening, model_a=a, model_b=b, probability=0.25, consent=deed.consent,  # type: ignore[arg-type]
            category=deed.category, winner=deed.winner, a=reply(deed.replies[0]), b=reply(deed.replies[1]),  # type: ignore[arg-type]
        )  # fmt: skip
        begun.append(made.battle.id)
    elif isinstance(deed, Begin):
        pair = store.start_battle(
            1, opening, model_a="amber-1", model_b="cedar-3", probability=1, consent=deed.consent  # type: ignore[arg-type]
        )  # fmt: skip
        store.answer(pair.id, a=reply("It turns."), b=reply("It spins."))
        begun.append(pair.id)
    elif begun and not isinstance(deed, Look):
        battle = begun[deed.battle % len(begun)]  # type: ignore[attr-defined]
        if store.conversation(battle).erased is not None:
            return
        if isinstance(deed, Change):
            store.set_consent(battle, deed.consent)  # type: ignore[arg-type]
        elif isinstance(deed, Erase):
            store.erase(battle)
        elif not store.battle(battle).voted:
            store.vote(battle, "model_b")


def same(live: LiveVotes, store: Store) -> None:
    read = live.refresh()
    assert live.refresh() == 0 and read >= 0 and live.seq == store.head().seq
    for consent in CONSENTS:
        for rated in (True, False, None):
            rows = list(store.battles(consent=consent, rated=rated))
            assert live.rows(consent=consent, rated=rated) == rows
            mine, whole = live.battles(consent=consent, rated=rated), Battles.from_rows(rows)
            assert mine.digest == whole.digest
            assert (mine.models, mine.style_names) == (whole.models, whole.style_names)
            assert len(mine) == len(whole)
            for seq in {0, live.seq // 2, live.seq - 1, live.seq}:
                later = list(store.battles(consent=consent, rated=rated, after=seq))
                assert live.rows(consent=consent, rated=rated, after=seq) == later
                until = live.battles(consent=consent, rated=rated, until=seq)
                assert until.digest == Battles.from_rows(rows[: len(rows) - len(later)]).digest
    if len(live.battles()):
        board = make_board(live.battles()).to_bytes()
        assert board == make_board(Battles.from_rows(store.battles())).to_bytes()


@settings(max_examples=12)
@given(st.lists(deeds, max_size=25))
def test_what_is_kept_is_what_the_whole_log_gives(shared: Store, deeds: list[object]) -> None:
    shared.add_model("cedar-3")
    begun: list[str] = []
    live = LiveVotes(shared)
    live.refresh()  # all that the examples before have left
    for deed in deeds:
        do(shared, deed, begun)
        if isinstance(deed, Look):
            same(live, shared)
    same(live, shared)
    same(LiveVotes(shared), shared)


def test_a_refresh_reads_what_is_new(store: Store, fight: Fight) -> None:
    live = LiveVotes(store)
    assert (live.refresh(), live.rows(), len(live.battles())) == (1, [], 0)
    battles = [fight(store, f"Question {number * 7}").id for number in range(4)]
    for number, battle in enumerate(battles):
        store.vote(battle, "tie")
        assert live.refresh() == 1 and len(live.battles()) == number + 1
    store.set_consent(battles[1], "none")
    store.erase(battles[2])
    assert live.refresh() == 2
    assert [row.battle for row in live.rows()] == [battles[0], *battles[2:]]
    assert [row.battle for row in live.rows(rated=False, consent="none")] == [battles[1]]


@pytest.mark.parametrize("which", ["live", "battles"])
def test_the_database_goes_to_the_new_rows_by_an_index(store: Store, which: str) -> None:
    """By its own plan, on a log that is long enough to be worth an index."""
    with store.database.write() as connection:
        for number in range(1500):
            chain.append(
                connection, "vote" if number % 5 else "consent", f"battle {number}", {"filler": "x" * 200}
            )
        connection.exec_driver_sql("ANALYZE arena_log")
    asked: list[tuple[str, object]] = []

    def note(connection: object, cursor: object, statement: str, given: object, *rest: object) -> None:
        if "FROM arena_log" in statement:
            asked.append((statement, given))

    sa.event.listen(store.database.engine, "before_cursor_execute", note)
    live = LiveVotes(store)
    live.seq = store.head().seq
    asked.clear()
    assert live.refresh() == 0 if which == "live" else list(store.battles(after=live.seq)) == []
    sa.event.remove(store.database.engine, "before_cursor_execute", note)
    assert asked
    with store.database.read() as connection:
        for statement, given_ in asked:
            explain = "EXPLAIN QUERY PLAN" if store.database.sqlite else "EXPLAIN"
            found = connection.exec_driver_sql(f"{explain} {statement}", given_)  # type: ignore[arg-type]
            plan = " ".join(str(row) for row in found)
            assert "(seq>?)" in plan or "Index Cond: (seq >" in plan, plan


def test_many_look_at_once_and_see_the_same(store: Store, fight: Fight) -> None:
    live, seen, done = LiveVotes(store), [], threading.Event()

    def look() -> None:
        while not done.is_set():
            live.refresh()
            seen.append(len(live.battles()) == len(live.rows()) or live.refresh() >= 0)

    threads = [threading.Thread(target=look) for _ in range(3)]
    for thread in threads:
        thread.start()
    for number in range(6):
        store.vote(fight(store, f"Question {number * 7}").id, "tie")
    done.set()
    for thread in threads:
        thread.join()
    same(live, store)
    assert len(live.rows()) == 6 and seen


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"winner": "nobody"}, r"not a vote \(Invalid enum value 'nobody' - at `\$.winner`\)"),
        ({"time": None}, r"not a vote \(Expected `float`, got `null` - at `\$.time`\)"),
        ({"style_b": {}}, "style_a and style_b count different things"),
        ({"voter": ...}, "not a vote .*missing required field `voter`"),
    ],
    ids=str,
)
def test_a_row_that_is_no_vote_is_named(
    store: Store, fight: Fight, change: dict[str, object], told: str
) -> None:
    store.vote(fight(store, "Question").id, "tie")
    with store.read() as connection:
        text = connection.execute(sa.select(log.c.body).where(log.c.kind == "vote")).scalar_one()
    body = {name: value for name, value in (json.loads(text) | change).items() if value is not ...}
    assert vote_body(7, text).voter == json.loads(text)["voter"]
    with pytest.raises(DataError, match=f"log row 7: {told}"):
        vote_body(7, json.dumps(body))
