"""A task put to a model: replies through the tools, grades, figures with their standard errors."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from whorl.base.errors import InputError
from whorl.base.nouns import Conversation, Trace
from whorl.base.progress import progress, say
from whorl.tasks.estimate import Estimate
from whorl.tasks.task import Example, Grade, Task
from whorl.tools.definition import Tool
from whorl.tools.loop import converse

Reply = Callable[[list[Conversation]], list[Trace]]
Run = Callable[[Coroutine[Any, Any, list[Grade]]], list[Grade]]
BATCH = 128  # conversations put to the model at a time
REFUSED = "refused"  # the part of a grade that says so
MOST_SAID = 3  # refused cases of a task that are told one by one


@dataclass(frozen=True, kw_only=True)
class Refused(Trace):
    """In a reply's place where the server would not answer: a question too long for the model, say."""

    why: str


@dataclass(frozen=True)
class Graded:
    """One example with what the model made of it."""

    example: Example
    conversation: Conversation
    grade: Grade

    @property
    def refused(self) -> bool:
        return REFUSED in self.grade.parts


@dataclass(frozen=True)
class TaskReport:
    """What a model did at one task."""

    task: str
    cases: tuple[Graded, ...]

    @property
    def of_texts(self) -> bool:
        """Whether it asks how likely texts are, and not for replies."""
        return all(case.example.kind == "text" for case in self.cases)

    @property
    def unit(self) -> str:
        return "bits/byte" if self.of_texts else "share"

    @property
    def score(self) -> Estimate:
        return Estimate.of([case.grade.score for case in self.cases])

    def part(self, name: str) -> Estimate:
        """The mean of one part of the grades; a case without it counts as 0."""
        return Estimate.of([case.grade.parts.get(name, 0.0) for case in self.cases])


def grade_task(
    task: Task,
    reply: Reply,
    tools: Sequence[Tool] = (),
    *,
    split: str = "test",
    limit: int | None = None,
    max_calls: int = 2,
    run: Run = asyncio.run,
) -> TaskReport:
    """Put the examples of `split` to the model behind `reply`, run the tools it calls, grade the end.

    `run` awaits the grades: in the loop that a judge's client lives in, where there is one.
    """
    examples = list(islice(task.examples(split), limit))
    cases: list[Graded] = []
    with progress(len(examples), task.name, "cases") as bar:
        for start in range(0, len(examples), BATCH):
            batch = examples[start : start + BATCH]
            outcomes = converse(
                reply, [example.conversation for example in batch], tools, max_calls=max_calls
            )
            grades = run(_grades(task, batch, [outcome.trace for outcome in outcomes]))
            cases += [
                Graded(example, outcome.conversation, grade)
                for example, outcome, grade in zip(batch, outcomes, grades, strict=True)
            ]
            bar.advance(len(batch))
    check_refused(task.name, cases)
    return TaskReport(task.name, tuple(cases))


async def _grades(task: Task, examples: Sequence[Example], traces: Sequence[Trace]) -> list[Grade]:
    return list(await asyncio.gather(*(_grade(task, e, t) for e, t in zip(examples, traces, strict=True))))


async def _grade(task: Task, example: Example, trace: Trace) -> Grade:
    """What was refused, by the model's server or by a judge's, counts as 0."""
    if isinstance(trace, Refused):
        return refused(trace.why)
    try:
        return await task.grade(example, trace)
    except InputError as error:
        return refused(str(error))


def refused(why: str) -> Grade:
    return Grade(score=0.0, parts={REFUSED: 1.0}, reason=f"refused: {why}")


def check_refused(task: str, cases: Sequence[Graded]) -> None:
    """Say which cases were refused. `InputError` where all were: that is no figure of the model's."""
    without = [case for case in cases if case.refused]
    if not without:
        return
    told = [f"{place_of(task, case.example)} was {case.grade.reason}" for case in without]
    if len(without) == len(cases):
        raise InputError(f"task {task}: all of its {len(cases):,} cases were rejected; the first, {told[0]}")
    for line in told[:MOST_SAID]:
        say(f"{line}; it counts as 0")
    if len(told) > MOST_SAID:
        say(f"task {task}: {len(told) - MOST_SAID:,} more were rejected; --out has them all")


def place_of(task: str, example: Example) -> str:
    """File and line where it has one."""
    return str(example.meta.get("where") or f"{task} {example.id}")
