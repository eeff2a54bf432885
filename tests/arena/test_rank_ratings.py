"""Ratings against oracles written another way: a row a vote, dense matrices, a general optimiser."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.linalg import null_space
from scipy.optimize import minimize
from scipy.stats import chi2

from whorl.arena import Battle, Battles, RatingConfig, fit_bradley_terry
from whorl.arena.battles import POINTS, WINNERS
from whorl.arena.intervals import LEVEL, bootstrap
from whorl.arena.likelihood import minimise
from whorl.arena.outcomes import collapse
from whorl.arena.posing import pose
from whorl.arena.ratings import CENTRE, SCALE
from whorl.arena.style import style_features
from whorl.base.errors import DataError, InputError

Array = NDArray[np.float64]
ALPHA = 400 / math.log(10)


def some_battles(count: int, models: int = 5, seed: int = 0, *, style: bool = False) -> list[Battle]:
    """Votes with ties, uneven pairs, logged probabilities; every model wins and loses."""
    random = np.random.default_rng(seed)
    xi = random.normal(0, 0.8, models)
    rows = []
    for _ in range(count):
        a, b = random.choice(models, 2, replace=False, p=(w := np.arange(1, models + 1)) / w.sum())
        counts = random.poisson(5, 4)
        d = xi[a] - xi[b] + (0.1 * (counts[0] - counts[1]) if style else 0)
        u = random.random()
        p = 1 / (1 + math.exp(-d))
        winner = WINNERS[2 + int(random.random() < 0.4)] if u < 0.25 else WINNERS[int((u - 0.25) / 0.75 > p)]
        rows.append(
            Battle(
                model_a=f"m{a}",
                model_b=f"m{b}",
                winner=winner,
                probability=float(0.05 + 0.1 * ((a + b) % 3)),
                style=(("tokens", *map(float, counts[:2])), ("lists", *map(float, counts[2:])))
                if style
                else (),
            )
        )
    return rows


def dense(rows: list[Battle], models: tuple[str, ...]) -> tuple[Array, Array]:
    """(X [N, M] with 1 and −1, y [N]): one row a vote."""
    X, y = np.zeros((len(rows), len(models))), np.zeros(len(rows))
    for number, row in enumerate(rows):
        X[number, models.index(row.model_a)] = 1
        X[number, models.index(row.model_b)] = -1
        y[number] = {"model_a": 1.0, "model_b": 0.0}.get(row.winner, 0.5)
    return X, y


def logistic(X: Array, y: Array, w: Array, ridge: Array) -> Array:
    """Weighted logistic regression by BFGS on the cross-entropy itself."""

    def loss(theta: Array) -> tuple[float, Array]:
        p = 1 / (1 + np.exp(-X @ theta))
        value = -np.sum(w * (y * np.log(p) + (1 - y) * np.log(1 - p))) + ridge @ theta**2 / 2
        return float(value), X.T @ (w * (p - y)) + ridge * theta

    found = minimize(loss, np.zeros(X.shape[1]), jac=True, method="BFGS", options={"gtol": 1e-9})
    return np.asarray(found.x)


def free(models: int, others: int) -> Array:
    """An orthonormal basis of the parameters with Σξ = 0."""
    level = np.append(np.ones(models), np.zeros(others))
    return np.asarray(null_space(level[None, :]))


def sandwich(X: Array, y: Array, w: Array, theta: Array, ridge: Array, models: int = 5) -> Array:
    """H⁻¹GH⁻¹ as the formula has it, vote by vote, in coordinates in which H has an inverse."""
    B = free(models, len(theta) - models)
    p = 1 / (1 + np.exp(-X @ theta))
    H, G = B.T @ np.diag(ridge) @ B, np.zeros((B.shape[1], B.shape[1]))
    for x, yi, pi, wi in zip(X @ B, y, p, w, strict=True):
        H += wi * pi * (1 - pi) * np.outer(x, x)
        G += wi**2 * (yi - pi) ** 2 * np.outer(x, x)
    inverse = np.linalg.inv(H)
    return B @ inverse @ G @ inverse @ B.T


def centred(values: Array) -> Array:
    return values - values.mean()


@pytest.mark.parametrize("weights", ["equal", "propensity"])
def test_ratings_and_sandwich_are_those_of_a_logistic_regression_vote_by_vote(weights: str) -> None:
    rows = some_battles(400)
    ratings = fit_bradley_terry(rows, weights=weights)  # type: ignore[arg-type]
    X, y = dense(rows, ratings.models)
    w = np.array([1 / row.probability for row in rows])  # type: ignore[operator]
    w = w / w.mean() if weights == "propensity" else np.ones(len(rows))
    none = np.zeros(5)
    theta = centred(logistic(X, y, w, none))
    np.testing.assert_allclose(ratings.rating, CENTRE + ALPHA * theta, atol=1e-4)
    V = sandwich(X, y, w, theta, none)
    reach = 1.959963984540054 * ALPHA * np.sqrt(np.diag(V))
    np.testing.assert_allclose(ratings.high - ratings.rating, reach, rtol=1e-5)
    np.testing.assert_allclose(ratings.rating - ratings.low, reach, rtol=1e-5)
    assert ratings.battles.tolist() == [
        sum(name in (row.model_a, row.model_b) for row in rows) for name in ratings.models
    ]
    gap, low, high = ratings.difference("m0", "m3")
    variance = V[0, 0] + V[3, 3] - 2 * V[0, 3]
    assert gap == pytest.approx(ALPHA * (theta[0] - theta[3]), abs=1e-4)
    assert high - low == pytest.approx(2 * 1.959964 * ALPHA * math.sqrt(variance), rel=1e-5)


def test_style_is_controlled_as_by_a_regression_with_its_columns() -> None:
    rows = some_battles(600, style=True)
    ratings = fit_bradley_terry(rows, style=("tokens", "lists"))
    X, y = dense(rows, ratings.models)
    f = []
    for row in rows:
        counts = {name: (in_a, in_b) for name, in_a, in_b in row.style}
        f.append([(a - b) / (a + b) if a + b else 0.0 for a, b in (counts["tokens"], counts["lists"])])
    F = np.array(f)
    F = F / np.vstack([F, -F]).std(0)
    np.testing.assert_allclose(style_features(Battles.from_rows(rows), ("tokens", "lists")), F, atol=1e-12)
    ridge = np.array([0.0] * 5 + [0.5, 0.5])
    theta = logistic(np.hstack([X, F]), y, np.ones(len(rows)), ridge)
    V = sandwich(np.hstack([X, F]), y, np.ones(len(rows)), theta, ridge)
    np.testing.assert_allclose(ratings.rating, CENTRE + ALPHA * centred(theta[:5]), atol=1e-3)
    np.testing.assert_allclose(
        ratings.high - ratings.rating, 1.959964 * ALPHA * np.sqrt(np.diag(V)[:5]), rtol=1e-4
    )
    for place, name in enumerate(("tokens", "lists")):
        beta, low, high = ratings.style[name]
        assert beta == pytest.approx(theta[5 + place], abs=1e-6)
        assert (high - low) / 2 == pytest.approx(1.959964 * math.sqrt(V[5 + place, 5 + place]), rel=1e-4)
    assert ratings.style["tokens"][1] > 0 > ratings.style["lists"][1]  # only tokens moved these votes


def test_rao_kupper_is_the_maximum_of_its_own_probabilities() -> None:
    rows = some_battles(500)
    ratings = fit_bradley_terry(rows, ties="rao-kupper")
    X, y = dense(rows, ratings.models)

    def loss(theta: Array) -> float:
        d, eta = X @ theta[:5], theta[5]
        a, b = 1 / (1 + np.exp(eta - d)), 1 / (1 + np.exp(eta + d))
        return -float(np.log(np.select([y == 1, y == 0], [a, b], 1 - a - b)).sum())

    start = np.append(np.zeros(5), 0.3)
    found = minimize(loss, start, method="L-BFGS-B", bounds=[(None, None)] * 5 + [(1e-6, None)],
                     options={"ftol": 1e-15, "gtol": 1e-9, "maxfun": 10**6, "maxiter": 10**5})  # fmt: skip
    np.testing.assert_allclose(ratings.rating, CENTRE + ALPHA * centred(found.x[:5]), atol=0.05)
    assert ratings.tie_width == pytest.approx(found.x[5], abs=1e-4)

    def scores(theta: Array) -> Array:  # by differences, vote by vote
        columns = []
        for k in range(6):
            step = np.zeros(6)
            step[k] = 1e-5
            parts = []
            for at in (theta + step, theta - step):
                d = X @ at[:5]
                a, b = 1 / (1 + np.exp(at[5] - d)), 1 / (1 + np.exp(at[5] + d))
                parts.append(-np.log(np.select([y == 1, y == 0], [a, b], 1 - a - b)))
            columns.append((parts[0] - parts[1]) / 2e-5)
        return np.array(columns).T

    theta = np.append(ratings.strength, ratings.tie_width)
    S = scores(theta)
    H = np.array([(scores(theta + e).sum(0) - scores(theta - e).sum(0)) / 2e-4 for e in 1e-4 * np.eye(6)])
    B = free(5, 1)
    inverse = np.linalg.inv(B.T @ (H + H.T) @ B / 2)
    V = B @ inverse @ B.T @ S.T @ S @ B @ inverse @ B.T
    np.testing.assert_allclose(ratings.covariance, V[:5, :5], rtol=1e-3, atol=1e-7)


@given(
    wins=st.integers(1, 60), losses=st.integers(1, 60), ties=st.integers(0, 40), flip=st.booleans()
)  # fmt: skip
def test_two_models_have_the_ratings_algebra_gives(wins: int, losses: int, ties: int, flip: bool) -> None:
    first, second = ("a", "b") if not flip else ("b", "a")
    rows = [Battle(model_a=first, model_b=second, winner="model_a")] * wins
    rows += [Battle(model_a=second, model_b=first, winner="model_a")] * losses
    rows += [Battle(model_a=first, model_b=second, winner="tie (bothbad)")] * ties
    ratings = fit_bradley_terry(rows)
    n, y = wins + losses + ties, wins + ties / 2
    expected = ALPHA * math.log(y / (n - y))
    assert ratings.difference(first, second)[0] == pytest.approx(expected, abs=1e-6)
    p = y / n
    G = wins * (1 - p) ** 2 + losses * p**2 + ties * (0.5 - p) ** 2
    error = math.sqrt(G) / (n * p * (1 - p))
    low, high = ratings.difference(first, second)[1:]
    assert (high - low) / 2 == pytest.approx(ALPHA * 1.959964 * error, rel=1e-5)
    # Each of the two stands half the gap from the mean, and so does its interval's reach.
    assert ratings.high[0] - ratings.rating[0] == pytest.approx(ALPHA * 1.959964 * error / 2, rel=1e-5)
    kupper = fit_bradley_terry(rows, ties="rao-kupper")
    expected_share = kupper.probability()[kupper.place(first), kupper.place(second)]
    assert expected_share == pytest.approx(y / n, abs=1e-3)  # two parameters, two free shares


@settings(max_examples=40)
@given(st.permutations(list(range(60))), st.lists(st.booleans(), min_size=60, max_size=60))
def test_neither_order_nor_sides_change_a_bit(order: list[int], swapped: list[bool]) -> None:
    rows = some_battles(60, models=4, seed=3)
    again = []
    for place in order:
        row = rows[place]
        if swapped[place]:
            other = {"model_a": "model_b", "model_b": "model_a"}.get(row.winner, row.winner)
            row = Battle(model_a=row.model_b, model_b=row.model_a, winner=other)  # type: ignore[arg-type]
        again.append(row)
    one, two = fit_bradley_terry(rows), fit_bradley_terry(again)
    for name in ("rating", "low", "high", "rank", "battles"):
        assert getattr(one, name).tobytes() == getattr(two, name).tobytes()


def test_an_anchor_moves_the_scale_and_nothing_else() -> None:
    rows = some_battles(200)
    plain, held = fit_bradley_terry(rows), fit_bradley_terry(rows, anchor="m2", anchor_rating=1114)
    assert held.rating[2] == pytest.approx(1114)
    assert plain.rating.mean() == pytest.approx(1000)
    np.testing.assert_allclose(held.high - held.low, plain.high - plain.low)
    np.testing.assert_allclose(np.diff(held.rating), np.diff(plain.rating))
    assert held.rank.tolist() == plain.rank.tolist()
    with pytest.raises(InputError, match="'m22' has no battle here; did you mean m2"):
        fit_bradley_terry(rows, anchor="m22")


def test_bootstrap_is_that_of_votes_drawn_again_and_repeats() -> None:
    rows = some_battles(300, models=4)
    made = fit_bradley_terry(rows, interval="bootstrap", rounds=400, seed=1)
    again = fit_bradley_terry(rows, interval="bootstrap", rounds=400, seed=1)
    assert made.low.tobytes() == again.low.tobytes()
    assert (
        made.low.tobytes() != fit_bradley_terry(rows, interval="bootstrap", rounds=400, seed=2).low.tobytes()
    )
    random = np.random.default_rng(5)
    samples = []
    for _ in range(400):
        drawn = [rows[place] for place in random.integers(0, len(rows), len(rows))]
        samples.append(fit_bradley_terry(drawn).rating)
    low, high = np.quantile(samples, [0.025, 0.975], axis=0)
    np.testing.assert_allclose(made.high - made.low, high - low, rtol=0.25)
    np.testing.assert_allclose(made.low, low, atol=0.25 * float((high - low).max()))


def test_simultaneous_intervals_reach_as_far_as_the_ellipsoid() -> None:
    rows = some_battles(300)
    one, all_at_once = fit_bradley_terry(rows), fit_bradley_terry(rows, interval="simultaneous")
    factor = math.sqrt(chi2.ppf(0.95, 4)) / 1.959964
    np.testing.assert_allclose(all_at_once.high - all_at_once.low, factor * (one.high - one.low), rtol=1e-5)
    # The end of an interval touches the ellipsoid: the furthest point of it in that direction.
    V = one.covariance[:4, :4]  # Σξ = 0: the last is the others'
    for k in range(4):
        furthest = math.sqrt(chi2.ppf(0.95, 4)) * V[:, k] / math.sqrt(V[k, k])
        assert furthest @ np.linalg.solve(V, furthest) == pytest.approx(chi2.ppf(0.95, 4))
        assert SCALE * furthest[k] == pytest.approx(all_at_once.high[k] - all_at_once.rating[k], rel=1e-6)


def test_rank_counts_the_intervals_wholly_above() -> None:
    ratings = fit_bradley_terry(some_battles(800, models=9, seed=4))
    for place in range(9):
        above = sum(ratings.low[other] > ratings.high[place] + LEVEL for other in range(9))
        assert ratings.rank[place] == 1 + above
    assert ratings.rank.min() == 1
    assert len(set(ratings.rank.tolist())) > 1


def test_bootstrap_reaches_as_far_as_its_level_says() -> None:
    """Of 39 resamples and the truth, 40 alike, each end leaves one out at 95 %: the outermost resample."""
    battles = Battles.from_rows(some_battles(300, models=4))
    made = fit_bradley_terry(battles, interval="bootstrap", rounds=39, seed=1)
    posed = pose(collapse(battles, "equal", None), "half", battles.models)
    samples = CENTRE + SCALE * bootstrap(posed.problem, minimise(posed.problem), 39, 1)
    np.testing.assert_allclose(made.low, samples.min(axis=0))
    np.testing.assert_allclose(made.high, samples.max(axis=0))


def test_propensity_weights_undo_uneven_sampling() -> None:
    """Judges see a habit only in some pairs; sampled unevenly the plain fit drifts, the weighted does not."""
    # Points that no Bradley–Terry strengths explain: c upsets a.
    share = {("a", "b"): 0.7, ("b", "c"): 0.7, ("a", "c"): 0.4}

    def votes(counts: dict[tuple[str, str], int]) -> list[Battle]:
        total = sum(counts.values())
        rows = []
        for pair, count in counts.items():
            won = round(share[pair] * count)
            for number in range(count):
                winner = WINNERS[0] if number < won else WINNERS[1]
                rows.append(
                    Battle(model_a=pair[0], model_b=pair[1], winner=winner, probability=count / total)
                )
        return rows

    even = fit_bradley_terry(votes(dict.fromkeys(share, 1000)))
    uneven = votes({("a", "b"): 4000, ("b", "c"): 1000, ("a", "c"): 100})
    plain, weighted = fit_bradley_terry(uneven), fit_bradley_terry(uneven, weights="propensity")
    np.testing.assert_allclose(weighted.rating, even.rating, atol=1e-6)
    assert np.abs(plain.rating - even.rating).max() > 20
    unlogged = [Battle(model_a=r.model_a, model_b=r.model_b, winner=r.winner) for r in uneven]
    np.testing.assert_allclose(
        fit_bradley_terry(unlogged, weights="propensity").rating, even.rating, atol=1e-6
    )


def test_a_rare_pair_weighs_as_if_it_had_fifty_votes() -> None:
    from whorl.arena.outcomes import propensity_weights

    rows = [Battle(model_a="a", model_b="b", winner="model_a")] * 100
    rows += [Battle(model_a="b", model_b="c", winner="model_a")] * 10
    weights = propensity_weights(Battles.from_rows(rows))
    assert weights.mean() == pytest.approx(1)
    assert weights[-1] / weights[0] == pytest.approx(100 / 50)


def test_a_prompt_asked_too_often_counts_as_often_as_the_commonest_of_the_rest() -> None:
    rows = [
        Battle(model_a="a", model_b="b", winner=WINNERS[n % 2], prompt=f"p{n % 20_000}")
        for n in range(40_000)
    ]
    spam = [Battle(model_a="a", model_b="b", winner="model_b", prompt="hi")] * 5000
    ratings = fit_bradley_terry(rows + spam)
    assert ratings.votes == 40_000 + 2
    assert "4,998 battles left out" in ratings.notes[0]
    assert fit_bradley_terry(rows + spam, cut_repeated_prompts=False).votes == 45_000
    few = [Battle(model_a="a", model_b="b", winner=WINNERS[n % 2], prompt="same") for n in range(50)]
    assert fit_bradley_terry(few).votes == 50  # among few prompts none is odd


def test_intervals_cover_in_a_small_simulation() -> None:
    from whorl.arena.simulation import Judge, coverage, synthetic_strengths

    found = coverage(synthetic_strengths(8, seed=2), [Judge()], 1500, repeats=60)
    assert 0.92 <= found.coverage <= 0.98  # ± 3 standard errors of 480 intervals


@pytest.mark.soak
@pytest.mark.parametrize("habits", [{}, {"tie_width": 0.5}, {"noise": 0.2, "left": 0.4, "tie_width": 0.3}])
@pytest.mark.parametrize("weights", ["equal", "propensity"])
def test_intervals_cover_94_to_96_percent(habits: dict[str, float], weights: str) -> None:
    from whorl.arena.simulation import Judge, coverage, synthetic_strengths

    judges = [Judge(**habits), Judge(sharpness=1.5)] if habits else [Judge()]
    found = coverage(synthetic_strengths(20, seed=1), judges, 10_000, repeats=600, weights=weights)
    assert 0.94 <= found.coverage <= 0.96


def test_collapsing_many_models_takes_the_other_way_and_agrees() -> None:
    from whorl.arena.outcomes import collapse

    rows = some_battles(300, models=6)
    few = Battles.from_rows(rows)
    wide = Battles(
        tuple(f"n{n:04}" for n in range(2000)), few.a * 300 + 7, few.b * 300 + 7, few.winner, few.time,
        few.probability, few.voter, few.category, few.prompt, (), few.style,
    )  # fmt: skip
    one, two = collapse(few, "propensity"), collapse(wide, "propensity")
    assert (one.a * 300 + 7).tolist() == two.a.tolist()
    for name in ("points", "count", "weight", "square"):
        assert getattr(one, name).tolist() == getattr(two, name).tolist()
    ratings = fit_bradley_terry(wide)
    assert len(ratings.models) == 6  # models without a battle have no rating
    np.testing.assert_allclose(ratings.rating, fit_bradley_terry(few).rating)


def test_settings_of_a_board_are_the_arguments_of_the_fit() -> None:
    import inspect

    arguments = inspect.signature(fit_bradley_terry).parameters
    config = RatingConfig()
    assert set(RatingConfig.model_fields) - {"category"} == set(arguments) - {"battles"}
    for name, argument in list(arguments.items())[1:]:
        assert getattr(config, name) == argument.default, name


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"level": 1.0}, "level 1.0"),
        ({"interval": "bootstrap", "rounds": 3}, "rounds 3"),
        ({"style": ("tokens",)}, "'tokens' is not among the battles' counts"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        fit_bradley_terry(some_battles(30), **arguments)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="no battle"):
        fit_bradley_terry([])


@pytest.mark.parametrize(
    "broken",
    [
        {"model_a": ""},
        {"model_b": "a"},
        {"winner": "a"},
        {"probability": 0.0},
        {"probability": math.nan},
        {"time": math.inf},
        {"style": (("tokens", -1.0, 0.0),)},
    ],
)
def test_a_battle_that_is_none_cannot_be_made(broken: dict[str, object]) -> None:
    with pytest.raises(DataError):
        Battle(**({"model_a": "a", "model_b": "b", "winner": "tie"} | broken))  # type: ignore[arg-type]


def test_columns_are_checked_and_cut_right() -> None:
    rows = [
        Battle(model_a="a", model_b="b", winner="tie", category="x", voter="v", prompt="p", time=2.0),
        Battle(model_a="c", model_b="b", winner="model_a", category="y", time=1.0),
    ]
    battles = Battles.from_rows(rows)
    assert battles.of_category("y").models == ("b", "c")
    assert battles.until(1.5).models == ("b", "c")
    assert battles.take([1, 0]).voter.codes.tolist() == [-1, 0]
    with pytest.raises(InputError, match="no battle has category 'z'; choose from x, y"):
        battles.of_category("z")
    with pytest.raises(DataError, match="pairs a model with itself"):
        Battles.from_columns(["a", "b"], ["b", "b"], [0, 0])
    with pytest.raises(DataError, match="winner codes"):
        Battles.from_columns(["a"], ["b"], [4])
    with pytest.raises(DataError, match="probability"):
        Battles.from_columns(["a"], ["b"], [1], probability=[0.0])
    assert len({battles.digest, battles.take([1, 0]).digest, battles.take([0]).digest}) == 3
    assert battles.digest == Battles.from_rows(rows).digest


def test_points_by_winner() -> None:
    assert dict(zip(WINNERS, POINTS, strict=True)) == {
        "model_a": 1.0, "model_b": 0.0, "tie": 0.5, "tie (bothbad)": 0.5,
    }  # fmt: skip


def test_pairs_are_counted_alike_among_few_models_and_many() -> None:
    from whorl.arena.outcomes import of_pair

    random = np.random.default_rng(0)
    a = random.integers(0, 5, 300).astype(np.int32)
    b = ((a + random.integers(1, 5, 300)) % 5).astype(np.int32)
    by_hand = [sum({i, j} == {k, m} for k, m in zip(a, b, strict=True)) for i, j in zip(a, b, strict=True)]
    assert of_pair(a, b, 5).tolist() == by_hand
    assert of_pair(a, b, 5000).tolist() == by_hand


votes = st.lists(
    st.tuples(st.permutations("abcde"), st.sampled_from(WINNERS), st.floats(0.001, 1)),
    min_size=1,
    max_size=14,
)  # fmt: skip


@settings(max_examples=60)
@given(
    votes,
    st.sampled_from(["half", "rao-kupper"]),
    st.sampled_from(["equal", "propensity"]),
    st.sampled_from(["sandwich", "bootstrap", "simultaneous"]),
)
def test_few_votes_of_any_shape_are_rated(
    rows: list[tuple[list[str], str, float]], ties: str, weights: str, interval: str
) -> None:
    """Single votes, only wins, groups apart, extreme weights: finite, ordered, and ranked by intervals."""
    made = [
        Battle(model_a=pair[0], model_b=pair[1], winner=winner, probability=p,  # type: ignore[arg-type]
               style=(("tokens", float(ord(pair[0])), p),))
        for pair, winner, p in rows
    ]  # fmt: skip
    if ties == "rao-kupper" and all(row.winner.startswith("tie") for row in made):
        return
    for style in ((), ("tokens",)):
        ratings = fit_bradley_terry(
            made, ties=ties, weights=weights, interval=interval, rounds=20, style=style  # type: ignore[arg-type]
        )  # fmt: skip
        assert np.all(np.isfinite(ratings.rating))
        assert np.all(ratings.low <= ratings.rating + 1e-6) or interval == "bootstrap"
        assert np.all(ratings.low <= ratings.high)
        for place in range(len(ratings.models)):
            same = ratings.group == ratings.group[place]
            assert ratings.rank[place] == 1 + np.sum(same & (ratings.low > ratings.high[place] + LEVEL))
        for group in np.unique(ratings.group):
            assert ratings.rating[ratings.group == group].mean() == pytest.approx(1000, abs=1e-3)


def test_rows_of_a_store_are_read_as_battles() -> None:
    from typing import NamedTuple

    class Row(NamedTuple):
        seq: int
        model_a: str
        model_b: str
        winner: str
        time: float = 1.0
        probability: float = 0.5
        voter: str = "v"
        category: str = ""
        prompt: str = "7"
        style: tuple[tuple[str, float, float], ...] = (("tokens", 1.0, 2.0),)

    rows = [Row(number, "a", "b", WINNERS[number % 4]) for number in range(8)]
    battles = Battles.from_rows(rows)  # type: ignore[arg-type]
    assert battles.winner.tolist() == [0, 1, 2, 3] * 2
    assert battles.style_names == ("tokens",) and battles.probability[0] == 0.5
    assert fit_bradley_terry(iter(rows)).votes == 8  # type: ignore[arg-type]
