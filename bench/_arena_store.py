"""A hundred people at once on one store: how long a vote takes, and whether every one is kept.

Each person is a thread of one process, as in a server: a battle begins, both sides answer after a while
(nothing is computed: models are not what is measured), the person reads and votes. The store is SQLite, and
a PostgreSQL of its own that syncs to disk. What was acknowledged is compared with what another handle reads
afterwards, and the chain is verified.
"""

from __future__ import annotations

import os
import random
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from whorl.arena.store import Said, Store
from whorl.base.nouns import Message

MODELS = tuple(f"model-{number}" for number in range(6))
VOCABULARY = [f"word{number}" for number in range(3000)]
WORDS = {"prompt": 15, "reply": 120}
CORES = 2


@dataclass
class Latencies:
    """Milliseconds of every call, by what it was."""

    start: list[float] = field(default_factory=list)
    answer: list[float] = field(default_factory=list)
    vote: list[float] = field(default_factory=list)

    @contextmanager
    def timed(self, what: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        getattr(self, what).append(1000 * (time.perf_counter() - start))

    def at(self, share: float) -> dict[str, float]:
        return {
            name: round(sorted(took)[min(int(share * len(took)), len(took) - 1)], 2)
            for name, took in vars(self).items()
        }


class Person:
    """Battle after battle until `end`; `pace` seconds each on average, of which a third waits for answers."""

    def __init__(self, store: Store, number: int, pace: float) -> None:
        self.store, self.pace = store, pace
        self.draw = random.Random(number)
        self.number = store.add_person(f"person {number}").id
        self.took = Latencies()
        self.kept: list[tuple[str, str]] = []  # (battle, winner) of what was acknowledged

    def run(self, end: float) -> None:
        time.sleep(self.draw.uniform(0, self.pace))
        while time.perf_counter() < end:
            self.battle()

    def battle(self) -> None:
        a, b = self.draw.sample(MODELS, 2)
        with self.took.timed("start"):
            pair = self.store.start_battle(
                self.number, [message("user", self.text("prompt"))], model_a=a, model_b=b, probability=1 / 15,
                consent=self.draw.choice(["rate", "train"]),
            )  # fmt: skip
        time.sleep(self.draw.uniform(0.5, 1.5) * self.pace / 3)
        with self.took.timed("answer"):
            self.store.answer(pair.id, a=[self.reply("w1")], b=[self.reply("w2")])
        time.sleep(self.draw.uniform(0.5, 1.5) * self.pace * 2 / 3)
        winner = self.draw.choice(["model_a", "model_b", "tie", "tie (bothbad)"])
        with self.took.timed("vote"):
            self.store.vote(pair.id, winner, person=self.number)  # type: ignore[arg-type]
        self.kept.append((pair.id, winner))

    def reply(self, weights: str) -> Said:
        trace = {"token_ids": [self.draw.randrange(32_000) for _ in range(WORDS["reply"])], "id": "mock"}
        return Said(message=message("assistant", self.text("reply")), weight_version=weights, trace=trace)

    def text(self, kind: str) -> str:
        return " ".join(self.draw.choices(VOCABULARY, k=WORDS[kind]))


def message(role: str, text: str) -> Message:
    return Message(role=role, content=(text,))  # type: ignore[arg-type]


def crowd(address: str, people: int, seconds: float, pace: float) -> dict[str, Any]:
    """Let them vote; latencies, votes a second, and how many votes were lost."""
    with Store.open(address) as store:
        for name in MODELS:
            store.add_model(name)
        there = [Person(store, number, pace) for number in range(people)]
        used, begun = time.process_time(), time.perf_counter()
        threads = [threading.Thread(target=one.run, args=(begun + seconds,)) for one in there]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        took, used = time.perf_counter() - begun, time.process_time() - used
    acknowledged = dict(pair for one in there for pair in one.kept)
    with Store.open(address, create=False) as store:
        read = {row.battle: row.winner for row in store.battles(rated=None, consent="none")}
        found = store.verify()
    if not found.ok:
        sys.exit(f"bench/arena.py: the log of votes does not verify: {found.problem}")
    every = Latencies()
    for one in there:
        for name, more in vars(one.took).items():
            getattr(every, name).extend(more)
    lost = sum(read.get(battle) != winner for battle, winner in acknowledged.items())
    per_battle = 1000 * used / len(read)
    return {
        "people": people, "pace_s": pace, "seconds": round(took, 2), "votes": len(acknowledged), "lost": lost,
        "votes_per_s": round(len(acknowledged) / took, 1), "cpu_ms_per_battle": round(per_battle, 2),
        "p50_ms": every.at(0.5), "p95_ms": every.at(0.95), "p99_ms": every.at(0.99),
    }  # fmt: skip


@contextmanager
def two_cores() -> Iterator[None]:
    """This process and those it starts on CORES cores; elsewhere than on Linux on all there are."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(before)[:CORES])
    yield
    os.sched_setaffinity(0, before)


@contextmanager
def addresses() -> Iterator[dict[str, str]]:
    """A fresh store's address on each database. Where PostgreSQL does not run here, that is said."""
    sys.path.insert(0, str(Path(__file__).parents[1]))  # the tests have the server
    from tests.arena.store.server import NoServerError, PostgreSQL

    with tempfile.TemporaryDirectory(prefix="whorl-bench-") as folder:
        found = {"sqlite": f"{folder}/arena.sqlite", "sqlite, no pauses": f"{folder}/fast.sqlite"}
        try:
            server = PostgreSQL(durable=True)
        except NoServerError as reason:
            sys.stderr.write(f"without PostgreSQL: {reason}\n")
            yield found
            return
        try:
            yield {**found, "postgresql": server.database(), "postgresql, no pauses": server.database()}
        finally:
            server.stop()


def at_the_store(people: int, seconds: float, pace: float) -> dict[str, dict[str, Any]]:
    """By database: with people's pauses, and without any, which shows how much there is to spare."""
    with two_cores(), addresses() as places:
        return {
            name: crowd(place, people, seconds, 0.0 if "no pauses" in name else pace)
            for name, place in places.items()
        }
