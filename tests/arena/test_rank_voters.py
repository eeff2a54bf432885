"""Odd voters: found when they vote at chance or against the rest, left alone when they vote as others do."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import chi2, kstest

from whorl.arena import Battle, Battles, Judge, fit_bradley_terry, odd_voters, simulate_battles
from whorl.arena.battles import WINNERS
from whorl.arena.simulation import synthetic_strengths
from whorl.arena.voters import Crowd, voters_random
from whorl.base.errors import InputError

STRENGTHS = synthetic_strengths(8, spread=250, seed=1)
HONEST = Judge(tie_width=0.3)


def others_of(battles: Battles) -> list[tuple[float, list[float]]]:
    """Of each vote: the points it gave the one liked less (by all of them), and those that others gave."""
    rows = []
    for a, b, points, voter in zip(battles.a, battles.b, battles.points, battles.voter.codes, strict=True):
        rows.append(((min(a, b), max(a, b)), points if a < b else 1 - points, voter))
    found = []
    for pair, points, voter in rows:
        others = [other for p, other, v in rows if p == pair and v != voter]
        if sum([*others, points]) > (len(others) + 1) / 2:
            points, others = 1 - points, [1 - other for other in others]
        found.append((points, others))
    return found


def test_p_values_are_a_votes_place_among_the_others() -> None:
    battles = simulate_battles(STRENGTHS, [HONEST] * 4, 300)
    uniform = np.random.default_rng(0).random(300)
    p = Crowd.of(battles).p_values(np.arange(300), uniform)
    for number, (points, others) in enumerate(others_of(battles)):
        more, alike = sum(other > points for other in others), sum(other == points for other in others)
        assert p[number] == pytest.approx((more + (1 - uniform[number]) * (1 + alike)) / (len(others) + 1))


def test_p_values_of_voters_alike_are_uniform() -> None:
    battles = simulate_battles(STRENGTHS, [HONEST] * 200, 20_000, seed=3)
    p = Crowd.of(battles).p_values(np.arange(20_000), np.random.default_rng(0).random(20_000))
    assert kstest(p, "uniform").pvalue > 0.001


@pytest.mark.parametrize(
    ("bad", "found"),
    [(Judge(sharpness=-1, tie_width=0.3), 9), (Judge(noise=1), 5), (Judge(sharpness=0, left=3), 5)],
)
def test_voters_against_by_coin_or_by_side_are_flagged_and_few_honest_ones(bad: Judge, found: int) -> None:
    """Ten of forty, 75 votes each: contrary, tossing a coin, always for the left."""
    battles = simulate_battles(STRENGTHS, [HONEST] * 30 + [bad] * 10, 40 * 75, seed=5)
    flagged = {odd.voter for odd in odd_voters(battles)}
    theirs = {f"judge-{number}" for number in range(31, 41)}
    assert len(flagged & theirs) >= found
    assert len(flagged - theirs) <= 3


def test_the_p_values_of_the_paper_find_no_coin() -> None:
    """Why votes alike are counted in part: p = (1 + #{h ≥ H'}) / (|H| + 1) is far from uniform."""
    battles = simulate_battles(STRENGTHS, [HONEST] * 30 + [Judge(noise=1)] * 10, 40 * 75, seed=5)
    p = np.array(
        [(1 + sum(other >= points for other in others)) / (len(others) + 1)
         for points, others in others_of(battles)]
    )  # fmt: skip
    for voter in range(40):
        statistic = -2 * np.log(p[battles.voter.codes == voter]).cumsum()
        looks = np.arange(1, len(statistic) + 1)
        assert np.all(statistic[20:] < chi2.isf(0.02, 2 * looks[20:]))


def test_flags_change_no_rating_and_are_the_same_again() -> None:
    battles = simulate_battles(STRENGTHS, [HONEST] * 5 + [Judge(sharpness=-1)] * 2, 500)
    before = fit_bradley_terry(battles).rating.tobytes()
    assert odd_voters(battles) == odd_voters(battles)
    assert fit_bradley_terry(battles).rating.tobytes() == before


def test_among_voters_alike_at_most_alpha_are_flagged() -> None:
    flagged = voters = 0
    for seed in range(4):
        battles = simulate_battles(STRENGTHS, [Judge(tie_width=0.3)] * 50, 3000, seed=seed)
        flagged += len(odd_voters(battles, alpha=0.1, seed=seed))
        voters += 50
    assert flagged <= 0.1 * voters


def test_the_statistic_is_fishers_and_the_looks_are_the_voters_own() -> None:
    rows = [Battle(model_a="a", model_b="b", winner="model_b", voter=f"crowd-{n % 30}") for n in range(300)]
    rows += [Battle(model_a="a", model_b="b", winner="model_a", voter="odd") for _ in range(20)]
    battles = Battles.from_rows(rows)
    [odd] = odd_voters(battles, seed=3)
    random = voters_random("odd", 3)
    looks = np.sort(random.choice(np.arange(1, 21), 5, replace=False))
    p = (1 - random.random(20)) / 301
    assert (odd.voter, odd.votes) == ("odd", 20)
    assert len(set(looks.tolist())) == 5 and odd.after in looks
    assert odd.statistic == pytest.approx(-2 * np.log(p[: odd.after]).sum())
    assert odd.threshold == pytest.approx(chi2.ppf(1 - 0.1 / 5, 2 * odd.after))


def test_few_votes_unknown_voters_and_lonely_pairs_are_not_judged() -> None:
    few = [Battle(model_a="a", model_b="b", winner=WINNERS[n % 2], voter="few") for n in range(4)]
    unknown = [Battle(model_a="a", model_b="b", winner="model_b") for _ in range(50)]
    lonely = [Battle(model_a="x", model_b="y", winner="model_a", voter="lonely") for _ in range(50)]
    assert odd_voters(Battles.from_rows(few + unknown + lonely)) == []
    assert odd_voters(Battles.from_rows(few)) == []
    with pytest.raises(InputError, match="alpha"):
        odd_voters(Battles.from_rows(few), alpha=1)
