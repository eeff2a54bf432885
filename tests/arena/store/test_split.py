"""What trains never rates: prompts, their clusters, and the export that follows them."""

from __future__ import annotations

import io
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from whorl.arena.store import Pairing, Store, export, prompts
from whorl.arena.store.likeness import of_text, stands_alone
from whorl.arena.store.schema import prompts as table
from whorl.base.nouns import ImagePart, Message

Fight = Callable[..., Pairing]
WORDS = ["spin", "weave", "flax", "wool", "thread", "loom", "dye", "knot", "comb", "card", "reel", "warp"]
WORDS += ["weft", "hem", "felt"]


@pytest.fixture
def split(address: str) -> Iterator[Store]:
    """A store where half of all clusters train."""
    with Store.open(address) as made:
        for name in ("amber-1", "birch-2"):
            made.add_model(name)
        made.add_person("ann")
        yield made


def begin(store: Store, text: str, *images: ImagePart) -> Pairing:
    message = Message(role="user", content=(text, *images))
    return store.start_battle(
        1, [message], model_a="amber-1", model_b="birch-2", probability=1, consent="train"
    )


def test_the_same_prompt_and_one_that_is_nearly_so_share_a_cluster(split: Store) -> None:
    text = "Please write a short poem about the wheel that spins the flax into thread for the loom"
    first = begin(split, text)
    assert begin(split, text.upper() + "!!").cluster == first.cluster
    near = begin(split, text + " today")
    assert (near.cluster, near.purpose) == (first.cluster, first.purpose)
    assert begin(split, "How far is the moon from here, and who measured that?").cluster != first.cluster


def test_images_decide_for_the_prompts_they_are_in(split: Store) -> None:
    one, other = ImagePart(data=b"\x89PNG one"), ImagePart(data=b"\x89PNG other")
    first = begin(split, "What is this?", one)
    assert begin(split, "Describe the picture.", one).cluster == first.cluster
    assert begin(split, "What is this?", other).cluster != first.cluster
    assert begin(split, "What is this?").cluster != first.cluster
    both = begin(split, "Which is nicer?", one, other)
    sides = {first.purpose, begin(split, "x", other).purpose}
    assert both.purpose == (sides.pop() if len(sides) == 1 else "neither")


def test_the_side_is_decided_by_the_prompt_alone(tmp_path: Path) -> None:
    texts = [f"Question {n} on {WORDS[n % 15]} and {WORDS[n * 7 % 15]} {n * n}" for n in range(40)]
    sides = []
    for number, order in enumerate((texts, texts[::-1])):
        with Store.open(tmp_path / f"{number}.sqlite") as store:
            for name in ("amber-1", "birch-2"):
                store.add_model(name)
            store.add_person("ann")
            sides.append({text: begin(store, text).purpose for text in order})
    assert sides[0] == sides[1]
    assert 8 < sum(side == "train" for side in sides[0].values()) < 32


@pytest.mark.parametrize(("share", "side"), [(0.0, "rate"), (1.0, "train")])
def test_the_share_is_kept(tmp_path: Path, share: float, side: str) -> None:
    with Store.open(tmp_path / "arena.sqlite", train_share=share) as store:
        for name in ("amber-1", "birch-2"):
            store.add_model(name)
        store.add_person("ann")
        assert {begin(store, f"Question {n} {n * n} {WORDS[n]}").purpose for n in range(12)} == {side}


@settings(max_examples=8)
@given(st.integers(0, 2**32 - 1))
def test_no_prompt_that_trains_is_similar_to_one_that_rates(
    tmp_path_factory: pytest.TempPathFactory, seed: int
) -> None:
    """Prompts that drift a word at a time, so that clusters meet; each pair compared here, without bands."""
    draw, text = random.Random(seed), [WORDS[n % 15] for n in range(12)]
    with Store.open(tmp_path_factory.mktemp("split") / "arena.sqlite") as store:
        store.add_person("ann")
        for name in ("amber-1", "birch-2"):
            store.add_model(name)
        for _ in range(40):
            if draw.random() < 0.3:
                text = draw.choices(WORDS, k=12)
            else:
                text[draw.randrange(12)] = draw.choice(WORDS)
            if draw.random() < 0.2:
                opening = [Message(role="user", content=(" ".join(text),))]
                store.start_chat(1, opening, consent=draw.choice(["rate", "train"]))
            else:
                begin(store, " ".join(text))
        with store.database.read() as connection:
            rows = connection.execute(sa.select(table.c.purpose, table.c.sketch)).all()
    sketches: dict[str, list[np.ndarray]] = {"train": [], "rate": [], "neither": []}
    for row in rows:
        sketches[row.purpose].append(np.frombuffer(bytes.fromhex(row.sketch), dtype=np.uint64))
    for trains in sketches["train"]:
        for rates in sketches["rate"]:
            assert prompts.similarity(trains, rates) < prompts.THRESHOLD


def test_a_chat_that_trains_takes_a_free_cluster_and_leaves_a_rated_one(store: Store, fight: Fight) -> None:
    """In this store every battle rates."""
    fight(store, "Where does the flax grow best, and when is it pulled?")
    opening = [Message(role="user", content=("Where does the flax grow best, and when is it pulled?",))]
    store.start_chat(1, opening, consent="train")
    other = [Message(role="user", content=("Tell me a tale of a spinner and her three sisters.",))]
    chat = store.start_chat(1, other, consent="rate")
    with store.database.read() as connection:
        assert connection.execute(sa.select(table.c.purpose)).scalars().all() == ["rate"]
    store.set_consent(chat, "train")
    with store.database.read() as connection:
        assert sorted(connection.execute(sa.select(table.c.purpose)).scalars()) == ["rate", "train"]
    assert begin(store, "Tell me a tale of a spinner and her three sisters.").purpose == "train"
    assert store.verify().ok


# -- what is nearly the same -----------------------------------------------------------------------

CAPITAL = "What is the capital of France?"
CHINESE = "\u6cd5\u56fd\u7684\u9996\u90fd\u662f\u54ea\u91cc"
LONG = (
    "Explain in detail how the immune system of mammals tells its own cells from foreign ones, and what"
    " happens when that goes wrong in autoimmune diseases."
)
SAME = [
    (CAPITAL, "what is the capital of france"),
    (CAPITAL, "What's the capital of France?"),
    (CAPITAL, "What\u2019s the capital of France?"),
    (CAPITAL, "Tell me the capital of France"),
    (CAPITAL, f"{CAPITAL} Answer in one word."),
    (CAPITAL, "Please, what is the capital of France? Thanks!"),
    (CAPITAL, "Wh\u0430t is the c\u0430pital of Fr\u0430nce?"),
    (CAPITAL, "W\u200bhat i\u200bs t\u200bhe ca\u200bpital o\u200bf Fr\u200bance?"),
    (CAPITAL, "What is the\u200bcapital of\u200bFrance?"),
    (CAPITAL, "\uff37hat is the \uff43apital of France?"),
    (CHINESE, CHINESE + "?\u8bf7\u56de\u7b54"),
    ("Ünïcode café crème brûlée recipe for two", "Unicode cafe creme brulee recipe for two"),
    ("write a python function that reverses a list", "write a Python function which reverses a list"),
    (LONG, "You are a helpful expert. Answer step by step. Think carefully before you answer and use simple"
     f" words, no jargon, and end with a summary of three sentences. {LONG}"),
    (LONG, LONG + " Padding words that say nothing at all here." * 8),
]  # fmt: skip
OTHER = [
    ("Who invented the radio?", "When was the radio invented?"),
    ("What is 12 + 7?", "What is 12 + 70?"),
    ("Tom has two apples and gives me three pears", "Tom has three apples and gives me two pears"),
    ("Explain this step by step", "Answer this in one word"),
    ("What is love?", "What is war?"),
    ("Can you write a poem about spring?", "Can you write a play about autumn?"),
]


@pytest.mark.parametrize(("one", "other"), SAME)
def test_a_prompt_written_in_another_way_is_the_same_prompt(store: Store, one: str, other: str) -> None:
    first = begin(store, one)
    assert begin(store, other).cluster == first.cluster


@pytest.mark.parametrize(("one", "other"), OTHER)
def test_prompts_that_ask_for_something_else_stay_apart(shared: Store, one: str, other: str) -> None:
    assert begin(shared, one).cluster != begin(shared, other).cluster


def test_questions_of_a_benchmark_do_not_join(shared_data: Callable[[str], Path]) -> None:
    """Of the first thousand of GSM8K, and of MT-Bench's eighty, hardly any two are taken for one."""
    names = {
        "gsm8k-test.jsonl": lambda row: row["question"],
        "mt-bench-questions.jsonl": lambda row: row["turns"][0],
    }
    for name, question in names.items():
        made = [
            of_text(question(json.loads(line))) for line in shared_data(name).read_text().splitlines()[:1000]
        ]
        keys: dict[str, int] = {}
        for prompt in made:
            for key in prompt.keys:
                keys[key] = keys.get(key, 0) + 1
        assert not [key for key, count in keys.items() if count > 1]


# -- later prompts ---------------------------------------------------------------------------------


def said(role: str, text: str) -> Message:
    return Message(role=role, content=(text,))  # type: ignore[arg-type]


def of_side(store: Store, side: str, words: str) -> str:
    """A prompt whose own hash puts it on a side."""
    for number in range(100):
        text = words.format(f"{WORDS[number % 15]}{number}")
        if (prompts.draw(of_text(text).keys[0]) < store.settings["train_share"]) == (side == "train"):
            return text
    raise AssertionError(words)


def play(store: Store, opening: str, *later: str, system: str = "") -> object:
    messages = [said("system", system)] * bool(system) + [said("user", opening)]
    pair = store.start_battle(
        1, messages, model_a="amber-1", model_b="birch-2", probability=1, consent="train"
    )
    for text in ("", *later):
        if text:
            store.say(pair.id, said("user", text))
        store.say(pair.id, said("assistant", "Good."), side="a")
        store.say(pair.id, said("assistant", "Bad."), side="b")
    return store.vote(pair.id, "model_a")


def exported(store: Store, folder: Path) -> str:
    export(store, folder)
    return "".join(path.read_text() for path in sorted(folder.glob("*.jsonl")))


RATED, TRAINED = (
    "Please compute the exact boiling point of {} at two bar",
    "A story on {} and the three sisters",
)


def test_a_rated_prompt_does_not_train_as_a_later_turn(split: Store, tmp_path: Path) -> None:
    rated, trained = of_side(split, "rate", RATED), of_side(split, "train", TRAINED)
    assert play(split, rated).rated  # type: ignore[attr-defined]
    play(split, trained, rated)  # as the second turn of a battle
    play(split, trained, "Go on.")
    play(split, trained, system=rated)  # in the system message
    chat = split.start_chat(1, [said("user", "A chat that has its own beginning")], consent="train")
    split.say(chat, said("assistant", "Well."))
    split.say(chat, said("user", rated))
    reply = split.say(chat, said("assistant", "Not so good."))
    split.write_better(reply, said("assistant", "Better."), person=1)
    split.say(chat, said("user", rated), parent=0)  # the first message, edited
    split.say(chat, said("assistant", "Still not good."))
    split.say(chat, said("user", "Another beginning that is all right"), parent=0)
    split.say(chat, said("assistant", "This may train."))
    late = split.start_chat(1, [said("user", "One more chat, of quite another kind")], consent="none")
    split.say(late, said("assistant", "Well."))
    split.say(late, said("user", rated))
    split.say(late, said("assistant", "Not so good either."))
    split.set_consent(late, "train")
    text = exported(split, tmp_path / "out")
    assert rated not in text and "Not so good" not in text and "Better." not in text
    assert "Go on." in text and "This may train." in text
    assert split.verify().ok


def test_a_later_prompt_takes_the_side_of_its_conversation(split: Store, tmp_path: Path) -> None:
    """Whoever asks it first alone afterwards finds it taken."""
    rated, trained = of_side(split, "rate", RATED), of_side(split, "train", TRAINED)
    would_train, would_rate = (
        of_side(split, "train", "How warm is {} in the month of May?"),
        of_side(split, "rate", "Which colours has {} after a year in the sun?"),
    )
    assert play(split, rated, would_train).rated  # type: ignore[attr-defined]
    play(split, trained, would_rate)
    assert begin(split, would_train).purpose == "rate" and begin(split, would_rate).purpose == "train"
    assert would_rate in exported(split, tmp_path / "out")


def test_a_battle_that_asks_what_trains_is_not_rated(split: Store) -> None:
    rated, trained = of_side(split, "rate", RATED), of_side(split, "train", TRAINED)
    play(split, trained)
    vote = play(split, rated, trained)
    assert vote.reason == "a later prompt in it is reserved for training"  # type: ignore[attr-defined]
    assert play(split, rated, "And then?").rated  # type: ignore[attr-defined]
    split.set_consent(vote.battle.id, "rate")  # type: ignore[attr-defined]
    assert [row.rated for row in split.battles(rated=None)] == [False, False, True]
    assert split.verify().ok


def test_a_few_words_alone_are_no_prompt() -> None:
    assert not stands_alone(said("user", "And in French?")) and not stands_alone(said("user", "ok, thanks"))
    assert stands_alone(said("user", "What is the capital?")) and stands_alone(
        said("user", "\u6cd5\u56fd\u9996\u90fd")
    )


# -- pictures --------------------------------------------------------------------------------------


def picture(kind: str, colour: str = "red") -> ImagePart:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(file, kind)
    return ImagePart(data=file.getvalue())


def test_a_picture_saved_anew_is_the_same_picture(split: Store) -> None:
    first = begin(split, "What is this?", picture("PNG"))
    assert begin(split, "Describe it in words.", picture("BMP")).cluster == first.cluster
    assert begin(split, "Describe it in words.", picture("PNG", "blue")).cluster != first.cluster


# -- what is left of an erased prompt --------------------------------------------------------------


def test_an_erased_prompt_keeps_its_side_and_leaves_no_word(split: Store, tmp_path: Path) -> None:
    words = "Please explain to me how a bicycle with {} gears climbs a steep hill in the rain"
    rated, near = of_side(split, "rate", words), of_side(split, "train", words)
    bob = split.add_person("bob").id
    assert play(split, rated).rated and play(split, near).rated  # type: ignore[attr-defined]
    split.erase_person(1)
    with split.database.read() as connection:
        assert connection.execute(sa.text("SELECT COUNT(*) FROM arena_prompt_keys")).scalar_one() == 0
        assert connection.execute(sa.text("SELECT COUNT(*) FROM arena_prompt_bands")).scalar_one() == 0
        marks = connection.execute(sa.text("SELECT mark FROM arena_prompt_marks")).scalars().all()
    known = of_text(rated)
    assert marks and not {*known.keys, *map(str, known.bands)} & set(marks)
    for text in (near, rated, rated + " today", words.format("a dozen")):
        chat = split.start_chat(bob, [said("user", text)], consent="train")
        split.say(chat, said("assistant", "It does not."))
    assert "bicycle" not in exported(split, tmp_path / "out")
    assert split.verify().ok
