"""Scripted judges vote as their script says, and their limit is what endless votes give."""

from __future__ import annotations

import numpy as np
import pytest

from whorl.arena import Judge, fit_bradley_terry, simulate_battles
from whorl.arena.battles import BOTH_BAD, MODEL_A, MODEL_B
from whorl.arena.ratings import SCALE
from whorl.arena.simulation import (
    coverage,
    limit_of,
    recovery,
    simulate_actively,
    synthetic_strengths,
)
from whorl.base.errors import InputError


def test_votes_have_the_judges_probabilities() -> None:
    judge = Judge(sharpness=1.2, left=0.4, noise=0.1, tie_width=0.3)
    strengths = {"a": 1100.0, "b": 1000.0}
    battles = simulate_battles(strengths, [judge], 60_000)
    for first, gap in ((0, 100 / SCALE), (1, -100 / SCALE)):
        rows = battles.winner[battles.a == first]
        shares = [np.mean(rows == MODEL_A), np.mean(rows == MODEL_B), np.mean(rows > MODEL_B)]
        d = 1.2 * gap + 0.4
        a, b = 1 / (1 + np.exp(0.3 - d)), 1 / (1 + np.exp(0.3 + d))
        expected = 0.9 * np.array([a, b, 1 - a - b]) + 0.1 * np.array([0.5, 0.5, 0])
        np.testing.assert_allclose(shares, expected, atol=0.012)
    assert 0.48 < np.mean(battles.a == 0) < 0.52
    assert np.any(battles.winner == BOTH_BAD)


def test_a_seed_gives_the_same_votes_and_pairs_come_as_asked() -> None:
    strengths = synthetic_strengths(3)
    one, two = (simulate_battles(strengths, [Judge()] * 5, 500, seed=9) for _ in range(2))
    assert one.digest == two.digest
    assert one.digest != simulate_battles(strengths, [Judge()] * 5, 500, seed=10).digest
    chance = np.zeros((3, 3))
    chance[0, 1], chance[1, 2] = 0.8, 0.2
    drawn = simulate_battles(strengths, [Judge()], 4000, probability=chance)
    first = np.minimum(drawn.a, drawn.b) == 0
    assert np.all(np.maximum(drawn.a, drawn.b)[first] == 1)
    assert np.mean(first) == pytest.approx(0.8, abs=0.03)
    assert set(drawn.probability.tolist()) == {0.8, 0.2}


def test_the_limit_of_plain_judges_is_the_truth_and_of_others_where_votes_go() -> None:
    strengths = synthetic_strengths(5, spread=200)
    plain = limit_of(strengths, [Judge()])
    assert plain == pytest.approx(strengths, abs=1e-6)
    habits = [Judge(left=0.8, noise=0.3, tie_width=0.5), Judge(sharpness=2)]
    limit = limit_of(strengths, habits)
    ratings = fit_bradley_terry(simulate_battles(strengths, habits, 400_000))
    found = dict(zip(ratings.models, ratings.rating, strict=True))
    assert found == pytest.approx(limit, abs=6)
    assert max(abs(limit[name] - strengths[name]) for name in limit) > 15


def test_recovery_counts_what_intervals_hold() -> None:
    strengths = synthetic_strengths(6)
    ratings = fit_bradley_terry(simulate_battles(strengths, [Judge()], 5000))
    good = recovery(ratings, dict(zip(ratings.models, ratings.rating, strict=True)))
    assert (good.covered, good.intervals, good.tau) == (6, 6, pytest.approx(1))
    off = recovery(
        ratings, {name: -value for name, value in zip(ratings.models, ratings.rating, strict=True)}
    )
    assert (off.covered, off.tau) == (0, pytest.approx(-1))
    assert coverage(strengths, [Judge()], 300, repeats=2).intervals == 12


def test_active_pairs_are_logged_and_joined() -> None:
    strengths = synthetic_strengths(4)
    battles = simulate_actively(strengths, [Judge()] * 2, 103, batches=4)
    assert len(battles) == 103
    assert np.all(battles.probability[:25] == 1 / 6)
    assert len(set(battles.probability.tolist())) > 6


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Judge(noise=2), "noise 2"),
        (lambda: Judge(tie_width=-1), "tie_width -1"),
        (lambda: synthetic_strengths(1), "models 1"),
        (lambda: simulate_battles({"a": 1.0, "b": 2.0}, [Judge()], 0), "battles 0"),
        (lambda: simulate_actively({"a": 1.0, "b": 2.0}, [Judge()], 0), "battles 0"),
    ],
)
def test_what_cannot_be_simulated_is_refused(make: object, words: str) -> None:
    with pytest.raises(InputError, match=words):
        make()  # type: ignore[operator]
