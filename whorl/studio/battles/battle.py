"""One battle: what was said to two unnamed models, what both answer, and how it ended.

What the browser learns of it is `shown()` and the events of `log`, and before the vote neither says
anything that depends on who the two are: no names, no counts, no times, no words of a server's error.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, NamedTuple

from starlette.concurrency import run_in_threadpool

from whorl.arena.store.records import Consent, Side, Turn, Winner
from whorl.arena.store.votes import NOT_TO_RATE
from whorl.base.nouns import Conversation, Message, SamplingParams
from whorl.studio.battles.answer import Answer, as_seen, rendered
from whorl.studio.config import StudioLimits
from whorl.studio.models.pool import ModelPool
from whorl.studio.models.reply import Finished
from whorl.studio.web.streams import EventLog

State = Literal["answering", "open", "over", "voted"]
WORDS: dict[Side, str] = {"a": "left", "b": "right"}
WINNERS: dict[str, Winner] = {
    "left": "model_a", "right": "model_b", "tie": "tie", "bad": "tie (bothbad)",
}  # fmt: skip
SHOWN_WINNERS = {winner: word for word, winner in WINNERS.items()}
# The same for both, whoever they are: nobody's own defaults.
TEMPERATURE, MAX_TOKENS = 0.7, 1024
SET_ASIDE = "similar prompts are reserved for training, so this vote does not count on the board"
SECOND_LOOK = "repeat votes do not affect the board"
CUT = {"stopped": "stopped", "length": "cut at max tokens"}  # what a page says of such an answer
BROKEN_OFF = "The studio stopped during this battle."


class Cast(NamedTuple):
    """A vote that was cast; `seq` is its row of the log."""

    winner: Winner
    rated: bool
    reason: str
    seq: int


@dataclass
class Exchange:
    """A person's message, and both answers once they are there: each a reply, or several with the tools
    called in between."""

    asked: Message
    answers: dict[Side, tuple[Message, ...]] = field(default_factory=dict)
    endings: dict[Side, str] = field(default_factory=dict)  # how each answer ended
    shown: dict[str, Any] | None = None  # both answers rendered: once they are whole they stay as they are

    @property
    def whole(self) -> bool:
        return len(self.answers) == len(WORDS)

    def render(self) -> None:
        """As a page shows it. Call it from a thread."""
        self.shown = {
            word: {**rendered(self.answers[side]), "cut": CUT.get(self.endings.get(side, ""), "")}
            for side, word in WORDS.items()
        }


@dataclass(kw_only=True)
class Battle:
    """`models` and `weights` by side; `why` says what ended it without a vote. `again` is a second look:
    answers that the person has judged before, with the sides swapped."""

    id: str
    person: int
    models: dict[Side, str]
    consent: Consent
    exchanges: list[Exchange]
    weights: dict[Side, set[str]] = field(default_factory=lambda: {"a": set(), "b": set()})
    state: State = "open"
    why: str = ""
    vote: Cast | None = None
    again: bool = False
    log: EventLog = field(default_factory=EventLog)
    answers: dict[Side, Answer] = field(default_factory=dict)
    finished: dict[Side, Finished] = field(default_factory=dict)
    stopped: bool = False
    deciding: asyncio.Lock = field(default_factory=asyncio.Lock)

    @classmethod
    def of_turns(cls, turns: list[Turn], **known: Any) -> Battle:
        """As the store has it, after a restart; call it from a thread. A message that both had not answered
        ends it."""
        exchanges: list[Exchange] = []
        weights: dict[Side, set[str]] = {"a": set(), "b": set()}
        for turn in turns:
            if turn.message is None:
                continue
            if turn.message.role == "user":
                exchanges.append(Exchange(turn.message))
            elif exchanges and turn.side:
                answers = exchanges[-1].answers
                answers[turn.side] = (*answers.get(turn.side, ()), turn.message)
                exchanges[-1].endings[turn.side] = str((turn.trace or {}).get("ending", ""))
                weights[turn.side] |= {turn.weight_version} - {""}
        for exchange in exchanges:
            if exchange.whole:
                exchange.render()
        whole = bool(exchanges) and all(one.whole for one in exchanges)
        battle = cls(exchanges=exchanges, weights=weights, **known)
        battle._end("open" if whole else "over", "" if whole else BROKEN_OFF)
        return battle

    @property
    def busy(self) -> bool:
        return self.state == "answering"

    @property
    def size(self) -> int:
        """Bytes of its images: what makes a battle heavy."""
        return sum(len(image.data) for one in self.exchanges for image in one.asked.images)

    # -- its answers -------------------------------------------------------------------------------

    def seen_by(self, side: Side) -> tuple[Message, ...]:
        """The conversation as one of the two has it; what it thought is not told it again."""
        seen: list[Message] = []
        for exchange in self.exchanges:
            seen += [exchange.asked, *as_seen(exchange.answers.get(side, ()))]
        return tuple(seen)

    def start(self, pool: ModelPool, limits: StudioLimits, seed: int) -> list[asyncio.Task[None]]:
        """Let both answer the last message; the tasks of the two replies."""
        self.state, self.stopped, self.log, self.finished = "answering", False, EventLog(), {}
        params = SamplingParams(temperature=TEMPERATURE, max_tokens=MAX_TOKENS, seed=seed)
        for side, word in WORDS.items():
            self.answers[side] = Answer(
                model=self.models[side], conversation=Conversation(messages=self.seen_by(side)),
                params=params, show=partial(self._show, word), done=partial(self.finished.__setitem__, side),
            )  # fmt: skip
        for answer in self.answers.values():
            answer.start(pool, limits)
        return [answer.task for answer in self.answers.values() if answer.task is not None]

    def _show(self, word: str, text: dict[str, str]) -> None:
        """One side's answer so far is an event of the battle's; all else that it tells stays with it."""
        self.log.add(f"text-{word}", {"side": word, **text}, replaces=True)

    def failing(self) -> list[Side]:
        """The sides that ended without a whole reply, as far as is known."""
        return [side for side, one in self.finished.items() if one.ending == "failed"]

    def stop(self) -> None:
        self.stopped = True
        for answer in self.answers.values():
            answer.stop()

    async def settle(self) -> None:
        """Both have ended well: their answers are part of the conversation."""
        exchange = self.exchanges[-1]
        for side, finished in self.finished.items():
            exchange.answers[side] = self.answers[side].messages
            exchange.endings[side] = finished.ending
            self.weights[side] |= {finished.weight_version} - {""}
        await run_in_threadpool(exchange.render)
        self._end("open")

    def give_up(self, why: str) -> None:
        self._end("over", why)

    def _end(self, state: State, why: str = "") -> None:
        self.state, self.why = state, why
        shown = self.exchanges[-1].shown if self.exchanges else None
        cut = {word: shown[word]["cut"] for word in WORDS.values()} if shown else {}
        self.log.add("turn", {"state": state, "why": why, "cut": cut})
        self.log.end()

    # -- what a page is told -----------------------------------------------------------------------

    def shown(self) -> dict[str, Any]:
        told: dict[str, Any] = {
            "id": self.id, "state": self.state, "why": self.why, "consent": self.consent,
            "images": bool(self.exchanges[0].asked.images) if self.exchanges else False,
            "exchanges": [_exchange(one) for one in self.exchanges], "vote": None, "again": self.again,
        }  # fmt: skip
        if self.vote is not None:
            told["vote"] = {
                "winner": SHOWN_WINNERS[self.vote.winner], "rated": self.vote.rated,
                "reason": SECOND_LOOK if self.again else in_words(self.vote.reason),
            } | {word: {"model": self.models[side], "weights": sorted(self.weights[side])}
                 for side, word in WORDS.items()}  # fmt: skip
        return told


def _exchange(exchange: Exchange) -> dict[str, Any]:
    asked = {"text": exchange.asked.text, "images": [one.to_data_uri() for one in exchange.asked.images]}
    return {"asked": asked} | (exchange.shown or dict.fromkeys(WORDS.values()))


def in_words(reason: str) -> str:
    """Why a vote is not rated, for who sees left and right and has not read the store's split."""
    if reason in (NOT_TO_RATE["train"], NOT_TO_RATE["neither"]):
        return SET_ASIDE
    for side, word in WORDS.items():
        reason = reason.replace(f"reply {side} ", f"the {word} reply ", 1)
    return reason
