"""bench/arena.py's half at the store: what it calls lost is lost, and else nothing is."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[3] / "bench"))
    import _arena_store

    yield _arena_store
    del sys.modules["_arena_store"]


def test_a_crowd_loses_no_vote(bench: ModuleType, address: str) -> None:
    found = bench.crowd(address, people=4, seconds=0.3, pace=0.1)
    assert found["votes"] >= 4 and found["lost"] == 0
    assert set(found["p95_ms"]) == {"start", "answer", "vote"}
    assert found["p50_ms"]["vote"] <= found["p95_ms"]["vote"] <= found["p99_ms"]["vote"]


def test_a_vote_that_is_not_there_is_counted(
    bench: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that says yes and keeps nothing of every third vote."""
    vote, calls = bench.Store.vote, []

    def forgets(store: object, battle: str, winner: str, **given: object) -> object:
        calls.append(battle)
        return None if len(calls) % 3 == 0 else vote(store, battle, winner, **given)

    monkeypatch.setattr(bench.Store, "vote", forgets)
    found = bench.crowd(str(tmp_path / "arena.sqlite"), people=1, seconds=0.5, pace=0.05)
    assert found["lost"] == len(calls) // 3 > 0
