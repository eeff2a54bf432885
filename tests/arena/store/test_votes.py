"""Votes on both databases: what is kept, what is refused, what the ratings read."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa

from whorl.arena.store import Pairing, Said, Store
from whorl.base.errors import DataError, InputError
from whorl.base.nouns import Message, ToolCall

Fight = Callable[..., Pairing]


def said(role: str, text: str) -> Message:
    return Message(role=role, content=(text,))  # type: ignore[arg-type]


said_ = said  # where a test's argument has the name


def test_a_vote_is_read_back_with_all_that_a_rating_needs(store: Store, fight: Fight) -> None:
    pair = fight(store, category="spinning")
    vote = store.vote(pair.id, "model_b", person=1, at=1234.5)
    assert vote.rated and vote.reason == ""
    [row] = store.battles()
    assert (row.model_a, row.model_b, row.winner, row.time) == ("amber-1", "birch-2", "model_b", 1234.5)
    assert (row.probability, row.voter, row.category, row.prompt) == (0.5, "1", "spinning", str(pair.cluster))
    assert (row.weights_a, row.weights_b) == (("w-a",), ("w-b",))
    assert {name: (a, b) for name, a, b in row.style} == {
        "tokens": (5, 3), "headers": (0, 0), "lists": (0, 0), "bold": (0, 1)
    }  # fmt: skip
    assert store.verify(vote.head).ok
    assert store.battle(pair.id).voted


def test_a_battle_of_many_turns_counts_them_all(store: Store, fight: Fight) -> None:
    pair = fight(store)
    store.say(pair.id, said("user", "And then?"))
    trace = {"token_ids": list(range(40)), "id": "chatcmpl-1"}
    store.say(pair.id, said("assistant", "# Then"), side="a", weight_version="w-a2", trace=trace)
    store.say(pair.id, said("assistant", "- one\n- two"), side="b")
    store.vote(pair.id, "tie")
    [row] = store.battles()
    assert row.weights_a == ("w-a", "w-a2")
    # Words, of both: one side's tokens beside the other's words would be a difference of units.
    assert {name: (a, b) for name, a, b in row.style}["tokens"] == (7, 7)
    assert {name: (a, b) for name, a, b in row.style}["lists"] == (0, 2)


def test_tokens_are_counted_where_every_reply_has_them(store: Store) -> None:
    opening = [said("user", "What does a whorl do?")]
    pair = store.start_battle(1, opening, model_a="amber-1", model_b="birch-2", probability=1, consent="rate")
    replies = {
        side: [Said(message=said("assistant", "It turns."), trace={"token_ids": list(range(count))})]
        for side, count in (("a", 40), ("b", 9))
    }
    store.answer(pair.id, a=replies["a"], b=replies["b"])
    store.vote(pair.id, "tie")
    [row] = store.battles()
    assert {name: (a, b) for name, a, b in row.style}["tokens"] == (40, 9)


def test_a_vote_on_half_an_answer_is_kept_and_not_rated(store: Store) -> None:
    opening = [said("user", "What does a whorl do?")]
    pair = store.start_battle(1, opening, model_a="amber-1", model_b="birch-2", probability=1, consent="rate")
    store.answer(
        pair.id,
        a=[Said(message=said("assistant", "It turns."), trace={"ending": "length"})],
        b=[Said(message=said("assistant", "It"), trace={"ending": "stopped"})],
    )
    vote = store.vote(pair.id, "model_a")
    assert not vote.rated and vote.reason == "reply b was stopped early"
    assert list(store.battles()) == []
    [row] = store.battles(rated=None)
    assert row.about_a_reply


@pytest.mark.parametrize(
    ("act", "said"),
    [
        (lambda store, pair: store.vote("no-such", "tie"), "'no-such' is not in the store"),
        (lambda store, pair: store.vote(pair.id, "left"), "'left' is not one of model_a"),
        (lambda store, pair: store.vote(pair.id, "tie", person=2), "another person"),
        (lambda store, pair: store.vote(pair.id, "tie", at=float("nan")), "not seconds since 1970"),
        (
            lambda store, pair: (store.vote(pair.id, "tie"), store.vote(pair.id, "tie")),
            "each battle takes one",
        ),
        (lambda store, pair: (store.erase(pair.id), store.vote(pair.id, "tie")), "is erased"),
        (
            lambda store, pair: (store.vote(pair.id, "tie"), store.say(pair.id, said_("user", "more"))),
            "has its vote and is over",
        ),
        (lambda store, pair: store.say(pair.id, said_("assistant", "x")), "needs its side"),
        (lambda store, pair: store.say(pair.id, said_("user", "x"), side="a"), "goes to both sides"),
        (lambda store, pair: store.say(pair.id, said_("user", "\ud800")), "lone surrogate"),
        (lambda store, pair: store.say("none", said_("user", "x")), "'none' is not in the store"),
        (lambda store, pair: store.add_person("ann"), "'ann' is already in the store"),
        (lambda store, pair: store.set_consent(pair.id, "maybe"), "'maybe' is not one of none, rate, train"),
    ],
)
def test_a_mistake_is_refused_in_one_line_and_changes_nothing(
    shared: Store, fight: Fight, act: Callable[[Store, Pairing], object], said: str
) -> None:
    pair, before = fight(shared), shared.verify().votes
    with pytest.raises(InputError, match=said) as caught:
        act(shared, pair)
    assert "\n" not in str(caught.value)
    after = shared.verify()
    assert after.ok and after.votes - before == shared.battle(pair.id).voted


def test_a_battle_needs_two_known_models_and_both_answers(store: Store) -> None:
    opening = [said("user", "Hello there")]
    for given, wrong in (
        ({"model_b": "cedar"}, "'cedar' is not in the store"),
        ({"model_b": "amber-1"}, "paired with itself"),
        ({"probability": 0.0}, "must be above 0"),
        ({"probability": float("nan")}, "must be above 0"),
        ({"consent": "yes"}, "'yes' is not one of"),
        ({"person": 7}, "person 7 is not in the store"),
        ({"opening": [said("system", "Be kind.")]}, "no user message"),
    ):
        options = {"person": 1, "opening": opening, "model_a": "amber-1", "model_b": "birch-2"}
        options |= {"probability": 1.0, "consent": "rate", **given}
        with pytest.raises(InputError, match=wrong):
            store.start_battle(**options)  # type: ignore[arg-type]
    assert store.conversations() == []
    pair = store.start_battle(1, opening, model_a="amber-1", model_b="birch-2", probability=1, consent="rate")
    store.say(pair.id, said("assistant", "Hi."), side="b")
    with pytest.raises(InputError, match="side a has not answered"):
        store.vote(pair.id, "model_b")


@pytest.mark.parametrize(
    ("reply", "rated"),
    [
        ("I am Amber 1, at your service.", False),
        ("As AMBER1 I cannot say.", False),
        ("You should ask birch_2!", False),
        ("My maker is the Loom Company.", False),
        ("Amber is a resin; 1 gram will do.", True),
        ("camber-12 is a plane", True),
        ("A base chat is fine.", True),
        ("I'm Base, a model.", False),
    ],
)
def test_a_reply_that_names_a_model_is_kept_and_not_rated(
    shared: Store, fight: Fight, reply: str, rated: bool
) -> None:
    shared.add_model("amber-1", aliases=["Loom Company", "base"])
    pair, before = fight(shared), len(list(shared.battles()))
    shared.say(pair.id, said("user", "Who are you?"))
    shared.say(pair.id, said("assistant", reply), side="a")
    shared.say(pair.id, said("assistant", "Guess."), side="b")
    vote = shared.vote(pair.id, "model_a")
    assert vote.rated is rated
    assert len(list(shared.battles())) - before == rated
    row = list(shared.battles(rated=None))[-1]
    assert row.battle == pair.id and row.rated is rated and bool(row.reason) is not rated


def test_consent_is_honoured_from_then_on_and_past_boards_stay(store: Store, fight: Fight) -> None:
    first, second = fight(store, consent="none"), fight(store, "Another thing entirely, please.")
    assert store.vote(first.id, "tie").reason == "no consent to rate"
    store.vote(second.id, "tie")
    assert [row.battle for row in store.battles()] == [second.id]
    with store.database.read() as connection:
        micro = connection.execute(sa.text("SELECT MAX(recorded) FROM arena_log")).scalar_one()
    store.set_consent(first.id, "train")
    store.set_consent(second.id, "none")
    assert [row.battle for row in store.battles()] == [first.id]
    assert [row.battle for row in store.battles(consent="train")] == [first.id]
    assert [row.battle for row in store.battles(at=micro / 1e6)] == [second.id]
    assert store.verify().ok


def test_boards_of_the_past_are_the_same_rows_again(store: Store, fight: Fight) -> None:
    boards = []
    for number in range(6):
        vote = store.vote(fight(store, f"Question number {number} of a kind {number * 7}").id, "model_a")
        with store.database.read() as connection:
            recorded = connection.execute(
                sa.text("SELECT recorded FROM arena_log WHERE seq = :seq"), {"seq": vote.head.seq}
            ).scalar_one()
        boards.append((recorded / 1e6, list(store.battles())))
    store.erase(boards[-1][1][2].battle)
    for at, board in boards:
        assert list(store.battles(at=at)) == board
    assert [row.seq for row in store.battles(after=boards[2][1][-1].seq)] == [
        row.seq for row in boards[-1][1][3:]
    ]
    assert list(store.battles(category="none such")) == []


def test_threads_and_a_second_handle_write_one_chain(store: Store, address: str, fight: Fight) -> None:
    def work(handle: Store, start: int) -> None:
        for number in range(4):
            pair = fight(handle, f"Thread {start} asks its question number {number}")
            handle.vote(pair.id, "tie")

    with Store.open(address) as other, ThreadPoolExecutor(6) as pool:
        for done in [pool.submit(work, h, n) for n, h in enumerate([store, other] * 3)]:
            done.result()
    found = store.verify()
    assert found.ok and found.votes == 24


def test_two_who_vote_at_once_leave_one_vote(store: Store, fight: Fight) -> None:
    pair = fight(store)
    start, results = threading.Barrier(4), []

    def work() -> None:
        start.wait()
        try:
            results.append(store.vote(pair.id, "tie"))
        except InputError as error:
            results.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(isinstance(result, InputError) for result in results) == 3
    assert store.verify().votes == 1


def test_the_database_itself_refuses_to_change_a_vote(store: Store, fight: Fight) -> None:
    store.vote(fight(store).id, "tie")
    rest = "subject, recorded, body, previous, hash FROM arena_log"
    for statement in (
        "UPDATE arena_log SET body = '{}' WHERE seq = 2",
        "DELETE FROM arena_log WHERE seq = 2",
        f"INSERT INTO arena_log SELECT 9, 'x', {rest} WHERE seq = 2",
        f"INSERT INTO arena_log SELECT 3, 'x', {rest} WHERE seq = 2",
        "UPDATE arena_contents SET body = 'x' WHERE id = 1",
        "DELETE FROM arena_contents",
        "UPDATE arena_turns SET weights = 'x'",
        "UPDATE arena_battles SET model_a = model_b",
        "DELETE FROM arena_conversations",
        "TRUNCATE arena_log" if not store.database.sqlite else "DELETE FROM arena_log",
        f"INSERT OR REPLACE INTO arena_log SELECT seq, kind, {rest} WHERE seq = 2"
        if store.database.sqlite
        else "TRUNCATE arena_contents CASCADE",
    ):
        with pytest.raises(DataError, match="refused"), store.database.write() as connection:
            connection.execute(sa.text(statement))
    assert store.verify().ok


def test_erasing_leaves_a_tombstone_that_verifies_and_no_word(store: Store, fight: Fight) -> None:
    secret = "a secret about the xylophone"
    pair = fight(store, f"Keep {secret} for me, " + f"and {secret} again, " * 1000)  # over many pages
    other = fight(store, "Something else that may well stay where it is.")
    store.vote(pair.id, "model_a")
    store.vote(other.id, "model_b")
    end = store.erase(pair.id)
    assert store.conversation(pair.id).erased is not None
    assert [turn.message for turn in store.turns(pair.id)] == [None] * 3
    assert all(turn.message for turn in store.turns(other.id))
    found = store.verify(end)
    assert found.ok and found.erased == 1 and found.votes == 2
    assert len(list(store.battles())) == 2
    with pytest.raises(InputError, match="is erased"):
        store.erase(pair.id)
    with store.database.read() as connection:
        for rows in ("id) FROM arena_prompts WHERE sketch IS NOT NULL", "prompt) FROM arena_prompt_keys"):
            assert connection.execute(sa.text(f"SELECT COUNT(DISTINCT {rows}")).scalar_one() == 1
    if store.database.path:
        for file in store.database.path.parent.glob("arena.sqlite*"):
            assert b"xylophone" not in file.read_bytes(), file


def test_the_number_of_an_erased_prompt_is_not_given_again(store: Store, fight: Fight) -> None:
    pair = fight(store)
    store.vote(pair.id, "tie")
    store.erase(pair.id)
    assert fight(store, "Where do the wild geese go in winter?").cluster != pair.cluster
    assert fight(store).cluster == pair.cluster  # the same words are the same prompt


def test_both_sides_answer_in_one_transaction(store: Store) -> None:
    opening = [said("user", "What does a whorl do?")]
    pair = store.start_battle(1, opening, model_a="amber-1", model_b="birch-2", probability=1, consent="rate")
    call = ToolCall(id="1", name="look_up", arguments={"word": "whorl"})
    asked = Said(message=Message(role="assistant", tool_calls=(call,)), weight_version="w-a")
    told = Said(message=Message(role="tool", content=("a weight",), tool_call_id="1"))
    trace = {"token_ids": [1, 2, 3]}
    made = store.answer(
        pair.id,
        a=[asked, told, Said(message=said("assistant", "It turns."), weight_version="w-a", trace=trace)],
        b=[Said(message=said("assistant", "No idea."), weight_version="w-b")],
    )
    known = {turn.id: turn for turn in store.turns(pair.id)}
    first = min(known)
    assert [known[turn].parent for turn in made["a"]] == [first, *made["a"][:2]]
    assert [known[turn].parent for turn in made["b"]] == [first]
    assert [known[turn].model for turn in made["a"] + made["b"]] == ["amber-1"] * 3 + ["birch-2"]
    assert [known[turn].message for turn in made["a"][:2]] == [asked.message, told.message]
    assert known[made["a"][2]].trace == trace
    again = store.answer(pair.id, b=[Said(message=said("assistant", "And yet."))])
    assert store.turns(pair.id)[-1].parent == made["b"][0] and list(again) == ["b"]
    for act, wrong in (
        (lambda: store.answer(pair.id), "no answer to store"),
        (lambda: store.answer(pair.id, a=[Said(message=said("user", "x"))]), "goes to both sides"),
        (lambda: store.answer("none", a=[asked]), "'none' is not in the store"),
        (lambda: store.answer(pair.id, a=[Said(message=said("assistant", "\ud800"))]), "lone surrogate"),
    ):
        with pytest.raises(InputError, match=wrong):
            act()
    store.vote(pair.id, "model_a")
    with pytest.raises(InputError, match="has its vote and is over"):
        store.answer(pair.id, a=[asked])
    [row] = store.battles()
    assert row.weights_a == ("w-a",) and store.verify().ok


def test_a_battle_in_one_piece_is_as_one_in_four(store: Store, fight: Fight) -> None:
    pair = fight(store, category="spinning", consent="train")
    store.vote(pair.id, "model_a", person=1, at=99.0)
    vote = store.add_battle(
        1, [said("user", "What does a whorl do?")], model_a="amber-1", model_b="birch-2", probability=0.5,
        consent="train", category="spinning", winner="model_a", at=99.0,
        a=[Said(message=said("assistant", "It keeps the spindle turning."), weight_version="w-a")],
        b=[Said(message=said("assistant", "Nothing **at all**."), weight_version="w-b")],
    )  # fmt: skip
    assert vote.rated and vote.battle.voted and store.battle(vote.battle.id) == vote.battle
    one, other = store.battles()
    assert other == one._replace(seq=other.seq, battle=vote.battle.id)
    turns = [
        [replace(turn, id=0, conversation="", parent=None, time=0) for turn in store.turns(battle)]
        for battle in (pair.id, vote.battle.id)
    ]
    assert turns[0] == turns[1]
    assert store.verify(vote.head).ok


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"winner": "left"}, "'left' is not one of"),
        ({"b": ()}, "side b has not answered"),
        ({"model_b": "cedar"}, "'cedar' is not in the store"),
        ({"person": 9}, "person 9 is not in the store"),
        ({"at": -1.0}, "not seconds since 1970"),
    ],
)
def test_a_battle_in_one_piece_is_kept_whole_or_not_at_all(
    shared: Store, wrong: dict[str, object], told: str
) -> None:
    reply = [Said(message=said("assistant", "Yes."))]
    given = {"person": 1, "opening": [said("user", "Whole?")], "model_a": "amber-1", "model_b": "birch-2"}
    given |= {"probability": 1, "consent": "rate", "a": reply, "b": reply, "winner": "tie", **wrong}
    before, head = shared.conversations(), shared.head()
    with pytest.raises(InputError, match=told):
        shared.add_battle(**given)  # type: ignore[arg-type]
    assert (shared.conversations(), shared.head()) == (before, head)


def test_a_chat_is_told_of_a_model_that_is_not_known(shared: Store) -> None:
    chat = shared.start_chat(1, [said("user", "Hello")], consent="none")
    with pytest.raises(InputError, match="'cedar' is not in the store; add it with add_model"):
        shared.say(chat, said("assistant", "Hi"), model="cedar")


def test_erasing_a_person_takes_the_name_and_the_words(store: Store, fight: Fight) -> None:
    store.vote(fight(store).id, "tie")
    chat = store.start_chat(1, [said("user", "Tell me of flax.")], consent="train")
    store.erase_person(1)
    assert [person.name for person in store.people()] == ["erased-1"]
    assert store.turns(chat)[0].message is None
    assert store.verify().ok
    if store.database.path:
        for file in store.database.path.parent.glob("arena.sqlite*"):
            assert b"flax" not in file.read_bytes() and b"ann" not in file.read_bytes()


def test_sign_in_takes_the_newest_token_alone(store: Store) -> None:
    first = store.new_token(1)
    second = store.new_token(1)
    assert store.sign_in("ann", second).id == 1
    for name, token in (("ann", first), ("ann", ""), ("bob", second), ("ann", "\ud800")):
        with pytest.raises(InputError, match="wrong name or token"):
            store.sign_in(name, token)
    with pytest.raises(InputError, match="person 9"):
        store.new_token(9)


def test_thumbs_and_better_replies_are_kept_apart_from_votes(store: Store, fight: Fight) -> None:
    chat = store.start_chat(1, [said("user", "Tell me of flax.")], consent="train")
    turn = store.say(chat, said("assistant", "No."), model="amber-1", weight_version="w1")
    store.thumb(turn, -1, person=1, reason="rude")
    store.write_better(turn, said("assistant", "Flax is spun into linen."), person=1)
    kinds = [(one.kind, one.value, one.reason) for one in store.preferences(chat)]
    assert kinds == [("thumb", -1, "rude"), ("better", 0, "")]
    assert store.preferences(chat)[1].better == said("assistant", "Flax is spun into linen.")
    assert list(store.battles(rated=None)) == []
    pair = fight(store)
    reply = store.turns(pair.id)[1].id
    question = store.turns(chat)[0].id
    for act, wrong in (
        (lambda: store.thumb(reply, 1, person=1), "vote on that instead"),
        (lambda: store.thumb(question, 1, person=1), "only replies can be judged"),
        (lambda: store.thumb(turn, 5, person=1), "thumb 5"),
        (lambda: store.thumb(turn, 1, person=2), "another person"),
        (lambda: store.thumb(999, 1, person=1), "turn 999 is not in the store"),
        (lambda: store.write_better(turn, said("user", "x"), person=1), "not a user message"),
        (lambda: store.vote(chat, "tie"), "is not in the store"),
    ):
        with pytest.raises(InputError, match=wrong):
            act()
    store.erase(chat)
    assert [(one.reason, one.better) for one in store.preferences(chat)] == [("", None), ("", None)]
    assert store.verify().ok


def test_branches_of_a_chat_are_paths_by_parent(store: Store) -> None:
    from whorl.arena.store.talks import path

    chat = store.start_chat(
        1, [said("system", "Be brief."), said("user", "Tell me of flax.")], consent="none"
    )
    asked = store.turns(chat)[-1].id
    store.say(chat, said("assistant", "It grows."), model="amber-1")
    again = store.say(chat, said("assistant", "It is spun."), parent=asked, model="amber-1")
    more = store.say(chat, said("user", "And then?"))
    texts = [turn.message.text for turn in path(store.turns(chat), more) if turn.message]
    assert texts == ["Be brief.", "Tell me of flax.", "It is spun.", "And then?"]
    edited = store.say(chat, said("user", "Tell me of wool."), parent=store.turns(chat)[0].id)
    assert len(path(store.turns(chat), edited)) == 2
    anew = store.say(chat, said("user", "Anew"), parent=0)
    assert len(path(store.turns(chat), anew)) == 1
    other = store.start_chat(1, [said("user", "Hm.")], consent="none")
    with pytest.raises(InputError, match=f"turn {again} is not in conversation {other}"):
        store.say(other, said("user", "x"), parent=again)
    with pytest.raises(InputError, match="has no side"):
        store.say(other, said("assistant", "x"), side="a")


def test_search_finds_words_in_ones_own_conversations(store: Store) -> None:
    bob = store.add_person("bob").id
    mine = store.start_chat(1, [said("user", 'The "role" of Flax:\n100% linen_cloth')], consent="none")
    store.start_chat(bob, [said("user", "flax of another")], consent="none")
    reply = store.say(mine, said("assistant", "FLAX indeed."))
    assert [turn.id for turn in store.search(1, "flax")] == [reply, reply - 2]
    assert [turn.id for turn in store.search(1, "flax", limit=1)] == [reply]
    for words, found in (
        ('"role"', 1), ("role", 1), ("content", 0), ("100%", 1), ("10%", 0), ("linen_cloth", 1),
        ("linen-cloth", 0), ("Flax:\n100", 1), ("\\n", 0),
    ):  # fmt: skip
        assert len(store.search(1, words)) == found, words
    store.erase(mine)
    assert store.search(1, "flax") == []
    with pytest.raises(InputError, match="the search is empty"):
        store.search(1, " ")


def test_a_message_that_is_too_long_is_refused(store: Store, fight: Fight) -> None:
    pair, long = fight(store), "word " * 300_000
    for act in (
        lambda: store.say(pair.id, said("user", long)),
        lambda: store.start_chat(1, [said("user", long)], consent="train"),
    ):
        with pytest.raises(InputError, match="1,500,000 characters long"):
            act()
    store.say(pair.id, said("assistant", "**a " * 200_000), side="a")  # is counted in no time
    store.vote(pair.id, "model_b")


def test_text_of_any_kind_comes_back_as_it_was(store: Store) -> None:
    text = "NUL \0, ünï, \u2028, 🧵, \\u0000, '\"; DROP TABLE arena_log; --"
    chat = store.start_chat(1, [said("user", text)], consent="none")
    [turn] = store.turns(chat)
    assert turn.message == said("user", text)


def test_a_full_disk_loses_nothing_and_says_so(tmp_path: Path) -> None:
    from whorl.base.errors import FaultError

    with Store.open(tmp_path / "arena.sqlite") as store:
        store.add_person("ann")
        with store.database.engine.connect() as connection:
            pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
        store.database.close()

        @sa.event.listens_for(store.database.engine, "connect")
        def limit(connection: object, record: object) -> None:
            connection.execute(f"PRAGMA max_page_count={pages + 8}")  # type: ignore[attr-defined]

        with pytest.raises(FaultError, match="free some space") as caught:
            store.start_chat(1, [said("user", "x" * 200_000)], consent="none")
        assert "\n" not in str(caught.value)
        assert store.conversations() == []
        assert store.verify().ok
