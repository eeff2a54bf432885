"""The way back: the base and the chat model meet in the arena, the votes train a third, and that one enters.

    arena      base against chat: votes on prompts that train, and votes on held-out ones that rate
    dpo        the chat model learns from the first kind, exported from the store
    rematch    the new model against the chat model, on further held-out prompts

The store of votes is the workspace's own, so that its pages show these battles too.
"""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from typing import Any

from whorl.arena.journal import Journal
from whorl.arena.scripted import Question, Ring, Tasks, questions
from whorl.arena.store.exporting import PAIRS, export
from whorl.arena.store.store import Store
from whorl.base.client import OpenAIClient
from whorl.base.files import atomic_write, read_json, read_jsonl, write_json
from whorl.base.logbook import Logbook
from whorl.base.nouns import SamplingParams
from whorl.base.progress import say
from whorl.evals.serving import served
from whorl.post.config import DpoConfig, DpoTrainConfig
from whorl.post.dpo import dpo
from whorl.post.pairs import SIDES
from whorl.post.sampled import TRACES
from whorl.quickstart.arena_rows import arena_rows
from whorl.quickstart.figures import CALL_TOKENS, check_weights, log_figures
from whorl.quickstart.plan import BATCH_TOKENS, SEQUENCE, RoundTripPlan
from whorl.quickstart.stages import Stages
from whorl.train.config import OptimConfig, ScheduleConfig

DIRECTORIES = {"base": "base", "chat": "model", "dpo": "dpo/model"}  # of the run, by the model's part in it
FOLDER, NAMES, VOTES, OWN_PAIRS = "arena", "models.json", "votes.jsonl", "pairs.jsonl"
TRAIN, RATE, REMATCH = "battles that train", "battles that rate", "rematch"  # the rounds

ARENA_CACHE_GB = 0.1  # of each server: its share of the battles under way, in full pages
# Of the preference training, gentle: the chat model has won nearly every vote, so the pairs say little that
# it does not know. In trials with pairs of its own mistakes, too, twice these rates lost more than they won.
EPOCHS, NLL, LR, MUON_LR = 1.0, 0.2, 5e-5, 5e-4


@dataclass
class RoundTrip:
    """The stages over the models in `run`; each goes on where it was broken off."""

    run: Path
    store: Store
    plan: RoundTripPlan
    tasks: Tasks
    stages: Stages
    logbook: Logbook
    seed: int = 0
    dtype: str = "auto"

    def __post_init__(self) -> None:
        self.names = model_names(self.run, self.store)
        self.journal = Journal(self.run / FOLDER / VOTES)
        self.journal.settle(self.store)

    def go(self) -> bool:
        """Whether it came to its end; not where a signal asked to leave."""
        if not self.stages.done("arena"):
            with self.stages.stage("arena", self.plan.budget["arena"]) as kept:
                self.play({TRAIN: self.prompts(TRAIN), RATE: self.prompts(RATE)}, "base", "chat")
                kept["value"] = {"votes": len(self.journal.votes())}
        if not self.stages.done("dpo"):
            with self.stages.stage("dpo", self.plan.budget["dpo"]) as kept:
                pairs = self.own_pairs()
                kept["value"] = {"pairs": pairs}
                if pairs:
                    kept["left"] = learn_preferences(self.run, self.seed, self.dtype)
            if not self.stages.done("dpo"):
                return False
        if not self.stages.done("rematch"):
            with self.stages.stage("rematch", self.plan.budget["rematch"]) as kept:
                learnt = self.stages.value("dpo")["pairs"] > 0
                if learnt:
                    self.play({REMATCH: self.prompts(REMATCH)}, "chat", "dpo")
                rows = arena_rows(self.store, self.journal, (RATE, REMATCH), self.names, learnt=learnt)
                log_figures(rows, self.logbook)
                kept["value"] = {"rows": [asdict(row) for row in rows]}
        return True

    def close(self) -> None:
        self.journal.close()

    def prompts(self, round: str) -> list[Question]:
        """The round's prompts. Where there are few held-out ones, the rematch has its share of them."""
        battles = self.plan.battles
        if round == TRAIN:
            return questions(self.store, self.tasks, "train", battles["train"])
        wanted = battles["rate"] + battles["rematch"]
        held = questions(self.store, self.tasks, "rate", wanted)
        first = len(held) * battles["rate"] // wanted
        return held[:first] if round == RATE else held[first:]

    def play(self, rounds: dict[str, list[Question]], *parts: str) -> None:
        """The rounds between these of the run's models, each served meanwhile."""
        for part in parts:
            self.store.add_model(self.names[part], address=str(self.directory(part)))
        if any(len(self.journal.done(name)) < len(prompts) for name, prompts in rounds.items()):
            with shared_cores(len(parts)):
                asyncio.run(self._play(rounds, parts))

    async def _play(self, rounds: dict[str, list[Question]], parts: Sequence[str]) -> None:
        ring = Ring(self.store, self.journal, self.seed, SamplingParams(max_tokens=CALL_TOKENS))
        async with AsyncExitStack() as stack:
            clients = {}
            for part in parts:
                address = stack.enter_context(served(self.directory(part), "--memory", str(ARENA_CACHE_GB)))
                client = await stack.enter_async_context(OpenAIClient(address, traced=True))
                check_weights(await client.connect(), address, self.directory(part))
                clients[self.names[part]] = client
            for name, prompts in rounds.items():
                await ring.play(name, "train" if name == TRAIN else "rate", prompts, clients)

    def directory(self, part: str) -> Path:
        return (self.run / DIRECTORIES[part]).resolve()

    def own_pairs(self) -> int:
        """Keep what the export has of this run's battles, and nobody else's words, as pairs.jsonl with their
        traces beside them; how many there are. Once it is written it stays: a preference run goes on with the
        pairs that it began with."""
        place = self.run / FOLDER / OWN_PAIRS
        if not place.exists():
            wanted = self.journal.votes(TRAIN)
            with tempfile.TemporaryDirectory() as temporary:
                made = export(self.store, Path(temporary) / "export").path
                own = [record for record in read_jsonl(made / PAIRS) if record["id"] in wanted]
                kept = [record for record in own if not is_silent(record)]
                named = {id for record in kept for side in SIDES for id in record.get(f"{side}_traces") or ()}
                traces = [one for one in read_jsonl(made / TRACES) if one["trace"] in named] if named else []
                write_jsonl(place.with_name(TRACES), traces)  # first: who has the pairs has their tokens
                write_jsonl(place, kept)
            counts = {"pairs": len(kept), "silent": len(own) - len(kept), "traces": len(traces)}
            self.logbook.event("data", name="preference pairs", counts=counts)
        pairs = sum(1 for _ in read_jsonl(place))
        told = f"{pairs} pairs of a better and a worse reply"
        say(told if pairs else "no vote preferred one reply to the other: there is nothing to learn from")
        return pairs


@contextmanager
def shared_cores(processes: int) -> Iterator[None]:
    """Processes that are started meanwhile, and work at the same time, have a share of the cores each, and no
    more threads than the person has said. With all cores each, as is usual, the threads of a step wait for
    one another in turns: measured 6 times slower on two cores that others used as well."""
    said = os.environ.get("OMP_NUM_THREADS")
    share = max(1, (os.cpu_count() or 1) // processes)
    os.environ["OMP_NUM_THREADS"] = str(min(share, int(said)) if said and said.isdecimal() else share)
    try:
        yield
    finally:
        del os.environ["OMP_NUM_THREADS"]
        if said is not None:
            os.environ["OMP_NUM_THREADS"] = said


def write_jsonl(path: Path, records: Iterable[dict[str, Any]]) -> None:
    with atomic_write(path) as file:
        file.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


def is_silent(pair: dict[str, Any]) -> bool:
    """Whether a reply in it has no words and no calls: one may vote against it, and not learn from it."""
    replies = [one for one in (*pair["chosen"], *pair["rejected"]) if one["role"] == "assistant"]
    return any(not str(one.get("content") or "").strip() and not one.get("tool_calls") for one in replies)


def learn_preferences(run: Path, seed: int, dtype: str) -> str:
    """The chat model, trained on the run's pairs, in run/dpo/model; the signal it left on, if any."""
    pairs = str(run / FOLDER / OWN_PAIRS)
    train = DpoTrainConfig(
        seed=seed, dtype=dtype, compile="off", optim=OptimConfig(lr=LR, muon_lr=MUON_LR, weight_decay=0.0),
        schedule=ScheduleConfig(warmup=2, decay=0.5), keep_checkpoints=1,
    )  # fmt: skip
    config = DpoConfig(
        model=str(run / DIRECTORIES["chat"]), pairs=(pairs,), runs=str(run), name="dpo", nll=NLL,
        length=BATCH_TOKENS, max_length=SEQUENCE, too_long="drop", validation=0.0, epochs=EPOCHS, train=train,
    )  # fmt: skip
    return dpo(config).left


def model_names(run: Path, store: Store) -> dict[str, str]:
    """What the store calls the run's models, by their part in it. A name stays with its weights for ever, so
    a run in whose folder none are noted takes ones that the store does not have yet."""
    place = run / FOLDER / NAMES
    if not place.exists():
        known = {model.name for model in store.models()}
        for number in count(1):
            prefix = run.name if number == 1 else f"{run.name}-{number}"
            names = {part: f"{prefix}-{part}" for part in DIRECTORIES}
            if not known & set(names.values()):
                break
        write_json(place, {"format": 1, "models": names})
    found: dict[str, str] = read_json(place)["models"]
    return found


def move_models(store: Store, before: Path, after: Path) -> None:
    """Say where the models are now, that were in a run's folder `before`."""
    for model in store.models():
        place = Path(model.address)
        if model.address and place.is_relative_to(before):
            moved = str(after / place.relative_to(before))
            store.add_model(model.name, address=moved, aliases=model.aliases, active=model.active)
