"""Rounds of battles between models that a few lines stand for; run by itself so that it can be killed.

python tests/quickstart/player.py FOLDER BATTLES SECONDS
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from whorl.arena.journal import Journal
from whorl.arena.scripted import Ring, questions
from whorl.arena.store.store import Store
from whorl.base.nouns import Conversation, SamplingParams, Trace
from whorl.tasks.arithmetic import Arithmetic
from whorl.tasks.replies import calling, saying
from whorl.tools.builtin import calculator_tool
from whorl.tools.definition import Tool

TASK = Arithmetic(n_test=200)
ASKED: list[tuple[Arithmetic, tuple[Tool, ...]]] = [(TASK, (calculator_tool(),))]


@dataclass
class Reckoner:
    """Knows every answer where `right`, and takes `seconds` for each reply."""

    right: bool
    seconds: float = 0.0
    asked: list[str] = field(default_factory=list)
    seen: list[Conversation] = field(default_factory=list)

    async def reply(self, conversation: Conversation, params: SamplingParams) -> Trace:
        await asyncio.sleep(self.seconds)
        last = conversation.messages[-1]
        if last.role == "tool":
            return Trace(message=saying(f"It is {last.text}."), weight_version="reckoner")
        self.asked.append(last.text)
        if not self.right:
            return Trace(message=saying("Perhaps."), weight_version="guesser")
        found = next(e for e in ALL if e.conversation.messages[-1].text == last.text)
        return Trace(
            message=calling("calculator", expression=found.meta["expression"]), weight_version="reckoner"
        )


def examples(count: int = 400) -> list:
    train = (example for _, example in zip(range(count), TASK.examples("train"), strict=False))
    return [*TASK.examples("test"), *train]


ALL = examples()
ROUNDS: Mapping[str, str] = {"to train": "train", "to rate": "rate"}


def play(folder: Path, count: int, seconds: float = 0.0) -> dict[str, Reckoner]:
    """`count` battles of each round that have no vote yet."""
    clients = {"knows": Reckoner(True, seconds), "guesses": Reckoner(False, seconds)}
    with Store.open(folder / "arena.sqlite") as store:
        for name in clients:
            store.add_model(name)
        journal = Journal(folder / "votes.jsonl")
        journal.settle(store)
        ring = Ring(store, journal, 0, SamplingParams(max_tokens=8))
        for name, purpose in ROUNDS.items():
            prompts = questions(store, ASKED, purpose, count)  # type: ignore[arg-type]
            asyncio.run(ring.play(name, purpose, prompts, clients))  # type: ignore[arg-type]
        journal.close()
    return clients


if __name__ == "__main__":
    play(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))
