"""Look-ups: for a name never seen in training, the right call, then the documented first sentence."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import count
from typing import Any

from whorl.base.errors import InputError
from whorl.base.nouns import Message, Trace
from whorl.tasks.replies import ask, calling, only_call, saying
from whorl.tasks.task import Example, Grade, check_split, held_out, randomness

QUESTIONS = (
    "What does `{name}` do?",
    "What is `{name}`?",
    "Look up `{name}`.",
    "What do the docs say about `{name}`?",
    "Explain `{name}` in one sentence.",
    "Can you tell me what `{name}` is for?",
)
WORD = re.compile(r"[^\W\d_]+")


@dataclass(frozen=True, kw_only=True)
class LookUps:
    """Questions about the names of `sentences` (name → documented first sentence).

    Names whose sentences are the same but for case, digits and punctuation are on one side of the
    split. "train" is endless: all names in a new order each time round, each time asked another
    way; "test" asks for each held-out name once, at most `n_test` of them. `tools` are the schemas
    offered in each conversation.
    """

    sentences: Mapping[str, str]
    tools: Sequence[dict[str, Any]] = ()
    questions: Sequence[str] = QUESTIONS
    n_test: int = 500
    share_test: float = 0.1
    seed: int = 0
    name: str = "lookups"
    tool: str = "lookup"

    @cached_property
    def names(self) -> dict[str, tuple[str, ...]]:
        """The names of each split, sorted."""
        sides: dict[str, list[str]] = {"train": [], "test": []}
        for name in sorted(self.sentences):
            sides["test" if self.is_held_out(self.sentences[name]) else "train"].append(name)
        return {split: tuple(names) for split, names in sides.items()}

    def is_held_out(self, sentence: str) -> bool:
        """Whether every name that is documented by `sentence` belongs to the test split."""
        return held_out(" ".join(WORD.findall(sentence.casefold())) or sentence, self.share_test)

    def examples(self, split: str) -> Iterator[Example]:
        check_split(self.name, split)
        names = self.names[split]
        if not names:
            raise InputError(f"task {self.name}: no names in split {split!r}; give more documents")
        for turn in count():
            order = randomness(self.seed, f"{self.name} {split}", turn).permutation(len(names))
            if split == "test":
                order = order[: self.n_test]
            for place, index in enumerate(order):
                yield self._example(f"{self.name}-{split}-{turn}-{place}", names[index], turn, place)
            if split == "test":
                return

    def _example(self, id: str, name: str, turn: int, place: int) -> Example:
        rng = randomness(self.seed, f"{self.name} question", turn, place)
        question = self.questions[int(rng.integers(len(self.questions)))]
        return Example(
            id=id,
            conversation=ask(question.format(name=name), tools=self.tools, id=id),
            reference=self.sentences[name],
            meta={"name": name},
        )

    def solution(self, example: Example) -> tuple[Message, Message]:
        """The right replies: the call, and the answer after the tool's result."""
        return calling(self.tool, name=example.meta["name"]), saying(example.reference)

    async def grade(self, example: Example, trace: Trace) -> Grade:
        """1 where exactly this name was looked up and the reply is the first sentence, word for word."""
        made = only_call(trace)
        asked = made.arguments.get("name") if made and made.name == self.tool else None
        call = asked == example.meta["name"]
        answer = _spaced(trace.message.text) == _spaced(example.reference)
        reason = "" if call else f"looked up {asked!r}, not {example.meta['name']!r}"
        if not answer:
            reason = (reason + "; " if reason else "") + f"answered {trace.message.text!r}"
        return Grade(
            score=float(call and answer), parts={"call": float(call), "answer": float(answer)}, reason=reason
        )


def _spaced(text: str) -> str:
    return " ".join(text.split())
