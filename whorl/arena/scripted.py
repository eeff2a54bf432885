"""Battles without people: real models answer tasks' held-out prompts, the tasks' grades vote.

Everything else is as with people: pairs are drawn with logged probabilities, what was said and which
weights said it is kept, the votes go through the store's chain.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

from whorl.arena.battles import Battles
from whorl.arena.sampling import pair_sampler
from whorl.arena.store.records import Person, Said, Winner
from whorl.arena.store.store import Store
from whorl.base.errors import InputError
from whorl.base.nouns import Conversation, SamplingParams, Trace
from whorl.base.progress import progress
from whorl.tasks.task import Example, Task
from whorl.tools.definition import Tool
from whorl.tools.loop import Outcome, converse

JUDGE = "scripted judge"  # the person who casts these votes
AT_ONCE = 16  # requests in flight to each model
CALLS = 2  # tools a reply may call


class ReplyClient(Protocol):
    async def reply(self, conversation: Conversation, params: SamplingParams) -> Trace: ...


Posed = Sequence[tuple[Task, Sequence[Tool]]]


@dataclass(frozen=True)
class Played:
    """What came of it: votes by winner, and how many of them count on the board."""

    votes: Mapping[str, int]
    rated: int

    @property
    def battles(self) -> int:
        return sum(self.votes.values())


@dataclass(frozen=True)
class _Battle:
    task: int
    example: Example
    models: tuple[str, str]
    probability: float


async def play(
    store: Store,
    clients: Mapping[str, ReplyClient],
    tasks: Posed,
    *,
    battles: int,
    seed: int = 0,
    split: str = "test",
    params: SamplingParams | None = None,
) -> Played:
    """Let the models of `clients` (name → client) meet `battles` times over the tasks' examples in turn.

    The reply with the higher grade wins; equal ones tie, both bad where both have 0. Pairs are drawn by
    what the store's rated votes leave open, and which model stands left by a fair coin, both a function of
    `seed`, which is another for another round: examples go on where the last round's ended. `consent` is
    to train: whether a prompt's votes rate or train is the store's split. InputError for fewer than two
    models, or a task without examples.
    """
    if battles < 1:
        raise InputError(f"battles {battles} must be 1 or more")
    params = params or SamplingParams(max_tokens=256)
    known = {model.name for model in store.models()}
    for name in clients:
        if name not in known:  # else its address and its aliases stay
            store.add_model(name)
    drawn = _draw(store, list(clients), tasks, battles, seed, split)
    with progress(battles, "battles", "battles") as bar:
        replies = await _answer_all(drawn, clients, tasks, params)
        votes, rated = Counter[str](), 0
        person = _judge(store)
        for battle, sides in zip(drawn, replies, strict=True):
            task = tasks[battle.task][0]
            grades = [(await task.grade(battle.example, outcome.trace)).score for outcome in sides]
            winner = verdict(*grades)
            rated += _record(store, person, battle, sides, task.name, winner)
            votes[winner] += 1
            bar.advance(1)
    return Played(dict(votes), rated)


def verdict(left: float, right: float) -> Winner:
    """Who wins by two grades."""
    if left == right:
        return "tie" if left > 0 else "tie (bothbad)"
    return "model_a" if left > right else "model_b"


def _draw(store: Store, names: list[str], tasks: Posed, battles: int, seed: int, split: str) -> list[_Battle]:
    known = [battle for battle in store.battles() if {battle.model_a, battle.model_b} <= set(names)]
    sampler = pair_sampler(names, Battles.from_rows(known) if known else None)
    each = -(-battles // len(tasks))
    start = seed * each
    examples = [list(islice(task.examples(split), start, start + each)) for task, _ in tasks]
    for (task, _), found in zip(tasks, examples, strict=True):
        if len(found) < each:
            raise InputError(
                f"task {task.name} has {start + len(found)} examples, and round {seed} wants {each} from"
                f" number {start} on; play fewer battles"
            )
    made = []
    for number in range(battles):
        a, b, probability = sampler.draw(seed, number)
        place = number % len(tasks)
        made.append(_Battle(place, examples[place][number // len(tasks)], (a, b), probability))
    return made


async def _answer_all(
    drawn: Sequence[_Battle], clients: Mapping[str, ReplyClient], tasks: Posed, params: SamplingParams
) -> list[tuple[Outcome, Outcome]]:
    """Both sides' outcomes of every battle; each model is asked all its own at once."""
    found: dict[tuple[int, int], Outcome] = {}

    async def one(name: str, task: int) -> None:
        places = [
            (number, side)
            for number, battle in enumerate(drawn)
            for side in (0, 1)
            if battle.task == task and battle.models[side] == name
        ]
        asked = [drawn[number].example.conversation for number, _ in places]
        outcomes = await _converse(clients[name], asked, tasks[task][1], params)
        found.update(zip(places, outcomes, strict=True))

    await asyncio.gather(*(one(name, task) for name in clients for task in range(len(tasks))))
    return [(found[number, 0], found[number, 1]) for number in range(len(drawn))]


async def _converse(
    client: ReplyClient, conversations: list[Conversation], tools: Sequence[Tool], params: SamplingParams
) -> list[Outcome]:
    loop, gate = asyncio.get_running_loop(), asyncio.Semaphore(AT_ONCE)

    async def one(conversation: Conversation) -> Trace:
        async with gate:
            return await client.reply(conversation, params)

    async def many(asked: list[Conversation]) -> list[Trace]:
        return list(await asyncio.gather(*(one(conversation) for conversation in asked)))

    def reply(asked: list[Conversation]) -> list[Trace]:
        return asyncio.run_coroutine_threadsafe(many(asked), loop).result()

    return await asyncio.to_thread(converse, reply, conversations, tools, max_calls=CALLS)


def _judge(store: Store) -> Person:
    known = next((person for person in store.people() if person.name == JUDGE), None)
    return known or store.add_person(JUDGE)


def _record(
    store: Store, person: Person, battle: _Battle, sides: tuple[Outcome, Outcome], category: str,
    winner: Winner,
) -> bool:  # fmt: skip
    """Keep the battle and its vote; whether it counts on the board."""
    asked = battle.example.conversation
    vote = store.add_battle(
        person.id, asked.messages, model_a=battle.models[0], model_b=battle.models[1],
        probability=battle.probability, consent="train", category=category, tools=asked.tools,
        a=_said(sides[0], len(asked.messages)), b=_said(sides[1], len(asked.messages)), winner=winner,
    )  # fmt: skip
    return vote.rated


def _said(outcome: Outcome, start: int) -> list[Said]:
    """What a side said and what its tools answered, from message `start` on."""
    version = outcome.trace.weight_version
    return [
        Said(message=message, weight_version=version if message.role == "assistant" else "")
        for message in outcome.conversation.messages[start:]
    ]
