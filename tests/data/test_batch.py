"""Batch invariants, collating and packing."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whorl.base.errors import DataError
from whorl.data.batch import Batch, Sample, collate, pack


def sample(name: str, tokens: list[int], weights: list[float] | None = None, **images: object) -> Sample:
    return Sample(
        tokens=np.array(tokens, np.int32),
        weights=np.array(weights or [1.0] * len(tokens), np.float32),
        id=name,
        **images,
    )


def fields(**changes: object) -> dict[str, object]:
    base: dict[str, object] = {
        "tokens": np.array([1, 2, 3, 0], np.int32),
        "targets": np.array([2, 3, 4, 0], np.int32),
        "weights": np.array([1, 1, 1, 0], np.float32),
        "lengths": np.array([3, 1], np.int32),
        "ids": ("a", ""),
    }
    return base | changes


IMAGE = {
    "pixels": np.ones((2, 12), np.float32),
    "grids": np.array([[1, 2]], np.int32),
    "image_positions": np.array([0, 1], np.int64),
}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tokens": np.array([1, 2, 3, 0], np.int64)}, "tokens must be int32"),
        ({"targets": np.array([1, 2, 3], np.int32)}, r"targets must be int32 \[4\]"),
        ({"lengths": np.array([3, 2], np.int32)}, "sum to 4"),
        ({"lengths": np.array([4, 0], np.int32)}, "1 or more"),
        ({"ids": ("", "a")}, "padding comes last"),
        ({"ids": ("a",)}, r"lengths must be int32 \[1\]"),
        ({"weights": np.array([1, 1, 1, 1], np.float32)}, "padding has weight"),
        ({"weights": np.array([1, np.nan, 1, 0], np.float32)}, "finite"),
        ({"tokens": np.array([1, -2, 3, 0], np.int32)}, "0 or more"),
        (IMAGE | {"grids": np.array([[2, 2]], np.int32)}, "4 patches, pixels 2"),
        (IMAGE | {"image_positions": np.array([0, 4], np.int64)}, r"\[0, 4\)"),
        (IMAGE | {"image_positions": np.array([1, 1], np.int64)}, "distinct"),
        (IMAGE | {"pixels": None}, "pixels 0"),
    ],
)
def test_a_batch_that_disagrees_with_itself_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        Batch(**fields(**changes))


def test_collate_shifts_once_and_pads_last() -> None:
    picture = {
        "pixels": np.ones((1, 12), np.float32),
        "grids": np.array([[1, 1]], np.int32),
        "positions": np.array([1], np.int64),
    }
    batch = collate(
        [sample("a", [5, 6, 7], [0, 0, 1]), sample("b", [8, 9, 10, 11], [0, 0, 0.5, 1], **picture)], 7
    )
    assert batch.tokens.tolist() == [5, 6, 8, 9, 10, 0, 0]
    assert batch.targets.tolist() == [6, 7, 9, 10, 11, 0, 0]
    assert batch.weights.tolist() == [0, 1, 0, 0.5, 1, 0, 0]
    assert batch.lengths.tolist() == [2, 3, 2]
    assert batch.ids == ("a", "b", "") and batch.sample_ids == ("a", "b")
    assert batch.image_positions.tolist() == [3]  # token 9: "b" starts at 2, its image is at 1
    assert batch.weight == 2.5
    with pytest.raises(DataError, match="take 5 places and a batch has 4"):
        collate([sample("a", [1, 2, 3]), sample("b", [1, 2, 3, 4])], 4)


def test_a_sample_never_predicts_its_images() -> None:
    with pytest.raises(DataError, match="never predicted"):
        sample(
            "a",
            [1, 2, 3],
            [0, 1, 1],
            pixels=np.ones((1, 12), np.float32),
            grids=np.array([[1, 1]], np.int32),
            positions=np.array([1], np.int64),
        )


def test_an_empty_batch_weighs_nothing_and_takes_an_image_along() -> None:
    like = Batch(**fields(**IMAGE))
    assert Batch.empty(4).pixels is None
    empty = Batch.empty(4, like=like)
    assert empty.weight == 0 and empty.sample_ids == () and len(empty.tokens) == 4
    assert empty.pixels is not None and empty.grids.tolist() == [[1, 2]]


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 60).flatmap(lambda c: st.tuples(st.just(c), st.lists(st.integers(1, c), max_size=80))))
def test_packing_keeps_every_sample_once_and_within_capacity(case: tuple[int, list[int]]) -> None:
    capacity, lengths = case
    bins = pack(lengths, capacity)
    assert sorted(index for row in bins for index in row) == list(range(len(lengths)))
    used = [sum(lengths[index] for index in row) for row in bins]
    assert all(0 < total <= capacity for total in used)
    # best fit leaves no two bins that could be one, and needs at most 11/9 OPT + 6/9 of them (Dosa 2007)
    assert len(used) < 2 or sum(sorted(used)[:2]) > capacity
    assert bins == pack(np.array(lengths, np.int64), capacity)


def plain_best_fit(lengths: list[int], capacity: int) -> list[int]:
    """The reference: one sample at a time into the fullest bin that has room; the bins' fills."""
    used: list[int] = []
    for size in sorted(lengths, reverse=True):
        fitting = [i for i, total in enumerate(used) if total + size <= capacity]
        if fitting:
            used[max(fitting, key=lambda i: used[i])] += size
        else:
            used.append(size)
    return sorted(used)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(1, 40), max_size=60))
def test_packing_by_length_equals_best_fit_a_sample_at_a_time(lengths: list[int]) -> None:
    assert sorted(sum(lengths[i] for i in row) for row in pack(lengths, 40)) == plain_best_fit(lengths, 40)


def test_packing_names_the_sample_that_does_not_fit() -> None:
    with pytest.raises(DataError, match="sample 1 has length 9"):
        pack([3, 9], 8)
    assert pack([], 8) == []
