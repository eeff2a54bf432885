"""The arena's pages and their data: thin routes over `BattleRoom`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Literal

from fastapi import FastAPI
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from whorl.arena.board import Board
from whorl.arena.store import BattleVote, Person, Store
from whorl.serve.api.errors import ApiError
from whorl.studio.battles.battle import SHOWN_WINNERS, WORDS, Battle, in_words
from whorl.studio.battles.personal import ENOUGH, personal_board
from whorl.studio.battles.points import Standing
from whorl.studio.battles.room import BattleRoom
from whorl.studio.battles.second_look import second_looks
from whorl.studio.studio import Studio
from whorl.studio.web.incoming import Incoming, read_message
from whorl.studio.web.streams import event_stream

RECENT = 20


class Opening(Incoming):
    """The first message, and what may be done with the conversation."""

    consent: Literal["none", "rate", "train"] = "rate"


class Ballot(BaseModel):
    winner: str


def add_battles(made: FastAPI, studio: Studio) -> None:
    _add_pages(made, studio)
    _add_talking(made, studio)
    _add_voting(made, studio)


def _add_pages(made: FastAPI, studio: Studio) -> None:
    room, limit = studio.battles, studio.config.limits.prompt

    def page(request: Request, person: Person, battle: dict[str, Any] | None) -> Response:
        standing = shown_standing(room.ledger.standing(str(person.id), time.time()))
        return studio.pages.page(
            request, "arena.html", person, battle=battle, standing=standing, limit=limit,
            models=len(studio.pool.well()), fresh=battle is None,
            set_aside=round(100 * float(studio.store.settings.get("train_share", 0))),
        )  # fmt: skip

    @made.get("/arena")
    async def front(request: Request) -> Response:
        return page(request, studio.person(request), None)

    @made.get("/arena/me")
    async def mine(request: Request) -> Response:
        """One's own tally, quests, ranking and latest battles."""
        person = studio.person(request)
        voter = str(person.id)
        votes = room.ledger.votes_of(voter)
        board = await run_in_threadpool(_own_board, studio.store, votes)
        latest = [
            {
                "id": vote.battle, "left": vote.model_a, "right": vote.model_b, "time": vote.time,
                "winner": SHOWN_WINNERS[vote.winner], "rated": vote.rated, "reason": in_words(vote.reason),
                "category": vote.category,
            }
            for vote in votes[: -RECENT - 1 : -1]
        ]  # fmt: skip
        standing = shown_standing(room.ledger.standing(voter, time.time()))
        return studio.pages.page(
            request,
            "arena_me.html",
            person,
            standing=standing,
            board=board,
            latest=latest,
            enough=ENOUGH,
            words={"left": "left", "right": "right", "tie": "tie", "bad": "both bad"},
        )

    @made.get("/arena/{number}")
    async def battle(request: Request, number: str) -> Response:
        person = studio.person(request)
        return page(request, person, (await room.find(person, number)).shown())


def _add_talking(made: FastAPI, studio: Studio) -> None:
    room = studio.battles

    @made.post("/api/arena")
    async def begin(request: Request, asked: Opening) -> Response:
        person = _sender(studio, request)
        message = await run_in_threadpool(read_message, asked, studio.config.limits)
        return _told(await room.begin(person, message, asked.consent))

    @made.post("/api/arena/second-look")
    async def second_look(request: Request) -> Response:
        return _told(await room.second_look(_sender(studio, request)))

    @made.get("/api/arena/{number}")
    async def shown(request: Request, number: str) -> Response:
        return _told(await room.find(studio.person(request), number))

    @made.post("/api/arena/{number}/say")
    async def say(request: Request, number: str, asked: Incoming) -> Response:
        person = _sender(studio, request)
        message = await run_in_threadpool(read_message, asked, studio.config.limits)
        return _told(await room.say(person, number, message))

    @made.post("/api/arena/{number}/stop")
    async def stop(request: Request, number: str) -> Response:
        await room.stop(studio.person(request), number)
        return Response(status_code=204)

    @made.post("/api/arena/{number}/again")
    async def again(request: Request, number: str) -> Response:
        return _told(await room.begin_again(_sender(studio, request), number))

    @made.get("/api/arena/{number}/stream")
    async def stream(request: Request, number: str) -> Response:
        """Both sides' texts as they grow, then `turn`: how the answering ended."""
        battle = await room.find(studio.person(request), number)
        return event_stream(request, battle.log, studio.config.limits.keep_alive_seconds)


def _add_voting(made: FastAPI, studio: Studio) -> None:
    room = studio.battles

    @made.post("/api/arena/{number}/vote")
    async def vote(request: Request, number: str, ballot: Ballot) -> Response:
        """On disk when this answers; the board is fitted beside it: see outcome."""
        return _told(await room.vote(_sender(studio, request), number, ballot.winner))

    @made.get("/api/arena/{number}/outcome")
    async def outcome(request: Request, number: str) -> Response:
        """How the vote moved the board, and what it earned; waits until the board has it."""
        person = studio.person(request)
        battle = await room.find(person, number)
        if battle.vote is None:
            raise ApiError(409, "this battle has no vote yet", code="not_voted")
        return JSONResponse(await _outcome(room, battle, str(person.id)))


def _own_board(store: Store, votes: Sequence[BattleVote]) -> Board | None:
    return personal_board(votes, second_looks(store, votes))


def _sender(studio: Studio, request: Request) -> Person:
    person = studio.person(request)
    studio.messages.take(person.id)
    return person


def _told(battle: Battle) -> Response:
    return JSONResponse(battle.shown())


async def _outcome(room: BattleRoom, battle: Battle, voter: str) -> dict[str, Any]:
    assert battle.vote is not None
    if not await room.until(battle.vote.seq):
        raise ApiError(503, "the board is not up to date yet; your vote is stored", code="late")
    moved = await run_in_threadpool(room.board.movement, battle.vote.seq, battle.models.values())
    told: dict[str, Any] = {
        word: {
            "model": battle.models[side],
            "before": moved.before[battle.models[side]] if moved else None,
            "after": moved.after[battle.models[side]] if moved else None,
        }
        for side, word in WORDS.items()
    }  # fmt: skip
    told |= {"rated": battle.vote.rated, "votes": moved.votes if moved else 0}
    told["gains"] = [gain._asdict() for gain in room.ledger.gains_of(battle.id)]
    return told | {"standing": shown_standing(room.ledger.standing(voter, time.time()))}


def shown_standing(standing: Standing) -> dict[str, Any]:
    return {
        "points": standing.points, "votes": standing.votes, "rated": standing.rated,
        "streak": standing.streak, "longest": standing.longest, "categories": standing.categories,
        "alike": standing.alike, "met_again": standing.met_again,
        "quests": [
            quest._asdict() | {"whole": quest.whole, "where": _where(quest.name, standing)}
            for quest in standing.quests
        ],
    }  # fmt: skip


def _where(quest: str, standing: Standing) -> str:
    """What helps to find it."""
    return ", ".join(standing.fewest) if quest == "ground" else ""
