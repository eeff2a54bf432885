"""What whoever plays battles knows of them: each step, noted after the store has acknowledged it."""

from __future__ import annotations

import threading
from collections.abc import Collection
from pathlib import Path

from whorl.arena.store.records import BattleVote
from whorl.arena.store.store import Store
from whorl.base.files import JsonLines, read_jsonl
from whorl.base.progress import say


class Journal:
    """What the store has acknowledged of each battle: the last line of each counts. Without a path it is
    kept in memory alone."""

    def __init__(self, path: Path | None) -> None:
        self._known: dict[tuple[str, int], dict[str, object]] = {}
        if path is not None and path.exists():
            for record in read_jsonl(path):
                self._known[str(record["round"]), int(record["number"])] = record
        self._file = None if path is None else JsonLines(path)
        self._lock = threading.Lock()

    def note(self, round: str, number: int, battle: str, state: str) -> None:
        """`state` is "begun", "set aside", or who won."""
        record: dict[str, object] = {"round": round, "number": number, "battle": battle, "state": state}
        with self._lock:
            if self._file is not None:
                self._file.append(record, sync=True)
            self._known[round, number] = record

    def settle(self, store: Store) -> None:
        """A battle that was broken off after its beginning has its vote in the store, or is played anew."""
        kept = {vote.battle: vote.winner for vote in store.battles(consent="none", rated=None)}
        for (round, number), record in list(self._known.items()):
            battle = str(record["battle"])
            if record["state"] == "begun" and battle in kept:
                self.note(round, number, battle, kept[battle])

    def done(self, round: str) -> set[int]:
        with self._lock:
            return {number for (name, number), one in self._known.items()
                    if name == round and one["state"] != "begun"}  # fmt: skip

    def votes(self, *rounds: str) -> dict[str, str]:
        """Battle → winner of every acknowledged vote of these rounds, or of all."""
        return {
            str(one["battle"]): str(one["state"])
            for (name, _), one in self._known.items()
            if one["state"] not in ("begun", "set aside") and (not rounds or name in rounds)
        }

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


def lost_votes(store: Store, journal: Journal) -> int:
    """How many votes the store had acknowledged and does not hold as they were cast; all where its chain
    of hashes does not verify, which is said."""
    acknowledged = journal.votes()
    found = store.verify()
    if not found.ok:
        say(f"{store.database}: {found.problem}")
        return len(acknowledged)
    kept = {vote.battle: vote.winner for vote in store.battles(consent="none", rated=None)}
    return sum(kept.get(battle) != winner for battle, winner in acknowledged.items())


def votes_of(store: Store, battles: Collection[str]) -> list[BattleVote]:
    """The rated votes of these battles."""
    return [vote for vote in store.battles() if vote.battle in battles]
