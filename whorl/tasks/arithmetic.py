"""Arithmetic through a calculator: the right call, then its result as the answer."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np

from whorl.base.errors import InputError
from whorl.base.nouns import Message, Trace
from whorl.tasks.numbers import numbers
from whorl.tasks.replies import ask, calling, only_call, saying
from whorl.tasks.task import Example, Grade, check_split, held_out, randomness

PATIENCE = 20  # times the draws that n_test examples take when none occurs twice
OPERATORS = ("+", "-", "*", "//", "%")
WORDS = {
    "+": ("{a} plus {b}", "the sum of {a} and {b}"),
    "-": ("{a} minus {b}", "the difference of {a} and {b}"),
    "*": ("{a} times {b}", "the product of {a} and {b}"),
    "//": ("{a} divided by {b}, rounded down", "the whole part of {a} over {b}"),
    "%": ("{a} modulo {b}", "the remainder of {a} divided by {b}"),
}
QUESTIONS = ("What is {it}?", "Work out {it}.", "Please calculate {it}.", "How much is {it}?", "{it} = ?")


@dataclass(frozen=True, kw_only=True)
class Arithmetic:
    """Two whole numbers and + - * // %, worded in several ways.

    A pair of operands (in either order) is held out or it is not, whatever the operator: no pair
    of the test split occurs in training. "train" is endless, "test" has `n_test` examples.
    `tools` are the schemas offered in each conversation.
    """

    tools: Sequence[dict[str, Any]] = ()
    max_digits: int = 3
    n_test: int = 500
    share_test: float = 0.1
    seed: int = 0
    name: str = "arithmetic"
    tool: str = "calculator"

    def __post_init__(self) -> None:
        if self.max_digits < 1 or self.n_test < 1 or not 0 < self.share_test < 1:
            raise InputError(
                f"task {self.name}: max_digits and n_test are at least 1, share_test within (0, 1)"
            )

    def examples(self, split: str) -> Iterator[Example]:
        check_split(self.name, split)
        seen: set[str] = set()
        for index in count():
            if split == "test" and index > PATIENCE * self.n_test / self.share_test:
                raise InputError(
                    f"task {self.name}: only {len(seen)} of n_test {self.n_test} examples have operands of "
                    f"{self.max_digits} digits; raise max_digits or lower n_test"
                )
            rng = randomness(self.seed, f"{self.name} {split}", index)
            a, b = (int(rng.integers(10 ** (digits - 1), 10**digits)) for digits in self._digits(rng))
            if held_out(f"{min(a, b)} {max(a, b)}", self.share_test) != (split == "test"):
                continue
            operator = OPERATORS[rng.integers(len(OPERATORS))]
            expression = f"{a} {operator} {b}"
            if split == "test" and expression in seen:
                continue
            if split == "test":
                seen.add(expression)
            yield self._example(f"{self.name}-{split}-{index}", a, operator, b, rng)
            if split == "test" and len(seen) == self.n_test:
                return

    def _digits(self, rng: np.random.Generator) -> tuple[int, int]:
        first, second = rng.integers(1, self.max_digits + 1, size=2)
        return int(first), int(second)

    def _example(self, id: str, a: int, operator: str, b: int, rng: np.random.Generator) -> Example:
        expression = f"{a} {operator} {b}"
        wordings = (expression, *WORDS[operator])
        question = QUESTIONS[rng.integers(len(QUESTIONS))]
        asked = question.format(it=wordings[rng.integers(len(wordings))].format(a=a, b=b))
        result = {"+": a + b, "-": a - b, "*": a * b, "//": a // b, "%": a % b}[operator]
        return Example(
            id=id,
            conversation=ask(asked[0].upper() + asked[1:], tools=self.tools, id=id),
            reference=str(result),
            meta={"expression": expression, "operands": [a, b], "operator": operator},
        )

    def solution(self, example: Example) -> tuple[Message, Message]:
        """The right replies: the call, and the answer after the tool's result."""
        call = calling(self.tool, expression=example.meta["expression"])
        return call, saying(f"It is {example.reference}.")

    async def grade(self, example: Example, trace: Trace) -> Grade:
        """1 where the calculator was asked exactly this and the reply's only number is the result."""
        call = only_call(trace)
        written = call.arguments.get("expression") if call and call.name == self.tool else None
        call_exact = isinstance(written, str) and _bare(written) == _bare(example.meta["expression"])
        found = numbers(trace.message.text)
        answer_exact = len(found) == 1 and found[0] == int(example.reference)
        reason = "" if call_exact else f"called for {written!r}, not {example.meta['expression']!r}"
        if not answer_exact:
            reason = (
                reason + "; " if reason else ""
            ) + f"answered {trace.message.text!r}, not {example.reference}"
        parts = {"call_exact": float(call_exact), "answer_exact": float(answer_exact)}
        return Grade(score=float(call_exact and answer_exact), parts=parts, reason=reason)


def _bare(expression: str) -> str:
    return re.sub(r"\s+", "", expression)
