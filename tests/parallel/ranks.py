"""What the ranks of `test_launch` run."""

from __future__ import annotations

import os
import signal
import sys
import time

from whorl.base.errors import InputError
from whorl.parallel.group import Group


def add(number: str) -> None:
    group = Group.current()
    assert group.sum(float(number) + group.rank) == 2 * float(number) + 1
    assert group.max(group.rank) == 1
    assert group.first(f"rank {group.rank}") == "rank 0"
    group.barrier()


def mistaken() -> None:
    Group.current().barrier()
    raise InputError("lr must be above 0; lower it")


def broken() -> None:
    group = Group.current()
    if group.rank == 1:
        print("a word before", file=sys.stderr)
        raise ValueError("rank one is broken")
    group.barrier()


def killed() -> None:
    group = Group.current()
    if group.rank == 1:
        print("about to be killed", file=sys.stderr, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)


def patient(folder: str) -> int:
    """Waits for a signal, agrees on it, and leaves as a run would."""
    from whorl.train.faults import LeaveSignals

    group = Group.current()
    with LeaveSignals(group) as leaving:
        open(os.path.join(folder, f"ready-{group.rank}"), "w").close()
        while not leaving.agreed():
            time.sleep(0.05)
    return 75
