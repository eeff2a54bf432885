"""Two gloo ranks, DDP and FSDP2, against one process: the same losses, validation and weights."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from whorl.parallel.launch import launch

sys.path.insert(0, str(Path(__file__).parent))

from scenarios import SCENARIOS, train

PROGRAM = Path(__file__).with_name("scenarios.py")
BOUNDS = {"bf16": 2e-3}
# After the last step: bf16 sums differ with the order of the ranks, by then 2.5e-3 of 3.4 on some CPUs.
VALIDATION_BOUNDS = {"bf16": 5e-3}
QUICK = ("uneven", "lora", "bf16")


def check(folder: Path, names: Sequence[str]) -> None:
    out = folder / "out.json"
    assert launch(2, f"{PROGRAM}:main", [str(out), *names]) == 0
    two_ranks: dict[str, Any] = json.loads(out.read_text())
    for name in names:
        check_one(two_ranks, name)


def test_two_ranks_equal_one_process(tmp_path: Path) -> None:
    check(tmp_path, QUICK)


@pytest.mark.soak
def test_two_ranks_equal_one_process_in_every_way(tmp_path: Path) -> None:
    check(tmp_path, sorted(SCENARIOS.keys() - set(QUICK)))


def check_one(two_ranks: dict[str, Any], name: str) -> None:
    alone = train(name, "ddp")
    assert len(alone["losses"]) == 20 and alone["losses"][-1] < alone["losses"][0]
    bound = BOUNDS.get(name, 1e-5)
    for how in ("ddp", "fsdp"):
        found = two_ranks[f"{name}-{how}"]
        worst = max(abs(a - b) for a, b in zip(alone["losses"], found["losses"], strict=True))
        assert worst <= bound, f"{how}: {worst}"
        assert found["validation"] == pytest.approx(
            alone["validation"], abs=VALIDATION_BOUNDS.get(name, bound)
        )
        assert found["norms"].keys() == alone["norms"].keys()
        for key, value in alone["norms"].items():
            assert found["norms"][key] == pytest.approx(value, rel=100 * bound, abs=1e-4), (how, key)
