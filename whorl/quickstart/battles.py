"""Battles of the run's own models: prompts, replies to them, the tasks' grades as votes.

Every step of a battle is noted in the run's `arena/votes.jsonl`, after the store has acknowledged it. So a
round that was broken off goes on with the prompts that have no vote, and what the store acknowledged can be
counted against what it keeps.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal

from whorl.arena.battles import Battles
from whorl.arena.sampling import PairSampler, pair_sampler
from whorl.arena.scripted import CALLS, JUDGE, ReplyClient, verdict
from whorl.arena.store.prompts import draw, prepare
from whorl.arena.store.records import BattleVote, Pairing, Person, Side, Winner
from whorl.arena.store.store import Store
from whorl.base.errors import FaultError
from whorl.base.files import JsonLines, read_jsonl
from whorl.base.nouns import Conversation, SamplingParams, Trace
from whorl.base.progress import progress, say
from whorl.tasks.task import Example, Task
from whorl.tools.definition import Tool
from whorl.tools.loop import Outcome, converse

Purpose = Literal["train", "rate"]
SPLITS: dict[Purpose, str] = {"train": "train", "rate": "test"}
AT_ONCE = 32  # battles under way; each asks its two models one after the other
REFIT = 24  # votes after which the pairs' probabilities are counted anew
ATTEMPTS, PAUSE = 3, 0.5  # at a reply, and seconds between them
PATIENCE = 20  # examples looked at for each prompt that is wanted


@dataclass(frozen=True)
class Posed:
    """One prompt of a round, with the task that grades the replies and the tools they may call."""

    task: Task
    tools: Sequence[Tool]
    example: Example


def posed(
    store: Store, tasks: Sequence[tuple[Task, Sequence[Tool]]], purpose: Purpose, count: int
) -> list[Posed]:
    """At most `count` prompts, of each task in turn, that the store's split keeps for `purpose`.

    Only held-out examples rate, and only examples of the train splits train: a model that has learnt from
    votes has still seen nothing of any test split.
    """
    share = store.settings["train_share"]

    def kept(task: Task, tools: Sequence[Tool]) -> Iterator[Posed]:
        for example in islice(task.examples(SPLITS[purpose]), PATIENCE * count):
            trains = draw(prepare(example.conversation.messages).keys[0]) < share
            if trains == (purpose == "train"):
                yield Posed(task, tools, example)

    return list(islice(_in_turn([kept(task, tools) for task, tools in tasks]), count))


def _in_turn(streams: list[Iterator[Posed]]) -> Iterator[Posed]:
    while streams:
        for stream in list(streams):
            item = next(stream, None)
            if item is None:
                streams.remove(stream)
            else:
                yield item


class Journal:
    """What the store has acknowledged of each battle, kept by the player: the last line of each counts."""

    def __init__(self, path: Path) -> None:
        self._known: dict[tuple[str, int], dict[str, object]] = {}
        if path.exists():
            for record in read_jsonl(path):
                self._known[str(record["round"]), int(record["number"])] = record
        self._file = JsonLines(path)
        self._lock = threading.Lock()

    def note(self, round: str, number: int, battle: str, state: str) -> None:
        """`state` is "begun", "set aside", or who won."""
        record: dict[str, object] = {"round": round, "number": number, "battle": battle, "state": state}
        with self._lock:
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


class Ring:
    """Where models meet: the store that keeps their votes, and the run's own journal of them."""

    def __init__(self, store: Store, journal: Journal, seed: int, params: SamplingParams) -> None:
        self.store, self.journal, self.seed, self.params = store, journal, seed, params
        self.judge = judge_of(store)
        self._lock = threading.Lock()
        self._sampler: tuple[int, PairSampler] | None = None

    async def play(
        self, name: str, purpose: Purpose, prompts: Sequence[Posed], clients: Mapping[str, ReplyClient]
    ) -> None:
        """A battle over each prompt that has no vote in the round called `name`. FaultError where a model
        stops answering; what has been voted until then is kept."""
        done = self.journal.done(name)
        todo = [number for number in range(len(prompts)) if number not in done]
        loop, self._sampler = asyncio.get_running_loop(), None

        def battle(number: int) -> None:
            models = self._draw(list(clients), name, number)
            asked = prompts[number]
            sides = [self._answer(clients[model], asked, loop) for model in models[:2]]
            graded = [
                asyncio.run_coroutine_threadsafe(asked.task.grade(asked.example, side.trace), loop).result()
                for side in sides
            ]
            winner = verdict(*(grade.score for grade in graded))
            self._record(name, number, purpose, asked, models, sides, winner)

        pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="whorl-battle")
        try:
            with progress(len(prompts), name, "battles", done=len(prompts) - len(todo)) as bar:
                for ended in asyncio.as_completed([loop.run_in_executor(pool, battle, n) for n in todo]):
                    await ended
                    bar.advance(1)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _draw(self, models: list[str], name: str, number: int) -> tuple[str, str, float]:
        """Two models, and the probability of the pair by what the votes until now leave open."""
        with self._lock:
            voted = len(self.journal.done(name))
            if self._sampler is None or voted - self._sampler[0] >= REFIT:
                known = [vote for vote in self.store.battles() if {vote.model_a, vote.model_b} <= set(models)]
                self._sampler = voted, pair_sampler(models, Battles.from_rows(known) if known else None)
            return self._sampler[1].draw(self.seed, number)

    def _answer(self, client: ReplyClient, asked: Posed, loop: asyncio.AbstractEventLoop) -> Outcome:
        def reply(conversations: list[Conversation]) -> list[Trace]:
            waiting = [
                asyncio.run_coroutine_threadsafe(_ask(client, one, self.params), loop)
                for one in conversations
            ]
            return [one.result() for one in waiting]

        return converse(reply, [asked.example.conversation], asked.tools, max_calls=CALLS)[0]

    def _record(
        self, name: str, number: int, purpose: Purpose, asked: Posed, models: tuple[str, str, float],
        sides: Sequence[Outcome], winner: Winner,
    ) -> None:  # fmt: skip
        """Keep the battle, what was said, and the vote. A prompt that says what one of the other purpose
        has said belongs to that one, and has no vote."""
        asked_of = asked.example.conversation
        pair = self.store.start_battle(
            self.judge.id, asked_of.messages, model_a=models[0], model_b=models[1], probability=models[2],
            consent=purpose, category=asked.task.name, tools=asked_of.tools,
        )  # fmt: skip
        if pair.purpose != purpose:
            self.journal.note(name, number, pair.id, "set aside")
            return
        self.journal.note(name, number, pair.id, "begun")
        _say(self.store, pair, "a", sides[0], len(asked_of.messages))
        _say(self.store, pair, "b", sides[1], len(asked_of.messages))
        self.store.vote(pair.id, winner, person=self.judge.id)
        self.journal.note(name, number, pair.id, winner)


async def _ask(client: ReplyClient, conversation: Conversation, params: SamplingParams) -> Trace:
    """Ask, and again where the server broke off: on a busy machine it ends a connection that was idle for
    seconds at the very moment a request goes out on it."""
    for _ in range(ATTEMPTS - 1):
        try:
            return await client.reply(conversation, params)
        except FaultError:
            await asyncio.sleep(PAUSE)
    return await client.reply(conversation, params)


def _say(store: Store, pair: Pairing, side: Side, outcome: Outcome, asked: int) -> None:
    for message in outcome.conversation.messages[asked:]:
        version = outcome.trace.weight_version if message.role == "assistant" else ""
        store.say(pair.id, message, side=side, weight_version=version)


def judge_of(store: Store) -> Person:
    """The person who casts scripted votes."""
    known = next((person for person in store.people() if person.name == JUDGE), None)
    return known or store.add_person(JUDGE)
