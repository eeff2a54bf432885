"""A task without code: a file of questions, one JSON object a line.

    {"prompt": "2+2?", "reference": "4", "grade": "exact"}

`prompt` is a text or a list of messages in OpenAI's form; `grade` "exact" (the reply is the reference,
but for case and white space), "contains" (the reference is somewhere in it) or "judge" (another model
reads both and says).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from whorl.base.errors import DataError, InputError
from whorl.base.nouns import Trace
from whorl.evals.judge import RIGHT, JudgeClient, ask, right_text
from whorl.tasks.task import Example, Grade
from whorl.text.forms import read_conversation
from whorl.text.records import read_records

GRADES = ("exact", "contains", "judge")


class OwnTask:
    """The questions of a file. `judge` is asked where a line's grade is "judge"."""

    def __init__(self, path: str | Path, judge: JudgeClient | None = None) -> None:
        self.path, self._judge = Path(path), judge
        self.name = self.path.stem
        self._examples = [_example(record, where) for where, record in read_records(self.path)]
        if not self._examples:
            raise InputError(f"{path} contains no questions; write one JSON object per line")
        seen: dict[str, str] = {}
        for one in self._examples:
            if one.id in seen:
                raise DataError(
                    f"{one.meta['where']}: the id {one.id!r} is already on {seen[one.id]}; give it a"
                    " unique id, or none"
                )
            seen[one.id] = one.meta["where"]
        judged = next((one for one in self._examples if one.meta["grade"] == "judge"), None)
        if judged is not None and judge is None:
            raise InputError(f"{path}: {judged.id} is graded by a judge; name one with --judge URL")

    def examples(self, split: str) -> Iterator[Example]:
        if split != "test":
            raise InputError(f"{self.path} has one split, test; there is no {split!r}")
        return iter(self._examples)

    async def grade(self, example: Example, trace: Trace) -> Grade:
        answer, wanted = _folded(trace.message.text), _folded(example.reference)
        kind = example.meta["grade"]
        if kind == "judge":
            return await self._judged(example, trace.message.text)
        right = answer == wanted if kind == "exact" else wanted in answer
        return Grade(score=float(right), reason="" if right else f"wanted {example.reference[:80]!r}")

    async def _judged(self, example: Example, answer: str) -> Grade:
        """A verdict that is none counts as wrong, and says so."""
        assert self._judge is not None
        question = "\n".join(message.text for message in example.conversation.messages)
        text = right_text(question, answer, example.reference)
        verdict = await ask(self._judge, text, RIGHT, max_tokens=200)
        if verdict.value is None:
            reason = f"the judge gave no verdict: {verdict.said[:80]!r}"
            return Grade(score=0.0, parts={"no_verdict": 1.0}, reason=reason)
        return Grade(score=float(verdict.value), reason="" if verdict.value else "judged wrong")


def _folded(text: str) -> str:
    return " ".join(text.split()).casefold()


def _example(record: Any, where: str) -> Example:
    if isinstance(record, DataError):  # a line that is no JSON, with what is wrong in it
        raise record
    if not isinstance(record, dict):
        raise DataError(f"{where}: a question must be a JSON object with prompt, reference and grade")
    unknown = sorted(set(record) - {"prompt", "reference", "grade", "id"})
    if unknown:
        raise DataError(
            f"{where}: {unknown[0]!r} is not a field of a question; the fields are prompt,"
            " reference, grade, id"
        )
    prompt, reference, grade = (record.get(name) for name in ("prompt", "reference", "grade"))
    if grade not in GRADES:
        raise DataError(f"{where}: grade is {json.dumps(grade)}; it must be one of {', '.join(GRADES)}")
    if not isinstance(reference, str) or not reference.strip():
        raise DataError(f"{where}: reference is missing or empty; write the right answer")
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) and prompt else prompt
    if not isinstance(messages, list) or not messages:
        raise DataError(f"{where}: prompt is missing; write a text, or a list of messages")
    conversation = read_conversation({"messages": messages}, where)
    given = record.get("id")
    id = where.rsplit("/", 1)[-1] if given is None or given == "" else str(given)
    meta = {"grade": grade, "where": where}
    return Example(id=id, conversation=conversation, reference=reference, meta=meta)
