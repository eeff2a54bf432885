"""The live board equals one made from the whole log, whatever came into the log and in which order."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from whorl.arena.battles import WINNERS, Battles
from whorl.arena.board import make_board
from whorl.arena.store import Store
from whorl.base.nouns import Message
from whorl.studio.battles.live_board import LiveBoard

MODELS = ("amber-1", "birch-2", "cedar-3", "drift-4")


@pytest.fixture(scope="module")
def blank(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("blank") / "arena.sqlite"
    with Store.open(path, train_share=0.0) as store:
        for name in MODELS:
            store.add_model(name)
        for name in ("ann", "ben"):
            store.add_person(name)
    return path


@pytest.fixture
def store(blank: Path, tmp_path: Path) -> Iterator[Store]:
    with Store.open(shutil.copy(blank, tmp_path / "arena.sqlite")) as opened:
        yield opened


def fight(store: Store, a: str, b: str, winner: Any, *, person: int = 1, consent: Any = "rate") -> str:
    opening = [Message(role="user", content=(f"What is {len(a)}?",))]
    pair = store.start_battle(person, opening, model_a=a, model_b=b, probability=0.5, consent=consent)
    for side in ("a", "b"):
        store.say(pair.id, Message(role="assistant", content=("So.",)), side=side)
    store.vote(pair.id, winner, person=person)
    return pair.id


def from_scratch(store: Store) -> bytes | None:
    battles = Battles.from_rows(store.battles())
    return make_board(battles).to_bytes() if len(battles) else None


ACTS = st.lists(
    st.one_of(
        st.tuples(
            st.just("vote"), st.permutations(MODELS).map(lambda names: names[:2]), st.sampled_from(WINNERS),
            st.sampled_from(["none", "rate", "train"]),
        ),
        st.tuples(st.just("consent"), st.integers(0, 30), st.sampled_from(["none", "rate"])),
        st.tuples(st.just("erase"), st.integers(0, 30)),
        st.tuples(st.just("refresh")),
    ),
    max_size=14,
)  # fmt: skip


@given(ACTS)
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_it_equals_a_board_from_scratch(blank: Path, tmp_path: Path, acts: list[Any]) -> None:
    with Store.open(shutil.copy(blank, tmp_path / "arena.sqlite")) as store:
        told: list[int] = []

        def read(votes: Any, afresh: bool) -> None:
            told[:] = [*([] if afresh else told), *(vote.seq for vote in votes)]

        live = LiveBoard(store, each=read)
        fought: list[str] = []
        for act, *given_ in [*acts, ("refresh",)]:
            if act == "vote":
                (a, b), winner, consent = given_
                fought.append(fight(store, a, b, winner, consent=consent))
            elif act == "consent" and fought:
                store.set_consent(fought[given_[0] % len(fought)], given_[1])
            elif act == "erase" and fought:
                store.erase(fought.pop(given_[0] % len(fought)))
            elif act == "refresh":
                board = live.refresh().board
                assert (board.to_bytes() if board else None) == from_scratch(store)
        assert told == [vote.seq for vote in store.battles(consent="none", rated=None)]
        assert live.snapshot.votes == len(told)


def test_a_vote_moves_the_board_and_the_movement_is_told(store: Store) -> None:
    live = LiveBoard(store)
    for winner in ("model_a", "model_b", "tie"):
        fight(store, "amber-1", "birch-2", winner)
    before = live.refresh()
    assert live.movement(before.seq + 1, MODELS[:2]) is None
    fight(store, "amber-1", "birch-2", "model_a")
    after = live.refresh()
    moved = live.movement(after.seq, ("amber-1", "drift-4"))
    assert moved is not None and moved.votes == 1
    was, now = moved.before["amber-1"], moved.after["amber-1"]
    assert was is not None and now is not None and now["rating"] > was["rating"]
    assert was == before.row("amber-1") and now == after.row("amber-1")
    assert moved.after["drift-4"] is None


def test_a_vote_from_before_the_start_is_cut_out_of_the_log(store: Store) -> None:
    for winner in ("model_a", "model_b", "model_a"):
        fight(store, "amber-1", "birch-2", winner)
    votes = list(store.battles())
    live = LiveBoard(store)
    live.refresh()
    moved = live.movement(votes[1].seq, ("amber-1",))
    wanted = [make_board(Battles.from_rows(votes[:count])).rows[0]["battles"] for count in (1, 2)]
    assert moved is not None and moved.votes == 1
    assert [row["battles"] for row in (moved.before["amber-1"], moved.after["amber-1"]) if row] == wanted


def test_the_thread_sees_votes_and_tells_listeners(store: Store) -> None:
    live = LiveBoard(store, pause=0.01)
    seen = threading.Event()
    wanted = [0]
    end = live.listen(lambda snapshot: seen.set() if snapshot.votes >= wanted[0] > 0 else None)
    live.start()
    try:
        for number in range(5):
            fight(store, "amber-1", "cedar-3", "model_a" if number % 2 else "tie")
            live.poke()
        wanted[0] = 5
        live.poke()
        fight(store, "amber-1", "cedar-3", "tie")
        live.poke()
        assert seen.wait(30)
        end()
    finally:
        live.close()
    board = live.refresh().board
    assert board is not None and board.to_bytes() == from_scratch(store)
