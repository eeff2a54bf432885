"""What the store hands out: plain frozen rows. Times are seconds since the epoch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from whorl.base.errors import InputError
from whorl.base.nouns import Message

Winner = Literal["model_a", "model_b", "tie", "tie (bothbad)"]
WINNERS: tuple[Winner, ...] = ("model_a", "model_b", "tie", "tie (bothbad)")

# What a person lets us do with a conversation, from the least to the most.
Consent = Literal["none", "rate", "train"]
CONSENTS: tuple[Consent, ...] = ("none", "rate", "train")

# What a prompt's cluster is for. "neither" lies too near to prompts of both sides.
Purpose = Literal["rate", "train", "neither"]

Role = Literal["voter", "admin"]
ROLES: tuple[Role, ...] = ("voter", "admin")

Side = Literal["", "a", "b"]  # whose turn it is in a battle; "" both models see


@dataclass(frozen=True, kw_only=True)
class Model:
    """A model that may fight. `address` is a directory or a server's URL; `aliases` are further
    names by which a reply would give the model away (its family, its maker)."""

    name: str
    address: str = ""
    aliases: tuple[str, ...] = ()
    active: bool = True


@dataclass(frozen=True, kw_only=True)
class Person:
    """Who votes. `stamp` is a short digest of the sign-in token's hash, empty without a token: a session
    that was opened under another stamp has ended."""

    id: int
    name: str
    role: Role = "voter"
    stamp: str = ""


@dataclass(frozen=True, kw_only=True)
class Conversation:
    """The head of a conversation; its turns are `Store.turns(id)`."""

    id: str
    person: int
    kind: Literal["chat", "battle"]
    consent: Consent
    started: float
    erased: float | None = None
    tools: tuple[dict[str, Any], ...] = ()  # what the models may call, in OpenAI's form
    title: str = ""


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One message. `message` is None once the conversation is erased. `parent` is the turn it
    follows: retries and edits are siblings. `trace` is the reply's record as the server wrote it."""

    id: int
    conversation: str
    parent: int | None
    side: Side
    message: Message | None
    model: str | None = None
    weight_version: str = ""
    trace: Mapping[str, Any] | None = None
    time: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Said:
    """A message on its way into the store. `trace` is the server's record of a reply."""

    message: Message
    weight_version: str = ""
    trace: Mapping[str, Any] | None = None


@dataclass(frozen=True, kw_only=True)
class Pairing:
    """A battle before its vote: two models over one conversation, which has the same id.
    `probability` is that with which this pair was drawn; `cluster` numbers prompts that say the same."""

    id: str
    model_a: str
    model_b: str
    probability: float
    category: str
    cluster: int
    purpose: Purpose
    time: float
    voted: bool = False


class Head(NamedTuple):
    """The end of the chain: write it down (`str(head)`) and a later cut of the tail is found."""

    seq: int
    hash: str

    def __str__(self) -> str:
        return f"{self.seq}:{self.hash}"

    @classmethod
    def parse(cls, text: str) -> Head:
        number, _, digest = text.strip().partition(":")
        if not number.isdecimal() or len(digest) != 64 or set(digest) - set("0123456789abcdef"):
            raise InputError(f"head {text!r} must be NUMBER:HASH as printed by whorl arena verify")
        return cls(int(number), digest)


@dataclass(frozen=True, kw_only=True)
class Vote:
    """A vote that is kept. `rated` says whether it counts on the board, `reason` why it does not;
    `head` is the chain's end with this vote in it."""

    battle: Pairing
    winner: Winner
    rated: bool
    reason: str
    head: Head


class BattleVote(NamedTuple):
    """A vote as the ratings read it.

    `voter` is the person's number and `prompt` that of its cluster, so that a prompt asked many times
    can be cut down. `style` is (name, in a, in b), counted over all of a side's replies. `weights_a`
    and `weights_b` are the weight versions that answered.
    """

    seq: int
    battle: str
    model_a: str
    model_b: str
    winner: Winner
    time: float
    probability: float
    voter: str
    category: str
    prompt: str
    style: tuple[tuple[str, float, float], ...]
    purpose: Purpose
    consent: Consent
    rated: bool
    reason: str
    weights_a: tuple[str, ...]
    weights_b: tuple[str, ...]

    @property
    def about_a_reply(self) -> bool:
        """Whether it does not count for what a reply is: it told its model, or it was stopped. For any other
        reason (consent, prompt) it is a blind vote on whole answers all the same."""
        return self.reason.startswith(("reply a ", "reply b "))


@dataclass(frozen=True, kw_only=True)
class Preference:
    """What a person said of one reply in a chat of theirs: a thumb (+1, -1, 0 takes it back) with a
    reason, or the reply as they would have it (`better`). Never rated: they saw whom they talked to."""

    id: int
    conversation: str
    turn: int
    person: int
    kind: Literal["thumb", "better"]
    value: int = 0
    reason: str = ""
    better: Message | None = None
    time: float = field(default=0.0)
