"""All battles that go on: begun, answered, voted on; found again in the store after a restart."""

from __future__ import annotations

import asyncio
import random
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from starlette.concurrency import run_in_threadpool

from whorl.arena.store import Person, Store
from whorl.arena.store.records import BattleVote, Consent, Side
from whorl.base.errors import InputError, WhorlError
from whorl.base.nouns import Message
from whorl.base.progress import say
from whorl.serve.api.errors import ApiError
from whorl.studio.battles.battle import BROKEN_OFF, WINNERS, WORDS, Battle, Cast, Exchange
from whorl.studio.battles.categories import category_of
from whorl.studio.battles.drawing import PairDrawer
from whorl.studio.battles.live_board import LiveBoard
from whorl.studio.battles.points import Ledger
from whorl.studio.battles.second_look import LATEST, TITLE, repeat, to_look_at
from whorl.studio.config import StudioLimits
from whorl.studio.models.pool import ModelPool
from whorl.studio.web.tasks import watched

HELD, HELD_BYTES = 1000, 256 << 20  # battles kept in memory, and their images; the others are in the store
MOST_EXCHANGES = 40
AT_ONCE = 4  # battles of one person that are being answered; each holds two models
TRIED = 5  # battles for a second look, where earlier ones were erased
STOPPED_EARLY = "Stopped before both models had answered."
BOARD_SECONDS = 20.0  # how long one waits for a board with a vote in it


class BattleRoom:
    """`board` and `ledger` follow the store's log; everything else runs in the event loop."""

    def __init__(self, store: Store, pool: ModelPool, limits: StudioLimits) -> None:
        self._store, self._pool, self._limits = store, pool, limits
        self.ledger = Ledger()
        self.board = LiveBoard(store, each=self._read)
        self._drawer = PairDrawer(pool, self.board)
        self._held: OrderedDict[str, Battle] = OrderedDict()
        self._loading = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        self.board.start()

    async def close(self) -> None:
        for battle in self._held.values():
            if battle.state == "answering":  # not the person's wish: what came so far is no answer
                battle.stop()
                battle.give_up(BROKEN_OFF)
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=5)
        await run_in_threadpool(self.board.close)

    def _read(self, votes: Sequence[BattleVote], afresh: bool) -> None:
        """The board has read these (in its thread)."""
        if afresh:
            self.ledger = Ledger(votes)
        else:
            self.ledger.take(votes)

    # -- beginning and talking -----------------------------------------------------------------------

    async def begin(self, person: Person, asked: Message, consent: Consent) -> Battle:
        """A new battle over `asked`; its answers are on their way."""
        self._check_going(person)
        left, right, probability = await run_in_threadpool(
            self._drawer.draw, person.id, images=bool(asked.images)
        )
        pair = await run_in_threadpool(
            self._store.start_battle, person.id, [asked], model_a=left, model_b=right,
            probability=probability, consent=consent, category=category_of(asked),
        )  # fmt: skip
        battle = Battle(
            id=pair.id, person=person.id, models={"a": left, "b": right}, consent=consent,
            exchanges=[Exchange(asked)],
        )  # fmt: skip
        self._hold(battle)
        self._answer(battle)
        return battle

    async def begin_again(self, person: Person, number: str) -> Battle:
        """Another pair over the first message of a battle that did not go well; that one is over."""
        battle = await self.find(person, number)
        async with battle.deciding:
            if battle.state == "answering":
                battle.stop()
                battle.give_up("Restarted with another pair.")
        return await self.begin(person, battle.exchanges[0].asked, battle.consent)

    async def second_look(self, person: Person) -> Battle:
        """One's own oldest battle that was judged but once, with the sides swapped."""
        for number in to_look_at(self.ledger.votes_of(str(person.id)))[:TRIED]:
            again = await run_in_threadpool(repeat, self._store, number, person.id)
            if again is not None:
                return await self.find(person, again)
        raise ApiError(409, f"vote on {LATEST + 1} battles first, then re-judge the oldest", code="none")

    async def say(self, person: Person, number: str, message: Message) -> Battle:
        """A further message to both."""
        battle = await self.find(person, number)
        async with battle.deciding:
            self._check_open(battle)
            if battle.again:
                raise ApiError(409, "a second look reuses the earlier answers; vote now", code="again")
            self._check_going(person)
            if len(battle.exchanges) >= MOST_EXCHANGES:
                raise ApiError(409, f"a battle has {MOST_EXCHANGES} messages at most; vote now")
            if message.images and not battle.exchanges[0].asked.images:
                # Whether this pair could see them must not show, so no pair is asked.
                raise InputError(
                    "this battle began without an image, so its models may be text-only; start another"
                )
            await run_in_threadpool(self._store.say, battle.id, message)
            battle.exchanges.append(Exchange(message))
            self._answer(battle)
        return battle

    async def stop(self, person: Person, number: str) -> Battle:
        battle = await self.find(person, number)
        if battle.state == "answering":
            battle.stop()
        return battle

    def _check_going(self, person: Person) -> None:
        if sum(one.person == person.id and one.busy for one in self._held.values()) >= AT_ONCE:
            said = f"{AT_ONCE} of your battles are still being answered; wait for one or stop one"
            raise ApiError(429, said, code="rate_limited", headers={"Retry-After": "5"})

    def _answer(self, battle: Battle) -> None:
        tasks = battle.start(self._pool, self._limits, seed=random.getrandbits(31))
        task = watched(asyncio.create_task(self._see_through(battle, tasks)), f"battle {battle.id}")
        self._tasks.add(task)

        def ended(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            if not task.cancelled() and task.exception() is not None and battle.state == "answering":
                battle.give_up("The studio failed; see its terminal for details.")

        task.add_done_callback(ended)

    async def _see_through(self, battle: Battle, tasks: list[asyncio.Task[None]]) -> None:
        """Wait for both; a side that fails ends the battle at once, and the other need not go on."""
        log, waiting = battle.log, set(tasks)
        while waiting:
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            if any(task.cancelled() or task.exception() is not None for task in done):
                broken = [task.exception() for task in done if not task.cancelled()]
                say(f"battle {battle.id}: a reply stopped early: {broken or 'cancelled'}")
            if battle.failing() or len(battle.finished) < len(tasks) - len(waiting):
                break
        if battle.log is not log or battle.state != "answering":
            return  # begun again meanwhile
        if len(battle.finished) == len(tasks) and not battle.failing():
            await self._settle(battle)
            return
        if battle.stopped:
            battle.give_up(STOPPED_EARLY)
            return
        failed = battle.failing() or [side for side in WORDS if side not in battle.finished]
        for side in failed:
            self._drawer.failed(battle.person, battle.models[side])
            said = battle.finished[side].error if side in battle.finished else "it stopped early"
            say(f"battle {battle.id}: {battle.models[side]} failed: {said}")
        for side in WORDS:
            if side not in battle.finished:
                battle.answers[side].stop()
        battle.give_up(_failure(failed))

    async def _settle(self, battle: Battle) -> None:
        """Keep both answers. Ones that were stopped before they had said anything are none."""
        said = {side: battle.answers[side].said for side in battle.finished}
        if battle.stopped and not all(any(one.message.text for one in side) for side in said.values()):
            battle.give_up(STOPPED_EARLY)
            return
        try:
            await run_in_threadpool(self._store.answer, battle.id, a=said["a"], b=said["b"])
        except WhorlError as error:
            say(f"battle {battle.id}: its answers could not be stored: {error}")
            battle.give_up("The answers could not be stored.")
            return
        await battle.settle()

    async def judged(self, person: int) -> str:
        """The latest battle of the person's that waits for its vote, "" for none: the store knows those of
        before a restart, too."""
        answering = [one.id for one in self._held.values() if one.person == person and one.busy]
        return next(reversed(answering), "") or await run_in_threadpool(self._store.open_battle, person)

    # -- voting ------------------------------------------------------------------------------------

    async def vote(self, person: Person, number: str, word: str) -> Battle:
        """Keep the vote; when this returns it is on disk."""
        if word not in WINNERS:
            raise InputError(f"vote {word!r} is not one of {', '.join(WINNERS)}")
        battle = await self.find(person, number)
        async with battle.deciding:
            self._check_open(battle)
            kept = await run_in_threadpool(self._store.vote, battle.id, WINNERS[word], person=person.id)
            battle.vote = Cast(kept.winner, kept.rated, kept.reason, kept.head.seq)
            battle.state = "voted"
            self.board.poke()
        return battle

    def _check_open(self, battle: Battle) -> None:
        if battle.state == "voted":
            raise ApiError(409, "this battle already has a vote; start another", code="voted")
        if battle.state == "answering":
            raise ApiError(409, "wait until both replies have finished", code="answering")
        if battle.state == "over":
            raise ApiError(409, f"this battle cannot continue: {battle.why} Start again", code="over")

    async def until(self, seq: int) -> bool:
        """Wait until the board has read the log up to `seq`; False where it takes too long."""
        loop, there = asyncio.get_running_loop(), asyncio.Event()

        def told(snapshot: Any) -> None:
            if snapshot.seq >= seq:
                loop.call_soon_threadsafe(there.set)

        end = self.board.listen(told)
        try:
            if self.board.snapshot.seq < seq:
                self.board.poke()
                await asyncio.wait_for(there.wait(), BOARD_SECONDS)
            return True
        except TimeoutError:
            return False
        finally:
            end()

    # -- finding ---------------------------------------------------------------------------------

    async def find(self, person: Person, number: str) -> Battle:
        """The person's battle; ApiError 404 for one that is not there or another's, alike."""
        battle = self._held.get(number)
        if battle is None:
            async with self._loading:
                battle = self._held.get(number) or await run_in_threadpool(self._load, number)
                if battle is not None:
                    self._hold(battle)
        if battle is None or battle.person != person.id:
            raise ApiError(404, f"you have no battle {number}; start one at /arena", code="no_battle")
        self._held.move_to_end(number)
        return battle

    def forget(self, person: int) -> None:
        """Who was removed has no battles any more."""
        for battle in [one for one in self._held.values() if one.person == person]:
            battle.stop()
            del self._held[battle.id]

    def _load(self, number: str) -> Battle | None:
        if not number.isalnum():
            return None
        try:
            pair, head = self._store.battle(number), self._store.conversation(number)
        except InputError:
            return None
        if head.erased is not None:
            return None
        sides: dict[Side, str] = {"a": pair.model_a, "b": pair.model_b}
        battle = Battle.of_turns(
            self._store.turns(number), id=number, person=head.person, models=sides, consent=head.consent,
            again=head.title == TITLE,
        )  # fmt: skip
        if pair.voted:
            if self.ledger.vote_of(number) is None:
                self.board.refresh()
            cast = self.ledger.vote_of(number)
            battle.vote = Cast(cast.winner, cast.rated, cast.reason, cast.seq) if cast else None
            battle.state, battle.why = "voted", ""
        return battle

    def _hold(self, battle: Battle) -> None:
        self._held[battle.id] = battle
        held = sum(one.size for one in self._held.values())
        for oldest in list(self._held.values()):
            if len(self._held) <= HELD and held <= HELD_BYTES:
                return
            if oldest.state != "answering" and oldest is not battle:
                held -= oldest.size
                del self._held[oldest.id]


def _failure(sides: list[Side]) -> str:
    """Whose fault, and not what kind: an error's words would tell who it is."""
    if len(sides) > 1:
        return "Both models failed."
    return f"The {WORDS[sides[0]]} model failed."
