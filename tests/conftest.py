"""What every room's tests share: one thread a worker, no timed assertions, the shared real files."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

# Before torch is imported anywhere: two workers with two threads each would fight over two cores,
# and a worker's figures must not depend on how many workers there are.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test may need a network

import pytest
from hypothesis import settings

ROOT = Path(__file__).parent.parent

# The gate asks the same examples every time: what it says depends on the code alone. New ones are looked
# for with `pytest --hypothesis-profile wide`.
settings.register_profile("whorl", deadline=None, derandomize=True)
settings.register_profile("wide", deadline=None, max_examples=500)
settings.load_profile("whorl")


@pytest.fixture(scope="session")
def shared_data() -> Callable[[str], Path]:
    """`shared_data("gsm8k-test.jsonl")`: a real file from beside the repository (or from
    $WHORL_TEST_DATA); the test is skipped by that name where it is absent."""
    folder = Path(os.environ.get("WHORL_TEST_DATA") or ROOT.parent / "shared" / "data")

    def find(name: str) -> Path:
        path = folder / name
        if not path.exists():
            pytest.skip(f"{name} is not in {folder}; set WHORL_TEST_DATA to a folder that holds it")
        return path

    return find
