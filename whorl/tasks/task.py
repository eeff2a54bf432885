"""What a task is: examples, and grades for the replies to them.

One object serves chat training, evaluation and (later) reward, so that they cannot disagree.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, Self, runtime_checkable

import numpy as np

from whorl.base.errors import DataError, InputError
from whorl.base.nouns import Conversation, Message, Trace

SPLITS = ("train", "test")


@dataclass(frozen=True, kw_only=True)
class Example:
    """One thing to ask of a model.

    `kind` "reply" asks for the reply to `conversation`; `reference` is what a right one comes down
    to. `kind` "text" asks for no reply but for the log-probs of `reference` as plain text, without
    a chat template, as in pre-training (`Example.of_text`): the evaluator grades a `Trace` whose
    `token_ids` and `logprobs` are that text's.
    """

    id: str
    conversation: Conversation
    reference: str
    meta: dict[str, Any] = field(default_factory=dict)
    kind: Literal["reply", "text"] = "reply"

    def __post_init__(self) -> None:
        if not self.id:
            raise DataError("example has no id")
        if self.kind == "reply" and self.conversation.messages[-1].role not in ("user", "tool"):
            raise DataError(
                f"example {self.id!r}: the conversation must end just before the assistant's turn"
            )

    @classmethod
    def of_text(cls, id: str, text: str, meta: dict[str, Any] | None = None) -> Self:
        """An example that asks how likely `text` is."""
        if not text:
            raise DataError(f"example {id!r}: an empty text has no likelihood")
        shown = Conversation(messages=(Message(role="assistant", content=(text,)),), id=id)
        return cls(id=id, conversation=shown, reference=text, meta=meta or {}, kind="text")


@dataclass(frozen=True, kw_only=True)
class Grade:
    """How good a reply is: `score` from 0 to 1, the `parts` it is made of, why where it is not 1."""

    score: float
    parts: dict[str, float] = field(default_factory=dict)
    reason: str = ""

    def __post_init__(self) -> None:
        if not 0 <= self.score <= 1:
            raise DataError(f"a grade's score is between 0 and 1, not {self.score}")


@runtime_checkable
class Task(Protocol):
    """Anything with a name, examples and grades.

    `examples` gives the same examples in the same order on every call; "train" may be endless,
    every other split ends and shares nothing with it. `grade` reads the reply and, through
    `trace.chain`, the replies with tool calls that led to it.
    """

    @property
    def name(self) -> str: ...

    def examples(self, split: str) -> Iterator[Example]: ...

    async def grade(self, example: Example, trace: Trace) -> Grade: ...


def check_split(task: str, split: str) -> None:
    """Raise `InputError` for a split our own tasks do not have."""
    if split not in SPLITS:
        raise InputError(f"task {task} has no split {split!r}; use {' or '.join(SPLITS)}")


def held_out(key: str, share: float) -> bool:
    """Whether `key` belongs to the test split: a property of the key alone, on every machine."""
    digest = hashlib.sha256(key.encode("utf-8")).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64


def randomness(seed: int, purpose: str, *counter: int) -> np.random.Generator:
    """Random numbers of their own for (seed, purpose, counter): no order of calls changes them."""
    number = int.from_bytes(hashlib.sha256(purpose.encode("utf-8")).digest()[:8], "big")
    return np.random.Generator(np.random.Philox(key=[seed, number], counter=[0, 0, *counter, 0, 0][:4]))
