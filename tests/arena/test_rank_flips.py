"""How few votes flip a place, against trying every set of votes."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from whorl.arena import Battle, Battles, fit_bradley_terry, votes_to_flip
from whorl.arena.battles import WINNERS


def votes(seed: int, count: int = 26) -> list[Battle]:
    random = np.random.default_rng(seed)
    rows = []
    for _ in range(count):
        a, b = sorted(random.choice(3, 2, replace=False))
        winner = WINNERS[2] if random.random() < 0.2 else WINNERS[int(random.random() < 0.35)]
        rows.append(Battle(model_a="abc"[a], model_b="abc"[b], winner=winner))
    return rows


def gap(rows: list[Battle], above: str, below: str) -> float:
    ratings = fit_bradley_terry(rows)
    if above not in ratings.models or below not in ratings.models:
        return np.inf
    return ratings.difference(above, below)[0]


def without(rows: list[Battle], dropped: Counter[tuple[str, str, float]]) -> list[Battle]:
    left = dropped.copy()
    kept = []
    for row in rows:
        key = (row.model_a, row.model_b, {"model_a": 1.0, "model_b": 0.0}.get(row.winner, 0.5))
        if left[key]:
            left[key] -= 1
        else:
            kept.append(row)
    assert not +left
    return kept


@pytest.mark.parametrize("seed", range(8))
def test_it_is_the_smallest_set_and_it_flips(seed: int) -> None:
    rows = votes(seed)
    for flip in votes_to_flip(rows):
        if flip.votes is None or flip.votes > 3:
            continue
        dropped = Counter({(a, b, points): count for a, b, points, count in flip.dropped})
        assert dropped.total() == flip.votes
        assert gap(without(rows, dropped), flip.above, flip.below) < 0
        for size in range(flip.votes):
            kinds = {tuple(sorted(map(key, set_))) for set_ in combinations(rows, size)}
            for kind in kinds:
                rest = without(rows, Counter(kind))
                assert gap(rest, flip.above, flip.below) > -1e-6, (kind, flip)


def key(row: Battle) -> tuple[str, str, float]:
    return row.model_a, row.model_b, {"model_a": 1.0, "model_b": 0.0}.get(row.winner, 0.5)


def test_there_was_something_to_test() -> None:
    needed = [flip.votes for seed in range(8) for flip in votes_to_flip(votes(seed))]
    assert sum(number in (1, 2, 3) for number in needed) >= 6


def test_two_models_by_algebra() -> None:
    """60 to 40: 20 wins left out are level, 21 flip it."""
    rows = [Battle(model_a="a", model_b="b", winner="model_a")] * 60
    rows += [Battle(model_a="a", model_b="b", winner="model_b")] * 40
    [flip] = votes_to_flip(rows)
    assert (flip.above, flip.below, flip.votes) == ("a", "b", 21)
    assert flip.dropped == (("a", "b", 1.0, 21),)
    assert flip.gap == pytest.approx(400 * np.log10(1.5))


def test_a_board_of_many_votes_and_its_first_places_alone() -> None:
    from whorl.arena.simulation import Judge, simulate_battles, synthetic_strengths

    battles = simulate_battles(synthetic_strengths(10), [Judge(tie_width=0.3)], 20_000)
    flips = votes_to_flip(battles, top=3)
    assert len(flips) == 3
    for flip in flips:
        assert flip.votes is not None
        keep = np.ones(len(battles), dtype=bool)
        for a, b, points, count in flip.dropped:
            i, j = battles.models.index(a), battles.models.index(b)
            same = (battles.a == i) & (battles.b == j) & (battles.points == points)
            same |= (battles.a == j) & (battles.b == i) & (battles.points == 1 - points)
            keep[np.flatnonzero(same)[:count]] = False
        rest = battles.take(keep)
        assert isinstance(rest, Battles) and len(battles) - len(rest) == flip.votes
        assert -3 < fit_bradley_terry(rest).difference(flip.above, flip.below)[0] < 0


@pytest.mark.parametrize(("models", "count"), [(3, 30), (8, 400), (20, 20_000)])
def test_steps_with_the_curvature_of_all_votes_end_where_newtons_do(models: int, count: int) -> None:
    from whorl.arena.flips import DROP_RIDGE, _Drop, _Pairs
    from whorl.arena.likelihood import minimise
    from whorl.arena.outcomes import collapse
    from whorl.arena.posing import pose
    from whorl.arena.simulation import Judge, simulate_battles, synthetic_strengths

    battles = simulate_battles(synthetic_strengths(models, 300), [Judge(tie_width=0.3)], count).compact()
    problem = pose(collapse(battles), "half", battles.models).problem
    problem = replace(problem, ridge=np.maximum(problem.ridge, DROP_RIDGE))
    theta = minimise(problem)
    above, below = np.argsort(-theta)[:2]
    drop = _Drop.ordered(_Pairs.of(problem), theta, theta, int(above), int(below))
    for votes in np.unique(np.linspace(0, drop.most, 12).astype(int)):
        assert drop.dropped(votes).sum() == votes
        np.testing.assert_allclose(drop.refit(votes), drop._newton(votes), atol=1e-9)
