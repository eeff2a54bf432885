"""The mixture's schedule: proportions over every prefix, seeking, epochs."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whorl.base.errors import InputError
from whorl.data.mixture import Mixture, Source

weights = st.lists(st.integers(1, 40), min_size=1, max_size=7)


@settings(max_examples=150, deadline=None)
@given(weights)
def test_every_prefix_is_within_one_sample_of_its_share(parts: list[int]) -> None:
    mixture = Mixture([Source(name=str(i), weight=w / 10, size=3) for i, w in enumerate(parts)])
    counts = [0] * len(parts)
    for number in range(2 * sum(parts) + 3):
        source, index = mixture.at(number)
        assert index == counts[source]  # each source's samples in order, none left out
        counts[source] += 1
        for i, count in enumerate(counts):
            assert abs(count - (number + 1) * parts[i] / sum(parts)) < 1
    assert mixture.length is None


def test_weights_without_a_short_period_stay_within_one_too() -> None:
    values = [0.123456789, 0.3333333333, 2.71828]
    mixture = Mixture([Source(name=str(i), weight=w, size=9) for i, w in enumerate(values)])
    counts = [0, 0, 0]
    for number in range(20_000):
        counts[mixture.at(number)[0]] += 1
        if number % 37 == 0:
            for count, value in zip(counts, values, strict=True):
                assert abs(count - (number + 1) * value / sum(values)) < 1.3  # 1/65536 parts add 0.3 by here


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 30), st.integers(1, 3)), min_size=1, max_size=5))
def test_epochs_are_taken_whole_and_then_the_source_is_left_out(rows: list[tuple[int, int, int]]) -> None:
    sources = [Source(name=str(i), weight=w, size=n, epochs=e) for i, (w, n, e) in enumerate(rows)]
    mixture = Mixture(sources)
    limits = [n * e for _, n, e in rows]
    assert mixture.length == sum(limits)
    taken = [mixture.at(number) for number in range(sum(limits))]
    assert sorted(taken) == sorted((i, k) for i, limit in enumerate(limits) for k in range(limit))
    with pytest.raises(IndexError):
        mixture.at(sum(limits))


def test_far_seeks_cost_no_walk() -> None:
    mixture = Mixture([Source(name="a", weight=3, size=10), Source(name="b", weight=1, size=10, epochs=2)])
    assert mixture.at(10**15)[0] == 0
    assert mixture.at(10**15)[1] == 10**15 - 20
    assert {name: str(share) for name, share in mixture.shares.items()} == {"a": "3/4", "b": "1/4"}


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        ([], "at least one"),
        ([{"name": "a", "weight": 0, "size": 1}], "above 0"),
        ([{"name": "a", "weight": float("nan"), "size": 1}], "above 0"),
        ([{"name": "a", "weight": 1, "size": 0}], "empty"),
        ([{"name": "a", "weight": 1, "size": 10, "epochs": 0.01}], "less than one sample"),
        ([{"name": "a", "weight": 1, "size": 1}] * 2, "must differ"),
    ],
)
def test_bad_sources_are_named(sources: list[dict[str, object]], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Mixture([Source(**source) for source in sources])
