"""What the benches call met and missed, and the exit code that follows."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

MINE = (
    "arena",
    "serve",
    "_verdicts",
    "_arena_people",
    "_arena_store",
    "_serve_peers",
    "_mock_model",
    "_record",
)


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "bench"))
    import _verdicts
    import arena
    import serve

    yield SimpleNamespace(arena=arena, serve=serve, verdicts=_verdicts)
    for name in MINE:
        sys.modules.pop(name, None)


def code(bench: Any, verdicts: list[Any]) -> int:
    return int(bench.verdicts.tell(verdicts, Console(quiet=True)))


def store(vote: float, lost: int = 0) -> dict[str, Any]:
    return {"p95_ms": {"vote": vote, "vote of all at once": 243.0}, "lost": lost, "votes": 500}


@pytest.mark.parametrize(
    ("sqlite", "postgresql", "outcomes"),
    [
        (store(40), store(60), ["met", "met", "met"]),
        (store(40), store(101), ["met", "missed", "met"]),
        (store(40), store(40, lost=1), ["met", "met", "missed"]),
        (store(40), None, ["met", "not measured", "met"]),
    ],
)
def test_votes_in_time(bench: Any, sqlite: Any, postgresql: Any, outcomes: list[str]) -> None:
    found = {"sqlite": sqlite} | ({"postgresql": postgresql} if postgresql else {})
    verdicts = bench.arena.votes_in_time(found, "100 people")
    assert [one.outcome for one in verdicts] == outcomes
    assert code(bench, verdicts) == int(outcomes != ["met"] * 3)
    assert "243 ms" in verdicts[0].found, "the burst stands beside the claim"


def overhead(serve: ModuleType, share: float) -> Any:
    return serve.Overhead(0.1, 0.1 * share / 2, 0.1 * share / 2, 1000, 1e-5)


def test_serving_has_a_verdict_for_every_target(bench: Any) -> None:
    serve = bench.serve
    ratios = {f"{kind}, {load}": target for (kind, load), target in serve.TARGETS.items()}
    ratios |= dict(serve.GENERATE_TARGETS)
    fast = {"one": [500.0, 700.0, 400.0], "sixteen": [1.0]}

    def verdicts(ratios: dict[str, float], share: float = 0.09) -> list[Any]:
        found = {"overheads": [overhead(serve, share)]}
        return list(serve.verdicts(ratios, found, fast, ["bfloat16"], "random weights"))

    whole = verdicts(ratios)
    assert len(whole) == len(serve.TARGETS) + len(serve.GENERATE_TARGETS) + 2
    assert code(bench, whole) == 0 and "random weights" in whole[-1].claim
    for name, ratio in ratios.items():
        told = verdicts({**ratios, name: ratio * 0.99})
        assert [one.outcome for one in told].count("missed") == 1 and code(bench, told) == 1
    assert code(bench, verdicts(ratios, share=0.11)) == 1
    fast["one"] = [499.0]
    assert code(bench, verdicts(ratios)) == 1
    fast["one"] = [500.0]
    left_out = verdicts({name: ratio for name, ratio in ratios.items() if name in serve.GENERATE_TARGETS})
    assert [one.outcome for one in left_out].count("left out") == len(serve.TARGETS)
    assert code(bench, left_out) == 0
