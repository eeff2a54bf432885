"""What trains never rates: prompts, their clusters, and the export that follows them."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from whorl.arena.store import Pairing, Store, prompts
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
