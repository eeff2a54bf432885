"""GSM8K: school mathematics in words, graded by the final number.

Cobbe et al., "Training Verifiers to Solve Math Word Problems", 2021. The files are the user's:
JSON lines with `question` and `answer`, the answer ending in `#### 42`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from whorl.base.errors import DataError, InputError
from whorl.base.files import read_jsonl
from whorl.base.nouns import Message, Trace
from whorl.tasks.numbers import numbers
from whorl.tasks.replies import ask, saying
from whorl.tasks.task import Example, Grade, check_split

MARK = "####"


@dataclass(frozen=True, kw_only=True)
class GSM8K:
    """The problems of `train` and `test` (paths of JSON-lines files; either may be left out)."""

    train: str | Path | None = None
    test: str | Path | None = None
    name: str = "gsm8k"

    def examples(self, split: str) -> Iterator[Example]:
        check_split(self.name, split)
        path = {"train": self.train, "test": self.test}[split]
        if path is None:
            raise InputError(f"task {self.name}: no file given for split {split!r}; set {split}=PATH")
        if not Path(path).is_file():
            raise InputError(f"task {self.name}: {path} does not exist; openai/grade-school-math has it")
        for number, record in enumerate(read_jsonl(path), start=1):
            question, worked = record.get("question"), record.get("answer")
            if not isinstance(question, str) or not isinstance(worked, str) or final_number(worked) is None:
                raise DataError(f"{path}:{number}: needs 'question' and 'answer' ending in '{MARK} number'")
            id = f"{self.name}-{split}-{number - 1}"
            reference = worked.rpartition(MARK)[2].strip()
            yield Example(
                id=id, conversation=ask(question, id=id), reference=reference, meta={"worked": worked}
            )

    def solution(self, example: Example) -> tuple[Message]:
        """The worked answer as the data set gives it."""
        return (saying(example.meta["worked"]),)

    async def grade(self, example: Example, trace: Trace) -> Grade:
        """1 where the number after the last `####`, else the reply's last number, is the reference's."""
        found, expected = final_number(trace.message.text), final_number(example.reference)
        right = found is not None and found == expected
        marked = float(MARK in trace.message.text)
        reason = "" if right else f"answered {found}, not {example.reference}"
        return Grade(score=float(right), parts={"number": float(right), "marked": marked}, reason=reason)


def final_number(text: str) -> Fraction | None:
    """The first number after the last `####`; without that mark the last number of all."""
    _, mark, after = text.rpartition(MARK)
    found = numbers(after if mark else text)
    if not found:
        return None
    return found[0] if mark else found[-1]
