"""A workspace as a team's is after a year: thirty models, a long log of votes, runs, a dataset."""

from __future__ import annotations

import json
import math
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection

from whorl.arena.battles import WINNERS
from whorl.arena.simulation import Judge, simulate_battles, synthetic_strengths
from whorl.arena.store import Said, Store
from whorl.arena.store.store import default_store
from whorl.base.config import Config
from whorl.base.logbook import Logbook
from whorl.base.nouns import Message
from whorl.data.config import SplitConfig
from whorl.data.pipeline import run
from whorl.data.steps import Annotate, Split

PROMPTS = 40  # told apart by their cluster once each; more would measure the building
DAYS = 60
RUNS, STEPS = 12, 3000
SIGNALS = ("rps_doc_word_count", "rps_doc_mean_word_length", "rps_lines_num_words")
WORDS = [
    "the", "weight", "on", "a", "spindle", "keeps", "it", "turning", "while", "fibre", "goes", "in", "and",
    "thread", "comes", "out", "again",
]  # fmt: skip
LONG = "with-a-name-that-goes-on-for-longer-than-a-phone-is-wide"


class Settings(Config):
    rate: float = 1.0


def build(workspace: Path, models: int, votes: int, patience: float) -> int:
    """How many votes there are: `votes`, or fewer where the building takes longer than `patience` seconds."""
    names = [f"model-{number:02d}{'-' + LONG if number % 10 == 3 else ''}" for number in range(models)]
    for name in names:
        folder = workspace / "models" / name
        folder.mkdir(parents=True)
        for file in ("config.json", "tokenizer.json", "model.safetensors"):
            (folder / file).write_text("{}")  # they are listed, never started
    for number in range(RUNS):
        train(workspace / "runs" / f"run-{number:02d}", random.Random(number))
    make_data(workspace)
    with Store.open(default_store(workspace), train_share=0.0) as store:
        for name in names:
            store.add_model(name, address=str((workspace / "models" / name).resolve()))
        return cast(store, names, votes, patience)


def cast(store: Store, names: list[str], votes: int, patience: float) -> int:
    judge = store.add_person("judge").id
    battles = simulate_battles(synthetic_strengths(len(names), 200.0), [Judge(tie_width=0.5)], votes)
    place = {name: names[number] for number, name in enumerate(battles.models)}
    dice, end, began = random.Random(3), time.monotonic() + patience, time.time() - DAYS * 86400
    with one_transaction(store):
        for number in range(votes):
            a, b = (battles.models[column[number]] for column in (battles.a, battles.b))
            asked = number % PROMPTS
            store.add_battle(
                judge, [message("user", f"{WORDS[asked % len(WORDS)]} {asked} " * 8)], model_a=place[a],
                model_b=place[b], probability=0.1, consent="rate", a=[reply(dice)], b=[reply(dice)],
                winner=WINNERS[battles.winner[number]], category=dice.choice(["coding", "maths", "writing"]),
                at=began + DAYS * 86400 * number / votes,
            )  # fmt: skip
            if time.monotonic() > end:
                return number + 1
    return votes


@contextmanager
def one_transaction(store: Store) -> Iterator[None]:
    """All that is written meanwhile at once: a year's votes would else wait for the disk at each one."""
    with store.database.write() as connection:

        @contextmanager
        def write(*_: int) -> Iterator[Connection]:
            yield connection

        store._write = write  # type: ignore[method-assign]
        try:
            yield
        finally:
            del store._write  # type: ignore[method-assign]


def message(role: Any, text: str) -> Message:
    return Message(role=role, content=(text,))


def reply(dice: random.Random) -> Said:
    text = " ".join(dice.choices(WORDS, k=dice.randint(4, 20)))
    return Said(message=message("assistant", text), weight_version="0123456789abcdef")


def train(folder: Path, dice: random.Random) -> None:
    with Logbook(folder) as book:
        book.config(Settings(rate=dice.random()))
        for step in range(1, STEPS + 1):
            noise = dice.gauss(0, 0.05)
            book.metric(step, loss=1.5 + 5 * math.exp(-step / 400) + noise, lr=1e-3 * (1 - step / STEPS),
                        grad_norm=abs(1 + noise), tokens_per_second=12_000 + 500 * noise)  # fmt: skip
            if step % 500 == 0:
                book.event("sample", step=step, prompt="Once", reply=" ".join(dice.choices(WORDS, k=30)))
        book.event("finish", step=STEPS)


def make_data(workspace: Path) -> None:
    dice = random.Random(7)
    raw = workspace / "raw"
    raw.mkdir()
    lines = [json.dumps({"text": " ".join(dice.choices(WORDS, k=dice.randint(5, 200)))}) for _ in range(2000)]
    (raw / "texts.jsonl").write_text("\n".join(lines) + "\n")
    steps = [*(Annotate(name, name) for name in SIGNALS), Split(SplitConfig(validation=0.05))]
    run(raw, steps, workspace / "data" / "texts")
