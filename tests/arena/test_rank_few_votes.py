"""Ratings of few votes, or of models that only won, lost, tied or never met."""

from __future__ import annotations

import math

import numpy as np
import pytest

from whorl.arena import Battle, Ratings, fit_bradley_terry
from whorl.base.errors import InputError

ALPHA = 400 / math.log(10)


def beat(*pairs: str) -> list[Battle]:
    """`a>b` a battle won, `a=b` a tie."""
    made = []
    for pair in pairs:
        a, sign, b = pair[0], pair[1], pair[2]
        made.append(Battle(model_a=a, model_b=b, winner="model_a" if sign == ">" else "tie"))
    return made


def of(ratings: Ratings) -> dict[str, dict[str, float]]:
    return {row["model"]: row for row in ratings.rows()}


def test_a_model_that_only_won_has_no_upper_end_and_does_not_move_the_others() -> None:
    ground = beat("a>b", "b>a", "a>b", "b>c", "c>b", "c=a", "a>c", "b=c") * 5
    ratings = fit_bradley_terry(ground + beat("x>a", "x>b"))
    row = of(ratings)
    assert row["x"]["high"] is None and row["x"]["low"] is not None
    assert all(row[name]["high"] is not None and row[name]["low"] is not None for name in "abc")
    assert "x only ever won" in " ".join(ratings.notes)
    assert ratings.models[ratings.order[0]] == "x" and row["x"]["rank"] == 1
    plain = of(fit_bradley_terry(ground))
    gap = row["a"]["rating"] - row["b"]["rating"]
    assert gap == pytest.approx(plain["a"]["rating"] - plain["b"]["rating"], abs=8)
    # Two wins prove little: the interval is far wider than a sandwich of them would be, and two hundred more.
    assert row["x"]["rating"] - row["x"]["low"] > 200
    many = of(fit_bradley_terry(ground + beat("x>a", "x>b") * 100))
    assert many["x"]["low"] > row["x"]["low"] + 100


def test_one_battle_and_only_losses_are_rated_and_said() -> None:
    ratings = fit_bradley_terry(beat("a>b"))
    row = of(ratings)
    assert row["a"]["rating"] > 1000 > row["b"]["rating"]
    assert row["a"]["high"] is None and row["b"]["low"] is None
    assert row["a"]["rank"] == row["b"]["rank"] == 1
    assert len(ratings.notes) == 2


def test_two_leagues_one_above_the_other() -> None:
    """Whoever met from the upper league won: within each league the ratings stay what they were."""
    upper, lower = beat("a>b", "a>b", "b>a", "c>a", "b>c"), beat("p>q", "q>p", "q>p")
    ratings = fit_bradley_terry((upper + lower) * 4 + beat("a>p", "b>q", "c>p"))
    row = of(ratings)
    assert all(row[low]["low"] is None for low in "pq")  # the larger league is the ground
    assert all(row[name]["high"] is not None and row[name]["low"] is not None for name in "abc")
    alone = of(fit_bradley_terry(upper * 4))
    gap = row["a"]["rating"] - row["c"]["rating"]
    assert gap == pytest.approx(alone["a"]["rating"] - alone["c"]["rating"], abs=5)


def test_groups_that_never_met_are_rated_apart() -> None:
    one, two = beat("a>b", "b>a", "a>b", "b>c", "c>b") * 3, beat("x>y", "y>x", "x=y") * 3
    ratings = fit_bradley_terry(one + two)
    assert len(set(ratings.group.tolist())) == 2
    assert "never met" in ratings.notes[0] and "x and y" in ratings.notes[0]
    for part in (one, two):
        alone = of(fit_bradley_terry(part))
        for name, row in alone.items():
            assert of(ratings)[name] == row  # rating, interval and rank as if the other group were not there
    held = fit_bradley_terry(one + two, anchor="x", anchor_rating=500)
    assert of(held)["x"]["rating"] == 500
    assert of(held)["a"] == of(ratings)["a"]


def test_ties_alone_are_equal_models() -> None:
    rows = beat("a=b", "b=c")
    ratings = fit_bradley_terry(rows)
    assert ratings.rating.tolist() == pytest.approx([1000] * 3)
    assert np.all(ratings.high - ratings.low > 400)  # two ties say little, though a sandwich of them is 0
    more = fit_bradley_terry(rows * 50)
    assert np.all(more.high - more.low < 200)
    with pytest.raises(InputError, match="every battle is a tie"):
        fit_bradley_terry(rows, ties="rao-kupper")
    no_tie = fit_bradley_terry(beat("a>b", "b>a"), ties="rao-kupper")
    assert no_tie.tie_width == 0 and "no battle is a tie" in no_tie.notes[0]


def points_apart(count: int, share: float = 0.5) -> float:
    """The standard error of a difference by the likelihood alone, of `count` battles."""
    return ALPHA / math.sqrt(count * share * (1 - share))


@pytest.mark.parametrize("between", [["a>b"] * 139 + ["a=b"], ["a>b"] * 140, ["a>b"] * 30 + ["b>a"] * 20])
def test_what_two_models_share_cancels_in_their_difference(between: list[str]) -> None:
    """`c` tied `a` every time. How well anything is known of `b` is no matter of these two."""
    ratings = fit_bradley_terry(beat(*between) + beat("a=c") * 239)
    gap, error = ratings.contrast("c", "a")
    assert gap == pytest.approx(0, abs=0.5) and error == pytest.approx(points_apart(239), rel=0.02)
    low, high = ratings.difference("c", "a")[1:]
    assert (low + high) / 2 == pytest.approx(gap) and (high - low) / 2 == pytest.approx(1.959964 * error)


def test_a_difference_to_a_model_that_only_lost_is_as_doubtful_as_its_votes_make_it() -> None:
    alone = fit_bradley_terry(beat("a>b") * 20).contrast("a", "b")
    others = fit_bradley_terry(beat("a>b") * 20 + beat("a>c", "c>a", "c>d", "d>c") * 10)
    assert others.contrast("a", "b")[1] == pytest.approx(alone[1], rel=0.2)  # the prior is another's, too
    reach = others.high - others.rating
    assert reach[others.place("a")] < 100, "its own interval does not have the other's doubt"


def test_a_bootstrap_knows_that_ties_alone_say_little() -> None:
    ratings = fit_bradley_terry(beat("a>b", "b>a") * 30 + beat("a=c"), interval="bootstrap", rounds=40)
    c = ratings.place("c")
    assert ratings.high[c] - ratings.low[c] > 400


def test_rao_kupper_bootstrap_of_few_ties() -> None:
    """Some resamples have no tie at all: their width is 0 and nothing breaks."""
    rows = beat("a>b", "b>a", "a>c", "c>a", "b>c", "c>b") * 4 + beat("a=b")
    ratings = fit_bradley_terry(rows, ties="rao-kupper", interval="bootstrap", rounds=60)
    assert np.all(np.isfinite(ratings.low)) and np.all(ratings.low < ratings.rating)
