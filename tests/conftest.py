"""What every room's tests share: one thread a worker, no timed assertions, the shared real files."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from pathlib import Path

# Before torch is imported anywhere: two workers with two threads each would fight over two cores,
# and a worker's figures must not depend on how many workers there are.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test may need a network

import pytest
from hypothesis import settings

from whorl.cli.main import main

ROOT = Path(__file__).parent.parent

# The gate asks the same examples every time: what it says depends on the code alone. New ones are looked
# for with `pytest --hypothesis-profile wide`.
settings.register_profile("whorl", deadline=None, derandomize=True)
settings.register_profile("wide", deadline=None, max_examples=500)
settings.load_profile("whorl")


# Begun first, so that at the end no worker is busy with one of them while the other has nothing left.
LONGEST = (
    "quickstart/test_quickstart.py",
    "studio/test_shell.py",
    "serve/api/test_robust.py",
    "serve/test_contract.py",
    "kernels/test_triton_interpreted.py",
    "serve/test_clients.py",
    "kernels/test_native.py",
    "studio/test_battles.py",
    "post/test_dpo.py",
    "serve/api/test_lm_eval.py",
    "data/test_run.py",
    "train/test_resume.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    place = {str(ROOT / "tests" / name): number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(str(item.path), len(place)))


def pytest_collection_finish() -> None:
    """All rooms are imported: what that made is no collection's work any more."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    gc.unfreeze()  # or triton would print what was never collected, as leaks


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


@pytest.fixture
def complaint(capfd: pytest.CaptureFixture[str]) -> Callable[..., list[str]]:
    """`complaint("sft", "bad.jsonl")`: the lines that `whorl sft bad.jsonl` says, which is a mistake: it
    exits with 2. Run in this process, as one of its own takes seconds to import torch."""

    def of(*words: str) -> list[str]:
        with pytest.raises(SystemExit) as left:
            main(words)
        said = capfd.readouterr().err
        assert left.value.code == 2 and "Traceback" not in said, said
        return said.splitlines()

    return of


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What tests have measured (`record_property("measured", …)`), beside the bounds they hold it to."""
    reports = [one for kind in ("passed", "failed") for one in terminalreporter.getreports(kind)]
    lines = [text for one in reports for name, text in one.user_properties if name == "measured"]
    if lines:
        terminalreporter.section("measured")
        for line in sorted(set(map(str, lines))):
            terminalreporter.write_line(line)
