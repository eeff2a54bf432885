"""The next pair: probabilities that are logged must be the ones it is drawn with."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from whorl.arena import Battle, Battles, Judge, fit_bradley_terry, pair_sampler, simulate_battles
from whorl.arena.battles import WINNERS
from whorl.arena.simulation import simulate_actively, synthetic_strengths
from whorl.base.errors import InputError


def two_sorts(close: int, clear: int) -> Battles:
    """a against b is open (half and half), c against d clear (all but two in a hundred)."""
    rows = [Battle(model_a="a", model_b="b", winner=WINNERS[n % 2]) for n in range(close)]
    rows += [Battle(model_a="c", model_b="d", winner=WINNERS[int(n % 50 == 0)]) for n in range(clear)]
    rows += [Battle(model_a="a", model_b="c", winner=WINNERS[n % 2]) for n in range(4)]
    return Battles.from_rows(rows)


def of(battles: Battles, floor: float = 0.1) -> dict[tuple[str, str], float]:
    sampler = pair_sampler(battles.models, battles, floor=floor)
    return {
        (sampler.models[i], sampler.models[j]): float(p)
        for (i, j), p in zip(sampler.pairs, sampler.probability, strict=True)
    }


def test_the_open_the_rare_and_the_unseen_pair_are_asked_more() -> None:
    found = of(two_sorts(400, 400))
    assert found["a", "b"] > found["c", "d"]  # a vote on the open one says more
    assert found["a", "c"] > found["a", "b"]  # few votes so far
    assert found["b", "c"] > found["a", "c"]  # none
    assert of(two_sorts(800, 400))["a", "b"] < found["a", "b"]


def test_the_formula_on_a_pair_with_its_own_votes() -> None:
    """Two of three pairs hold 1000 votes each, half and half: what is left of prior and fit is nothing."""
    rows = [Battle(model_a=a, model_b=b, winner=WINNERS[n % 2]) for a, b, count in
            (("a", "b", 4000), ("b", "c", 1000), ("a", "c", 250)) for n in range(count)]  # fmt: skip
    found = of(Battles.from_rows(rows), floor=0.2)
    gain = {pair: np.sqrt(0.25 / n) - np.sqrt(0.25 / (n + 1))
            for pair, n in ((("a", "b"), 4000), (("b", "c"), 1000), (("a", "c"), 250))}  # fmt: skip
    for pair, value in gain.items():
        assert found[pair] == pytest.approx(0.2 / 3 + 0.8 * value / sum(gain.values()), rel=1e-6)


@given(st.integers(2, 7), st.integers(0, 60), st.floats(0.01, 1), st.integers(0, 1000))
def test_they_sum_to_one_and_none_falls_below_the_floor(
    models: int, count: int, floor: float, seed: int
) -> None:
    names = [f"m{n}" for n in range(models)]
    battles = (
        simulate_battles(dict.fromkeys(names, 1000.0), [Judge(tie_width=0.5)], count, seed=seed)
        if count
        else None
    )
    sampler = pair_sampler(names, battles, floor=floor)
    pairs = models * (models - 1) // 2
    assert len(sampler.pairs) == pairs
    assert sampler.probability.sum() == pytest.approx(1)
    assert sampler.probability.min() >= floor / pairs * (1 - 1e-12)
    assert sampler.probability.max() <= 1


def test_draws_have_the_logged_probabilities_and_fair_sides() -> None:
    battles = two_sorts(100, 300)
    sampler = pair_sampler(battles.models, battles)
    drawn = [sampler.draw(7, number) for number in range(20_000)]
    logged = {tuple(sorted((a, b))): p for a, b, p in drawn}
    counts = Counter(tuple(sorted((a, b))) for a, b, _ in drawn)
    assert len(counts) == 6
    for pair, p in logged.items():
        assert abs(counts[pair] / 20_000 - p) < 4.5 * np.sqrt(p * (1 - p) / 20_000)
    assert abs(np.mean([a < b for a, b, _ in drawn]) - 0.5) < 0.02
    assert sampler.draw(7, 3) == drawn[3] and sampler.draw(8, 3) != sampler.draw(9, 4)


def test_models_come_and_go() -> None:
    battles = two_sorts(100, 100)
    sampler = pair_sampler(["a", "b", "new"], battles)
    found = dict(zip(map(tuple, sampler.pairs.tolist()), sampler.probability, strict=True))
    assert sampler.models == ("a", "b", "new")
    assert found[0, 2] == found[1, 2] > found[0, 1]
    with pytest.raises(InputError, match="needs two models"):
        pair_sampler(["a"], battles)
    with pytest.raises(InputError, match="floor 0"):
        pair_sampler(["a", "b"], battles, floor=0)


def test_weighted_by_it_ratings_stay_true_and_open_pairs_get_the_votes() -> None:
    """Votes drawn actively, weighted by what was logged, rate as votes drawn evenly would."""
    strengths = synthetic_strengths(6, spread=250, seed=4)
    battles = simulate_actively(strengths, [Judge(noise=0.1)], 6000, seed=3)
    ratings = fit_bradley_terry(battles, weights="propensity")
    from whorl.arena.simulation import limit_of

    limit = limit_of(strengths, [Judge(noise=0.1)])
    inside = [low <= limit[name] <= high
              for name, low, high in zip(ratings.models, ratings.low, ratings.high, strict=True)]  # fmt: skip
    assert sum(inside) >= 5
    assert battles.probability.std() > 0
