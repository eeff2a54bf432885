"""Which two meet: among models that are well, sides by a fair coin, with the probability that is logged."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from whorl.arena.store import Store
from whorl.base.errors import InputError
from whorl.studio.battles.drawing import PairDrawer
from whorl.studio.battles.live_board import LiveBoard
from whorl.studio.models.pool import ModelPool

NAMES = ("amber", "birch", "cedar", "drift")
DRAWS = 4000


@pytest.fixture
def pool() -> ModelPool:
    """Servers that nobody asks: whether they are well is set by hand."""
    made = ModelPool(running=2)
    for name in NAMES:
        made.add(name, "http://127.0.0.1:9")
    return made


@pytest.fixture
def drawer(pool: ModelPool, tmp_path: Path) -> Iterator[PairDrawer]:
    with Store.open(tmp_path / "arena.sqlite") as store:
        yield PairDrawer(pool, LiveBoard(store))


def test_sides_are_fair_and_the_probability_is_that_of_the_pair(drawer: PairDrawer) -> None:
    drawn = [drawer.draw(1) for _ in range(DRAWS)]
    assert all(probability == pytest.approx(1 / 6) for *_, probability in drawn)
    pairs = Counter(frozenset(pair) for *pair, _ in drawn)
    assert len(pairs) == 6 and all(
        abs(count - DRAWS / 6) < 6 * (DRAWS * 5 / 36) ** 0.5 for count in pairs.values()
    )
    for name in NAMES:
        left, right = (sum(one[side] == name for one in drawn) for side in (0, 1))
        assert abs(left - right) < 6 * (left + right) ** 0.5


def test_a_dead_model_is_not_drawn(pool: ModelPool, drawer: PairDrawer) -> None:
    pool.find("amber").state = "down"
    drawn = [drawer.draw(1) for _ in range(200)]
    assert "amber" not in {name for left, right, _ in drawn for name in (left, right)}
    assert all(probability == pytest.approx(1 / 3) for *_, probability in drawn)
    pool.find("birch").state = pool.find("cedar").state = "down"
    with pytest.raises(InputError, match="two available models; only 1 is available: add another"):
        drawer.draw(1)


def test_one_that_failed_rests_for_that_person_where_two_others_are_there(
    pool: ModelPool, drawer: PairDrawer
) -> None:
    drawer.failed(1, "amber")
    drawer.failed(1, "birch")

    def names(person: int) -> set[str]:
        return {name for _ in range(100) for name in drawer.draw(person)[:2]}

    assert names(1) == {"cedar", "drift"} and names(2) == set(NAMES)
    drawer.failed(1, "cedar")
    assert names(1) == set(NAMES)


def test_images_go_to_models_that_see_them(pool: ModelPool, drawer: PairDrawer) -> None:
    for name in ("amber", "birch"):
        pool.find(name).card = {"id": name, "images": False}
    assert {name for _ in range(50) for name in drawer.draw(1, images=True)[:2]} == {"cedar", "drift"}
    pool.find("cedar").card = {"id": "cedar", "images": False}
    with pytest.raises(InputError, match="models that support images; only 1 is available: remove the image"):
        drawer.draw(1, images=True)
