"""Tasks put to a model through the client protocol: a local server's, or any other's."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from whorl.base.client import Scored
from whorl.base.errors import InputError
from whorl.base.files import write_json
from whorl.base.nouns import Conversation, Message, SamplingParams, Trace
from whorl.base.progress import progress, say
from whorl.evals.grading import Graded, TaskReport, grade_task
from whorl.tasks.estimate import Estimate
from whorl.tasks.likelihood import bits_per_byte
from whorl.tasks.task import Example, Task
from whorl.tools.definition import Tool

FORMAT = 1
AT_ONCE = 32  # requests in flight


class ReplyClient(Protocol):
    """What an evaluation asks of a client."""

    async def reply(self, conversation: Conversation, params: SamplingParams) -> Trace: ...

    async def score(self, text: str | Sequence[int]) -> Scored: ...


@dataclass(frozen=True)
class Report:
    """What a model did at several tasks."""

    model: str
    tasks: tuple[TaskReport, ...]

    def figures(self) -> list[dict[str, Any]]:
        """One row a task: its score, and bits per byte where it scores texts."""
        rows = []
        for report in self.tasks:
            texts = all(case.example.kind == "text" for case in report.cases)
            grades = [case.grade for case in report.cases]
            score = bits_per_byte(grades) if texts else report.score
            unit = "bits/byte" if texts else "share"
            rows.append({
                "task": report.task, "unit": unit, "value": score.mean, "error": score.standard_error,
                "cases": score.n,
            })  # fmt: skip
        return rows

    def save(self, path: str | Path) -> None:
        """Figures and every case: what was asked, what came, the grade and why."""
        write_json(Path(path), {
            "format": FORMAT, "model": self.model, "figures": self.figures(),
            "cases": [_case(report.task, case) for report in self.tasks for case in report.cases],
        })  # fmt: skip


async def evaluate(
    client: ReplyClient,
    tasks: Sequence[tuple[Task, Sequence[Tool]]],
    *,
    model: str = "",
    limit: int | None = None,
    params: SamplingParams | None = None,
    at_once: int = AT_ONCE,
    split: str = "test",
) -> Report:
    """Put each task's examples of `split` to the model, run the tools it calls, grade the ends.

    `limit` examples of each at most. A text's example is scored; its first token, which nothing
    predicts, is left out.
    """
    params = params or SamplingParams(max_tokens=512)
    loop, gate = asyncio.get_running_loop(), asyncio.Semaphore(at_once)

    async def one(conversation: Conversation) -> Trace:
        async with gate:
            return await client.reply(conversation, params)

    async def many(conversations: list[Conversation]) -> list[Trace]:
        return list(await asyncio.gather(*(one(conversation) for conversation in conversations)))

    def reply(conversations: list[Conversation]) -> list[Trace]:
        return asyncio.run_coroutine_threadsafe(many(conversations), loop).result()

    reports = []
    for task, tools in tasks:
        first = next(iter(task.examples(split)), None)
        if first is None:
            raise InputError(f"task {task.name} has no examples in its split {split!r}")
        if first.kind == "text":
            reports.append(await _score_texts(client, task, split, limit, gate))
        else:
            reports.append(await asyncio.to_thread(grade_task, task, reply, tools, split=split, limit=limit))
    return Report(model, tuple(reports))


async def _score_texts(
    client: ReplyClient, task: Task, split: str, limit: int | None, gate: asyncio.Semaphore
) -> TaskReport:
    examples = list(islice(task.examples(split), limit))
    with progress(len(examples), task.name, "texts") as bar:

        async def one(example: Example) -> Graded:
            async with gate:
                scored = await client.score(example.reference)
            message = Message(role="assistant", content=(example.reference,))
            known = [(id, value) for id, value in zip(_ids(scored), scored.logprobs, strict=True)
                     if not math.isnan(value)]  # fmt: skip
            trace = Trace(
                message=message, token_ids=tuple(id for id, _ in known),
                logprobs=tuple(value for _, value in known),
            )  # fmt: skip
            bar.advance(1)
            return Graded(example, example.conversation, await task.grade(example, trace))

        return TaskReport(task.name, tuple(await asyncio.gather(*map(one, examples))))


def _ids(scored: Scored) -> Sequence[int]:
    """Token ids, or the places of tokens where the server keeps ids to itself."""
    return scored.token_ids or range(len(scored.logprobs))


def paired(report: TaskReport, base: TaskReport) -> Estimate:
    """The mean difference of scores over the cases that both have, with its standard error: the same
    questions on both sides, so that their difficulty cancels."""
    theirs = {case.example.id: case.grade.score for case in base.cases}
    both = [case for case in report.cases if case.example.id in theirs]
    if not both:
        raise InputError(f"task {report.task}: the two models were asked nothing in common")
    differences = [case.grade.score - theirs[case.example.id] for case in both]
    n = len(differences)
    mean = math.fsum(differences) / n
    spread = math.fsum((value - mean) ** 2 for value in differences)
    error = math.sqrt(spread / (n - 1) / n) if n > 1 else math.nan
    return Estimate(mean=mean, standard_error=error, n=n)


def compare(report: Report, base: Report) -> list[dict[str, Any]]:
    """One row a task: the paired difference and whether it is more than noise (two standard errors)."""
    if [one.task for one in report.tasks] != [one.task for one in base.tasks]:
        say("the two reports hold other tasks; those in common are compared")
    by_name = {one.task: one for one in base.tasks}
    rows = []
    for one in report.tasks:
        if one.task in by_name:
            found = paired(one, by_name[one.task])
            clear = abs(found.mean) > 2 * found.standard_error
            rows.append({
                "task": one.task, "difference": found.mean, "error": found.standard_error, "cases": found.n,
                "beyond_noise": clear,
            })  # fmt: skip
    return rows


def _case(task: str, case: Graded) -> dict[str, Any]:
    return {
        "task": task, "id": case.example.id, "reference": case.example.reference,
        "messages": [_without_images(message.to_openai()) for message in case.conversation.messages],
        "score": case.grade.score, "parts": case.grade.parts, "reason": case.grade.reason,
    }  # fmt: skip


def _without_images(message: dict[str, Any]) -> dict[str, Any]:
    content = message.get("content")
    if isinstance(content, list):
        return message | {
            "content": [part if part["type"] == "text" else {"type": "image"} for part in content]
        }
    return message
