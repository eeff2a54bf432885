"""Estimates against simulation and closed forms; likelihood against a known model; numbers in text."""

import asyncio
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from whorl.base.errors import DataError, InputError
from whorl.base.nouns import Message, Trace
from whorl.tasks import Estimate, Likelihood, bits_per_byte
from whorl.tasks.numbers import numbers
from whorl.tasks.task import held_out, randomness


def test_standard_errors_are_the_spread_of_the_mean() -> None:
    rng = np.random.default_rng(0)
    for draw in (lambda: (rng.random(200) < 0.8).astype(float), lambda: rng.beta(2, 3, 200)):
        estimates = [Estimate.of(list(draw())) for _ in range(2000)]
        spread = np.std([estimate.mean for estimate in estimates])
        assert np.mean([estimate.standard_error for estimate in estimates]) == pytest.approx(spread, rel=0.06)
    ratios = []
    for _ in range(2000):
        sizes = rng.integers(50, 500, 100).astype(float)
        ratios.append(Estimate.ratio(list(sizes * rng.normal(2, 0.3, 100)), list(sizes)))
    spread = np.std([ratio.mean for ratio in ratios])
    assert np.mean([ratio.standard_error for ratio in ratios]) == pytest.approx(spread, rel=0.06)


def test_wilson_interval_holds_its_coverage() -> None:
    from scipy.stats import binomtest

    for right, n in ((0, 10), (10, 10), (350, 360), (1, 3)):
        estimate = Estimate.of([1.0] * right + [0.0] * (n - right))
        expected = binomtest(right, n).proportion_ci(method="wilson")
        assert estimate.wilson() == pytest.approx((expected.low, expected.high), abs=1e-6)


def test_estimates_of_little() -> None:
    with pytest.raises(DataError, match="no values"):
        Estimate.of([])
    assert math.isnan(Estimate.of([0.5]).standard_error)
    assert Estimate.of([1, 1, 1]) == Estimate(mean=1, standard_error=0, n=3)


def score(task: Likelihood, logprob: float, tokens: int) -> list:
    trace = Trace(
        message=Message(role="assistant"),
        token_ids=tuple(range(tokens)),
        logprobs=(logprob / tokens,) * tokens,
    )
    return [asyncio.run(task.grade(example, trace)) for example in task.examples("test")]


def test_a_uniform_model_of_bytes_has_eight_bits_per_byte() -> None:
    text = "Grüße, 世界"
    task = Likelihood(texts={"test": [("a", text)]})
    (example,) = task.examples("test")
    assert example.kind == "text" and example.reference == text
    size = len(text.encode())
    (grade,) = score(task, -size * math.log(256), tokens=5)
    assert grade.parts["bits_per_byte"] == pytest.approx(8)
    assert grade.score == pytest.approx(1 / 256)
    with pytest.raises(InputError, match="no split 'train'"):
        next(task.examples("train"))
    with pytest.raises(DataError, match="no log-probs"):
        asyncio.run(task.grade(example, Trace(message=Message(role="assistant"))))


def test_bits_per_byte_weighs_by_bytes() -> None:
    task = Likelihood(texts={"test": [("short", "a"), ("long", "b" * 99)]})
    grades = score(task, -100 * math.log(2), tokens=4)  # 100 bits each: 100 and 1.01 bits per byte
    assert bits_per_byte(grades).mean == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("It is 168.", [168]), ("-3", [-3]), ("12-3", [12, 3]), ("5 - 3", [5, 3]), ("x = -7 and 3%", [-7, 3]),
        ("$1,234.50.", [Fraction("1234.5")]), ("$-5", [-5]), ("-$5", [-5]), ("is −5", [-5]), ("1,2", [1, 2]),
        ("a1 b_2 v3.4", []), ("(4)-2", [4, 2]), (".5 and 0.25", [Fraction(1, 2), Fraction(1, 4)]), ("", []),
        ("10,000,000", [10**7]), ("1,0000", [1, 0]),
    ],
)  # fmt: skip
def test_numbers_in_text(text: str, expected: list) -> None:
    assert numbers(text) == expected


@given(st.lists(st.integers(-(10**9), 10**9)))
def test_numbers_written_are_read(values: list[int]) -> None:
    assert numbers(" and ".join(f"{value:,}" for value in values)) == values


def test_held_out_is_the_share_it_says() -> None:
    count = sum(held_out(str(key), 0.1) for key in range(20_000))
    assert abs(count - 2000) < 5 * math.sqrt(20_000 * 0.09)


def test_randomness_depends_on_its_counter_alone() -> None:
    first = randomness(1, "a", 5).integers(1 << 60, size=3).tolist()
    assert first == randomness(1, "a", 5).integers(1 << 60, size=3).tolist()
    others = [
        randomness(*key).integers(1 << 60, size=3).tolist() for key in ((1, "a", 6), (2, "a", 5), (1, "b", 5))
    ]
    assert first not in others
