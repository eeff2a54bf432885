"""Battles without people: real models answer tasks' prompts, the tasks' grades vote.

Everything else is as with people: pairs are drawn with logged probabilities, what was said and how it was
sampled is kept, the votes go through the store's chain. Every step of a battle is noted in a `Journal` after
the store has acknowledged it: a round that was broken off goes on with the prompts that have no vote.
"""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any, Literal, Protocol

from whorl.arena.battles import Battles
from whorl.arena.journal import Journal
from whorl.arena.sampling import PairSampler, pair_sampler
from whorl.arena.store.prompts import draw, prepare
from whorl.arena.store.records import Person, Said, Winner
from whorl.arena.store.store import Store
from whorl.base.errors import FaultError, InputError
from whorl.base.nouns import Conversation, SamplingParams, Trace
from whorl.base.progress import progress
from whorl.tasks.task import Example, Task
from whorl.tools.definition import Tool
from whorl.tools.loop import Outcome, converse

Purpose = Literal["train", "rate"]
SPLITS: dict[Purpose, str] = {"train": "train", "rate": "test"}
JUDGE = "scripted judge"  # the person who casts these votes
CALLS = 2  # tools a reply may call
AT_ONCE = 32  # battles under way; each asks its two models one after the other
REFIT = 24  # votes after which the pairs' probabilities are counted anew
ATTEMPTS, PAUSE = 3, 0.5  # at a reply, and seconds between them
PATIENCE = 20  # examples looked at for each prompt that is wanted

Tasks = Sequence[tuple[Task, Sequence[Tool]]]


class ReplyClient(Protocol):
    async def reply(self, conversation: Conversation, params: SamplingParams) -> Trace: ...


# -- what is asked -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Question:
    """One prompt of a round, with the task that grades the replies and the tools they may call."""

    task: Task
    tools: Sequence[Tool]
    example: Example


def questions(store: Store, tasks: Tasks, purpose: Purpose, count: int, *, start: int = 0) -> list[Question]:
    """At most `count` prompts, of each task in turn, that the store's split keeps for `purpose`, from number
    `start` on.

    Only held-out examples rate, and only examples of the train splits train: a model that has learnt from
    votes has still seen nothing of any test split.
    """
    share = store.settings["train_share"]
    end = start + count

    def kept(task: Task, tools: Sequence[Tool]) -> Iterator[Question]:
        for example in islice(task.examples(SPLITS[purpose]), PATIENCE * end):
            trains = draw(prepare(example.conversation.messages).keys[0]) < share
            if trains == (purpose == "train"):
                yield Question(task, tools, example)

    return list(islice(_in_turn([kept(task, tools) for task, tools in tasks]), start, end))


def _in_turn(streams: list[Iterator[Question]]) -> Iterator[Question]:
    while streams:
        for stream in list(streams):
            item = next(stream, None)
            if item is None:
                streams.remove(stream)
            else:
                yield item


# -- the battles ---------------------------------------------------------------------------------------


def verdict(left: float, right: float) -> Winner:
    """Who wins by two grades: the higher; equal ones tie, both bad where both are 0."""
    if left == right:
        return "tie" if left > 0 else "tie (bothbad)"
    return "model_a" if left > right else "model_b"


class Ring:
    """Where models meet: the store that keeps their votes, and the journal of whoever plays."""

    def __init__(self, store: Store, journal: Journal, seed: int, params: SamplingParams) -> None:
        self.store, self.journal, self.seed, self.params = store, journal, seed, params
        self.judge = judge_of(store)
        self._lock = threading.Lock()
        self._sampler: tuple[int, PairSampler] | None = None

    async def play(
        self, name: str, purpose: Purpose, asked: Sequence[Question], clients: Mapping[str, ReplyClient]
    ) -> None:
        """A battle over each prompt that has no vote in the round called `name`.

        A battle is kept as soon as both its sides have ended. FaultError where a model stops answering;
        battles that are under way then still end, and are kept where they can."""
        done = self.journal.done(name)
        todo = [number for number in range(len(asked)) if number not in done]
        loop, self._sampler = asyncio.get_running_loop(), None

        def battle(number: int) -> None:
            models = self._draw(list(clients), name, number)
            question = asked[number]
            sides = [self._answer(clients[model], question, loop) for model in models[:2]]
            graded = [
                asyncio.run_coroutine_threadsafe(
                    question.task.grade(question.example, side.trace), loop
                ).result()
                for side in sides
            ]
            winner = verdict(*(grade.score for grade in graded))
            self._record(name, number, purpose, question, models, sides, winner)

        pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="whorl-battle")
        fought = [loop.run_in_executor(pool, battle, number) for number in todo]
        try:
            with progress(len(asked), name, "battles", done=len(asked) - len(todo)) as bar:
                for ended in asyncio.as_completed(fought):
                    await ended
                    bar.advance(1)
        except Exception:
            pool.shutdown(wait=False, cancel_futures=True)
            await asyncio.gather(*fought, return_exceptions=True)
            raise
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

    def _answer(self, client: ReplyClient, asked: Question, loop: asyncio.AbstractEventLoop) -> Outcome:
        def reply(conversations: list[Conversation]) -> list[Trace]:
            waiting = [
                asyncio.run_coroutine_threadsafe(_ask(client, one, self.params), loop)
                for one in conversations
            ]
            return [one.result() for one in waiting]

        return converse(reply, [asked.example.conversation], asked.tools, max_calls=CALLS)[0]

    def _record(
        self, name: str, number: int, purpose: Purpose, asked: Question, models: tuple[str, str, float],
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
        a, b = (said(side, len(asked_of.messages)) for side in sides)
        self.store.answer(pair.id, a=a, b=b)
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


def said(outcome: Outcome, start: int) -> list[Said]:
    """What a side said, each reply with its trace, and what its tools answered, from message `start` on."""
    traces = iter(outcome.trace.chain)
    made = []
    for message in outcome.conversation.messages[start:]:
        if message.role == "assistant":
            trace = next(traces)
            made.append(Said(message=message, weight_version=trace.weight_version, trace=kept(trace)))
        else:
            made.append(Said(message=message))
    return made


def kept(trace: Trace) -> dict[str, Any]:
    """A trace as the store keeps it. Servers that are not ours tell no token ids, and those are left out."""
    record: dict[str, Any] = {"finish": trace.finish, "sampling": asdict(trace.sampling)}
    for name in ("prompt_ids", "token_ids", "logprobs", "sampled_logprobs", "kept"):
        record |= {name: list(values)} if (values := getattr(trace, name)) else {}
    for name in ("weight_version", "template_hash", "tokenizer_hash"):
        record |= {name: text} if (text := getattr(trace, name)) else {}
    return record


def judge_of(store: Store) -> Person:
    """The person who casts scripted votes."""
    known = next((person for person in store.people() if person.name == JUDGE), None)
    return known or store.add_person(JUDGE)


# -- a round by itself ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Played:
    """What came of a round: votes by winner, how many of them count on the board, and prompts that have no
    vote because they say what one of the other purpose has said."""

    votes: Mapping[str, int]
    rated: int
    set_aside: int = 0

    @property
    def battles(self) -> int:
        return sum(self.votes.values())


async def play(
    store: Store,
    clients: Mapping[str, ReplyClient],
    tasks: Tasks,
    *,
    battles: int,
    seed: int = 0,
    params: SamplingParams | None = None,
) -> Played:
    """Let the models of `clients` (name → client) meet `battles` times over the tasks' prompts in turn.

    The store's share of the battles trains, over the tasks' train splits; the rest rates, over held-out
    prompts; a task without a train split only rates. Which model stands left is a fair coin of `seed`, which
    is another for another round: prompts go on where the last round's ended. InputError for fewer than two
    models or too few prompts; FaultError where a model stops answering: votes until then are kept.
    """
    if battles < 1:
        raise InputError(f"battles {battles} must be 1 or more")
    pair_sampler(list(clients))  # two models at least
    rounds = _rounds(store, tasks, battles, seed)
    known = {model.name for model in store.models()}
    for name in clients:
        if name not in known:  # else its address and its aliases stay
            store.add_model(name)
    journal = Journal(None)
    ring = Ring(store, journal, seed, params or SamplingParams(max_tokens=256))
    for purpose, asked in rounds.items():
        try:
            await ring.play(f"battles that {purpose}", purpose, asked, clients)
        except FaultError as error:
            raise FaultError(
                f"{error}; {len(journal.votes())} votes of round {seed} are kept; continue with another round"
            ) from error
    votes = Counter(journal.votes().values())
    rated = sum(vote.rated for vote in store.battles() if vote.battle in journal.votes())
    return Played(dict(votes), rated, sum(map(len, rounds.values())) - votes.total())


def _rounds(store: Store, tasks: Tasks, battles: int, seed: int) -> dict[Purpose, list[Question]]:
    learnt = [(task, tools) for task, tools in tasks if _has_train_split(task)]
    train = round(battles * store.settings["train_share"]) if learnt else 0
    wanted: dict[Purpose, tuple[Tasks, int]] = {"train": (learnt, train), "rate": (tasks, battles - train)}
    found = {
        purpose: questions(store, of, purpose, count, start=seed * count)
        for purpose, (of, count) in wanted.items()
        if count
    }
    there = sum(map(len, found.values()))
    if there < battles:
        short = [purpose for purpose in found if len(found[purpose]) < wanted[purpose][1]]
        raise InputError(
            f"the tasks have {there} prompts for round {seed} of {battles} battles, but the store's"
            f" split leaves too few to {' or '.join(short)}; play fewer battles"
        )
    return found


def _has_train_split(task: Task) -> bool:
    try:
        return next(iter(task.examples("train")), None) is not None
    except InputError:  # how a task says that there is none
        return False
