"""`launch` with real ranks: results, mistakes, deaths and signals come back as one thing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from whorl.base.errors import FaultError, InputError
from whorl.parallel.launch import EXIT_RESUME, launch

RANKS = str(Path(__file__).with_name("ranks.py"))


@pytest.mark.soak
def test_ranks_agree_and_end_well() -> None:
    assert launch(2, f"{RANKS}:add", ["3"]) == 0


def test_a_mistake_comes_back_as_itself() -> None:
    with pytest.raises(InputError, match="lr must be above 0; lower it"):
        launch(2, f"{RANKS}:mistaken")


@pytest.mark.soak
def test_an_exception_in_a_rank_is_a_fault_with_its_last_line() -> None:
    with pytest.raises(FaultError, match="rank 1 exited with code 1; its last line: ValueError: rank one"):
        launch(2, f"{RANKS}:broken")


def test_a_killed_rank_ends_the_others_and_is_named() -> None:
    with pytest.raises(FaultError, match="rank 1 was killed by SIGKILL; its last line: about to be killed"):
        launch(2, f"{RANKS}:killed")


def test_no_ranks_is_a_mistake() -> None:
    with pytest.raises(InputError, match="1 or more"):
        launch(0, f"{RANKS}:add")


def _start(folder: Path) -> subprocess.Popen[bytes]:
    code = "import sys; import whorl.parallel.launch as l; sys.exit(l.launch(2, sys.argv[1], sys.argv[2:]))"
    command = [sys.executable, "-c", code, f"{RANKS}:patient", str(folder)]
    process = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": os.getcwd()})
    for _ in range(1200):
        if len(list(folder.glob("ready-*"))) == 2 or process.poll() is not None:
            break
        time.sleep(0.1)
    assert process.poll() is None
    return process


def test_a_signal_reaches_every_rank_and_the_code_means_resume(tmp_path: Path) -> None:
    process = _start(tmp_path)
    process.send_signal(signal.SIGUSR1)
    assert process.wait(timeout=120) == EXIT_RESUME


@pytest.mark.soak
@pytest.mark.parametrize("victim", ["launcher", "agent"])
def test_nothing_is_left_behind_when_a_process_above_is_killed(tmp_path: Path, victim: str) -> None:
    process = _start(tmp_path)
    family = psutil.Process(process.pid).children(recursive=True)
    agent = psutil.Process(process.pid).children()[0]
    (agent if victim == "agent" else process).send_signal(signal.SIGKILL)
    _, alive = psutil.wait_procs([p for p in family if p.pid != process.pid], timeout=60)
    process.wait(timeout=60)
    assert not [p for p in alive if p.status() != psutil.STATUS_ZOMBIE]
