"""SIGKILL to writers, and to the database's server, at any moment: a vote acknowledged is a vote kept."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
import sqlalchemy as sa

from whorl.arena.store import Store

WRITER = Path(__file__).parent / "writer_for_tests.py"
ROOT = WRITER.parent.parent.parent.parent


def start(address: str, name: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(WRITER), address, name]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=ROOT, env=environment()
    )


def environment() -> dict[str, str]:
    import os

    return {**os.environ, "PYTHONPATH": str(ROOT)}


def acknowledged(process: subprocess.Popen[str]) -> dict[str, str]:
    """battle → head of every whole line a writer got out."""
    assert process.stdout is not None
    lines = process.stdout.read().splitlines(keepends=True)
    return dict(line.split() for line in lines if line.endswith("\n"))  # type: ignore[misc]


def kill_at_some_moment(address: str, rounds: int, seed: int, crash: object = None) -> dict[str, str]:
    draw, kept = random.Random(seed), {}
    for number in range(rounds):
        writers = [start(address, f"{number}-{which}") for which in range(2)]
        for writer in writers:
            assert writer.stdout is not None
            first = writer.stdout.readline()  # each is at work
            assert first.endswith("\n"), "the writer failed before its first vote"
            kept.update([first.split()])  # type: ignore[list-item]
        time.sleep(draw.uniform(0.0, 0.25))
        if callable(crash):
            crash()
        for writer in writers:
            writer.kill()
        for writer in writers:
            kept.update(acknowledged(writer))
            writer.wait()
    return kept


def check(store: Store, kept: dict[str, str], lost_at_most: int) -> None:
    found = {row.battle for row in store.battles(rated=None)}
    assert set(kept) <= found
    assert len(found) <= len(kept) + lost_at_most  # a vote may be kept that nobody could be told of
    whole = store.verify()
    assert whole.ok and whole.votes == len(found)
    with store.database.read() as connection:
        rows = connection.execute(sa.text("SELECT seq, hash FROM arena_log")).all()
    assert set(kept.values()) <= {f"{row.seq}:{row.hash}" for row in rows}


def test_writers_killed_at_any_moment_lose_no_acknowledged_vote(store: Store, address: str) -> None:
    kept = kill_at_some_moment(address, rounds=1, seed=1)
    check(store, kept, lost_at_most=2)


def test_a_server_killed_with_its_writers_loses_none_either(postgresql: object) -> None:
    address = postgresql.database()  # type: ignore[attr-defined]
    with Store.open(address, train_share=0.0) as store:
        for name in ("amber-1", "birch-2"):
            store.add_model(name)
        store.add_person("ann")
    kept = kill_at_some_moment(address, rounds=1, seed=2, crash=postgresql.crash)  # type: ignore[attr-defined]
    postgresql.start()  # type: ignore[attr-defined]
    with Store.open(address) as store:
        check(store, kept, lost_at_most=2)


@pytest.mark.soak
def test_many_kills(store: Store, address: str) -> None:
    check(store, kill_at_some_moment(address, rounds=25, seed=3), lost_at_most=50)
