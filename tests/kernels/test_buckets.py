"""Buckets hold what they are asked to hold, waste little, and are few."""

from hypothesis import given
from hypothesis import strategies as st

from whorl.kernels.buckets import PARTS, SMALLEST, bucket


@given(st.integers(1, 1 << 20))
def test_a_bucket_holds_its_size_and_wastes_an_eighth_at_most(size: int) -> None:
    held = bucket(size)
    assert size <= held < size + max(SMALLEST, size / PARTS + 1)
    assert bucket(held) == held


def test_buckets_are_few() -> None:
    assert len({bucket(size) for size in range(1, 16_385)}) < 90
