"""A task put to a model: replies through the tools, grades, figures with their standard errors."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice

from whorl.base.nouns import Conversation, Trace
from whorl.base.progress import progress
from whorl.tasks.estimate import Estimate
from whorl.tasks.task import Example, Grade, Task
from whorl.tools.definition import Tool
from whorl.tools.loop import converse

Reply = Callable[[list[Conversation]], list[Trace]]
BATCH = 128  # conversations put to the model at a time


@dataclass(frozen=True)
class Graded:
    """One example with what the model made of it."""

    example: Example
    conversation: Conversation
    grade: Grade


@dataclass(frozen=True)
class TaskReport:
    """What a model did at one task."""

    task: str
    cases: tuple[Graded, ...]

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
) -> TaskReport:
    """Put the examples of `split` to the model behind `reply`, run the tools it calls, grade the end."""
    examples = list(islice(task.examples(split), limit))
    cases: list[Graded] = []
    with progress(len(examples), task.name, "cases") as bar:
        for start in range(0, len(examples), BATCH):
            batch = examples[start : start + BATCH]
            outcomes = converse(
                reply, [example.conversation for example in batch], tools, max_calls=max_calls
            )
            grades = asyncio.run(_grades(task, batch, [outcome.trace for outcome in outcomes]))
            cases += [
                Graded(example, outcome.conversation, grade)
                for example, outcome, grade in zip(batch, outcomes, grades, strict=True)
            ]
            bar.advance(len(batch))
    return TaskReport(task.name, tuple(cases))


async def _grades(task: Task, examples: Sequence[Example], traces: Sequence[Trace]) -> list[Grade]:
    return list(await asyncio.gather(*(task.grade(e, t) for e, t in zip(examples, traces, strict=True))))
