"""Tasks put to a model through the client protocol: a local server's, or any other's."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Coroutine, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from whorl.base.client import Scored
from whorl.base.errors import InputError
from whorl.base.files import write_json
from whorl.base.nouns import Conversation, Message, SamplingParams, Trace
from whorl.base.progress import progress
from whorl.base.results import without_nan
from whorl.evals.grading import REFUSED, Graded, Refused, TaskReport, check_refused, grade_task, refused
from whorl.tasks.estimate import Z95, Estimate
from whorl.tasks.likelihood import bits_per_byte
from whorl.tasks.task import Example, Grade, Task
from whorl.tools.definition import Tool

FORMAT = 1
AT_ONCE = 32  # requests in flight
SAME_SIGNS = 6  # 2 · ½⁶ is under 5 %: what so many cases all say is no chance


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
        """One row a task: its score, and bits per byte where it scores texts (those that were not refused),
        with the standard error and the 95 % interval."""
        rows = []
        for report in self.tasks:
            if report.of_texts:
                score = bits_per_byte([case.grade for case in report.cases if not case.refused])
            else:
                score = report.score
            low, high = _interval(report, score)
            rows.append({
                "task": report.task, "unit": report.unit, "value": score.mean, "error": score.standard_error,
                "low": low, "high": high, "cases": score.n,
                "refused": sum(case.refused for case in report.cases),
            })  # fmt: skip
        return rows

    def save(self, path: str | Path) -> None:
        """Figures and every case: what was asked, what came, the grade and why."""
        write_json(Path(path), without_nan({
            "format": FORMAT, "model": self.model, "figures": self.figures(),
            "cases": [_case(report.task, case) for report in self.tasks for case in report.cases],
        }))  # fmt: skip


def _interval(report: TaskReport, score: Estimate) -> tuple[float, float]:
    """Of 95 %. Wilson's where scores are 0 and 1: three of three right are no proof that all are."""
    if not report.of_texts and all(case.grade.score in (0, 1) for case in report.cases):
        return score.wilson()
    return score.mean - Z95 * score.standard_error, score.mean + Z95 * score.standard_error


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
    predicts, is left out. What the server refuses is said and counts as 0; `InputError` where it refuses
    all of a task.
    """
    params = params or SamplingParams(max_tokens=512)
    loop, gate = asyncio.get_running_loop(), asyncio.Semaphore(at_once)

    async def one(conversation: Conversation) -> Trace:
        async with gate:
            try:
                return await client.reply(conversation, params)
            except InputError as error:
                return Refused(message=Message(role="assistant"), why=str(error))

    async def many(conversations: list[Conversation]) -> list[Trace]:
        return list(await asyncio.gather(*(one(conversation) for conversation in conversations)))

    def reply(conversations: list[Conversation]) -> list[Trace]:
        return asyncio.run_coroutine_threadsafe(many(conversations), loop).result()

    def here(grades: Coroutine[Any, Any, list[Grade]]) -> list[Grade]:
        return asyncio.run_coroutine_threadsafe(grades, loop).result()

    reports = []
    for task, tools in tasks:
        first = next(iter(task.examples(split)), None)
        if first is None:
            raise InputError(f"task {task.name} has no examples in its split {split!r}")
        if first.kind == "text":
            reports.append(await _score_texts(client, task, split, limit, gate))
        else:
            graded = asyncio.to_thread(grade_task, task, reply, tools, split=split, limit=limit, run=here)
            reports.append(await graded)
    return Report(model, tuple(reports))


async def _score_texts(
    client: ReplyClient, task: Task, split: str, limit: int | None, gate: asyncio.Semaphore
) -> TaskReport:
    examples = list(islice(task.examples(split), limit))
    with progress(len(examples), task.name, "texts") as bar:

        async def one(example: Example) -> Graded:
            async with gate:
                try:
                    scored = await client.score(example.reference)
                except InputError as error:
                    bar.advance(1)
                    return Graded(example, example.conversation, refused(str(error)))
            message = Message(role="assistant", content=(example.reference,))
            known = [(id, value) for id, value in zip(_ids(scored), scored.logprobs, strict=True)
                     if not math.isnan(value)]  # fmt: skip
            trace = Trace(
                message=message, token_ids=tuple(id for id, _ in known),
                logprobs=tuple(value for _, value in known),
            )  # fmt: skip
            bar.advance(1)
            return Graded(example, example.conversation, await task.grade(example, trace))

        cases = await asyncio.gather(*map(one, examples))
    check_refused(task.name, cases)
    return TaskReport(task.name, tuple(cases))


def _ids(scored: Scored) -> Sequence[int]:
    """Token ids, or the places of tokens where the server keeps ids to itself."""
    return scored.token_ids or range(len(scored.logprobs))


def paired(report: TaskReport, base: TaskReport) -> Estimate:
    """The mean difference over the cases that both have, with its standard error: the same questions on both
    sides, so that their difficulty cancels. Of scores; for texts of bits over bytes, without those that one
    of the two refused."""
    theirs = dict(_by_id(base))
    both = [(case.grade, theirs[key]) for key, case in _by_id(report) if key in theirs]
    pairs = [(mine, other.grade) for mine, other in both]
    if report.of_texts:
        pairs = [pair for pair in pairs if not any(REFUSED in grade.parts for grade in pair)]
    if not pairs:
        raise InputError(f"task {report.task}: the two models were given no common examples")
    if report.of_texts:
        bits = [mine.parts["bits"] - other.parts["bits"] for mine, other in pairs]
        return Estimate.ratio(bits, [mine.parts["bytes"] for mine, _ in pairs])
    differences = [mine.score - other.score for mine, other in pairs]
    n = len(differences)
    mean = math.fsum(differences) / n
    spread = math.fsum((value - mean) ** 2 for value in differences)
    error = math.sqrt(spread / (n - 1) / n) if n > 1 else math.nan
    return Estimate(mean=mean, standard_error=error, n=n)


def _by_id(report: TaskReport) -> Iterator[tuple[tuple[str, int], Graded]]:
    """Each case under its id and how many had this id before it: ids of a task of one's own may repeat."""
    seen: Counter[str] = Counter()
    for case in report.cases:
        yield (case.example.id, seen[case.example.id]), case
        seen[case.example.id] += 1


def compare(report: Report, base: Report) -> list[dict[str, Any]]:
    """One row a task, in order: the paired difference and whether it is more than noise (two standard errors;
    where all differences are the same and so the error 0, as many cases as a sign test wants)."""
    if [one.task for one in report.tasks] != [one.task for one in base.tasks]:
        raise InputError("the two reports have different tasks; run the same tasks on both models")
    rows = []
    for one, other in zip(report.tasks, base.tasks, strict=True):
        found = paired(one, other)
        clear = abs(found.mean) > 2 * found.standard_error
        clear = clear and (found.standard_error > 0 or found.n >= SAME_SIGNS)
        rows.append({
            "task": one.task, "unit": one.unit, "difference": found.mean, "error": found.standard_error,
            "cases": found.n, "beyond_noise": clear,
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
