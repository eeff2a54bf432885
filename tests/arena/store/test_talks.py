"""What the pages ask of the store: people and their sessions, lists of conversations, branches, search."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whorl.arena.store import Pairing, Store
from whorl.base.errors import InputError
from whorl.base.nouns import Message

Fight = Callable[..., Pairing]


def said(role: str, text: str) -> Message:
    return Message(role=role, content=(text,))  # type: ignore[arg-type]


def chat(store: Store, text: str, person: int = 1) -> str:
    return store.start_chat(person, [said("user", text)], consent="none")


def test_a_stamp_ends_with_its_token(store: Store) -> None:
    assert store.person(7) is None
    ann = store.person(1)
    assert ann is not None and (ann.name, ann.role, ann.stamp) == ("ann", "voter", "")
    token = store.new_token(1)
    session = store.sign_in("ann", token)
    assert session.stamp and session == store.person(1) == store.people()[0]
    assert token not in session.stamp
    store.set_role(1, "admin")
    now = store.person(1)
    assert now is not None and (now.role, now.stamp) == ("admin", session.stamp)
    store.new_token(1)
    now = store.person(1)
    assert now is not None and now.stamp not in ("", session.stamp)
    store.erase_person(1)
    gone = store.person(1)
    assert gone is not None and (gone.name, gone.role, gone.stamp) == ("erased-1", "voter", "")
    for act, wrong in (
        (lambda: store.set_role(7, "admin"), "person 7 is not in the store"),
        (lambda: store.set_role(1, "king"), "'king' is not one of voter, admin"),  # type: ignore[arg-type]
    ):
        with pytest.raises(InputError, match=wrong):
            act()


def test_a_title_is_one_line_and_goes_with_the_words(store: Store) -> None:
    talk = chat(store, "Tell me of flax.")
    assert store.conversation(talk).title == ""
    store.rename_conversation(talk, "  Flax,\nand\twh\0at is spun 🧵 ")
    assert store.conversation(talk).title == "Flax, and wh at is spun 🧵"
    assert [one.title for one in store.conversations()] == ["Flax, and wh at is spun 🧵"]
    assert store.verify().ok
    store.erase(talk)
    assert store.conversation(talk).title == ""
    for name, title, wrong in (
        ("none", "x", "'none' is not in the store"),
        (talk, "x", "is erased"),
        (chat(store, "Wool?"), "x" * 201, "201 characters"),
        (chat(store, "Linen?"), "\ud800", "no database can store this"),
    ):
        with pytest.raises(InputError, match=wrong) as caught:
            store.rename_conversation(name, title)
        assert "\n" not in str(caught.value)
    if store.database.path:
        for file in store.database.path.parent.glob("arena.sqlite*"):
            assert b"and wh at is spun" not in file.read_bytes()


def test_pages_of_conversations_are_the_whole_list_in_pieces(store: Store, fight: Fight) -> None:
    bob = store.add_person("bob").id
    for number in range(7):
        talk = chat(store, f"Question {number}", person=1 if number % 3 else bob)
        if number % 4 == 1:
            store.erase(talk)
        fight(store, f"Question {number}")
    whole = store.conversations()
    assert [one.started for one in whole] == sorted((one.started for one in whole), reverse=True)
    filters: list[tuple[dict[str, Any], list[str]]] = [
        ({}, [one.id for one in whole]),
        ({"person": bob}, [one.id for one in whole if one.person == bob]),
        ({"kind": "chat", "person": 1}, [one.id for one in whole if one.kind == "chat" and one.person == 1]),
        ({"erased": False}, [one.id for one in whole if one.erased is None]),
        ({"erased": True}, [one.id for one in whole if one.erased is not None]),
    ]
    for wanted, expected in filters:
        assert expected
        for limit in (1, 2, 5, 100):
            found: list[str] = []
            while page := store.conversations(**wanted, limit=limit, before=found[-1] if found else None):
                assert len(page) <= limit
                found += [one.id for one in page]
            assert found == expected
    with pytest.raises(InputError, match="'none' is not in the store"):
        store.conversations(before="none")
    with pytest.raises(InputError, match="limit 0"):
        store.conversations(limit=0)


def test_conversations_begun_at_once_are_in_one_order(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("whorl.arena.store.saying.time.time", lambda: 1000.0)
    made = {chat(store, f"Question {number}") for number in range(6)}
    found: list[str] = []
    while page := store.conversations(limit=1, before=found[-1] if found else None):
        found += [one.id for one in page]
    assert set(found) == made and len(found) == 6


@settings(max_examples=15)
@given(st.lists(st.integers(0, 30), min_size=1, max_size=14))
def test_a_branch_is_the_path_that_was_taken(shared: Store, parents: list[int]) -> None:
    """Turns said behind any earlier one, against the same tree in a list."""
    talk = chat(shared, "Root")
    tree: list[tuple[int, list[int]]] = [(shared.turns(talk)[0].id, [])]
    tree[0] = (tree[0][0], [tree[0][0]])
    for number in parents:
        parent, above = tree[number % len(tree)]
        role = "assistant" if number % 2 else "user"
        made = shared.say(talk, said(role, f"Said {number}"), parent=parent)
        tree.append((made, [*above, made]))
    for turn, expected in tree:
        assert [one.id for one in shared.path(turn)] == expected
        assert shared.turn(turn) == shared.path(turn)[-1]


def test_a_turn_that_is_not_there(shared: Store) -> None:
    for number in (10**9, 2**70, -1):
        for ask in (shared.turn, shared.path):
            with pytest.raises(InputError, match=r"is (not )?in the store|keep") as caught:
                ask(number)
            assert "\n" not in str(caught.value)


def test_search_goes_on_where_a_page_ended(store: Store, fight: Fight) -> None:
    talk = chat(store, "Flax 0")
    turns = [store.say(talk, said("assistant" if n % 2 else "user", f"FLAX {n}")) for n in range(1, 6)]
    battle = fight(store, "Flax, but in a battle").id
    assert [one.conversation for one in store.search(1, "flax", limit=1)] == [battle]
    found = [one.id for one in store.search(1, "flax", kind="chat", limit=2)]
    assert found == turns[:-3:-1]
    rest = store.search(1, "flax", kind="chat", limit=10, before=found[-1])
    assert [one.id for one in rest] == [*turns[-3::-1], store.turns(talk)[0].id]
    assert store.search(1, "flax", before=rest[-1].id) == []
    with pytest.raises(InputError, match="limit 0"):
        store.search(1, "flax", limit=0)


@pytest.mark.parametrize(
    "act",
    [
        lambda store: store.add_person("a\0b"),
        lambda store: store.add_person("\ud800"),
        lambda store: store.sign_in("\ud800", "x"),
        lambda store: store.conversation("\ud800"),
        lambda store: store.person(2**70),
        lambda store: store.thumb(2**70, 1, person=1),
    ],
)
def test_what_no_database_keeps_is_refused_in_one_line(shared: Store, act: Callable[[Store], object]) -> None:
    people = shared.people()
    with pytest.raises(InputError) as caught:
        act(shared)
    assert "\n" not in str(caught.value) and str(shared.database) not in str(caught.value)
    assert shared.people() == people


NAMES: list[Callable[[Store, str], object]] = [
    lambda store, name: store.add_person(name),
    lambda store, name: store.add_model(name),
    lambda store, name: store.add_model("amber-1", aliases=["x", name]),
    lambda store, name: store.add_model("amber-1", address=name),
    lambda store, name: store.say(chat(store, "Hi"), said("assistant", "x"), weight_version=name),
    lambda store, name: store.start_battle(
        1, [said("user", "Hi")], model_a="amber-1", model_b="birch-2", probability=1, consent="none",
        category=name,
    ),
]  # fmt: skip


@pytest.mark.parametrize("name", ["a\0b", "a\nb", "a\x1b[0m", "\ud800", "x" * 301, "a\u2028b"])
@pytest.mark.parametrize("act", NAMES)
def test_a_name_that_cannot_be_kept_or_shown_is_refused(
    shared: Store, act: Callable[[Store, str], object], name: str
) -> None:
    with pytest.raises(InputError, match=r"control character|301 characters") as caught:
        act(shared, name)
    assert "\n" not in str(caught.value)


def test_search_does_not_see_case_beyond_ascii(store: Store) -> None:
    if not store.database.sqlite:
        pytest.skip("PostgreSQL folds letters by its locale: the tests' is C")
    talk = chat(store, "ÜBER Flüsse und STRASSE")
    for words in ("über", "FLÜSSE", "straße", "Über flüsse"):
        assert [one.conversation for one in store.search(1, words)] == [talk]


def test_numbers_that_are_none_are_refused(store: Store, fight: Fight) -> None:
    pair = fight(store)
    for at in (1e300, -1.0, float("inf"), True, "now"):
        with pytest.raises(InputError, match="is not seconds since 1970"):
            store.vote(pair.id, "tie", at=at)  # type: ignore[arg-type]
    for probability in ("0.5", None, True):
        with pytest.raises(InputError, match="must be above 0"):
            store.start_battle(
                1, [said("user", "Hi")], model_a="amber-1", model_b="birch-2", probability=probability,  # type: ignore[arg-type]
                consent="none",
            )  # fmt: skip
