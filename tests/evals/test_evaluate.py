"""Evaluation through a real server: the same figures as in process, questions of one's own, a judge."""

from __future__ import annotations

import asyncio
import json
import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.models.learnt import CALCULATOR, DARK, LIGHT, SUM, save_learnt
from whorl.base.client import OpenAIClient
from whorl.base.errors import DataError, InputError
from whorl.base.files import read_json
from whorl.base.nouns import Conversation, Message, SamplingParams, Trace
from whorl.evals import OwnTask, Report, evaluate, find_task, paired, served
from whorl.evals.grading import Graded, TaskReport
from whorl.evals.likelihood import score_tokens
from whorl.models import load
from whorl.models.likelihood import log_probs
from whorl.tasks.likelihood import Likelihood
from whorl.tasks.task import Example, Grade
from whorl.text.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_learnt(tmp_path_factory.mktemp("evals") / "knows")


@pytest.fixture(scope="module")
def address(directory: Path) -> Iterator[str]:
    with served(directory, "--device", "cpu", "--dtype", "float32", "--memory", "0.05") as found:
        yield found


QUESTIONS: list[dict[str, Any]] = [
    {"prompt": [message.to_openai() for message in (Message(role="user", content=(DARK, "Shade?")),)],
     "reference": " Dark ", "grade": "exact"},
    {"prompt": [message.to_openai() for message in (Message(role="user", content=(LIGHT, "Shade?")),)],
     "reference": "igh", "grade": "contains"},
    {"prompt": "Break.", "reference": "something else", "grade": "contains", "id": "wrong"},
]  # fmt: skip


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    path = tmp_path / "questions.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in QUESTIONS))
    return path


class SumTask:
    """The one sum the model knows, through the calculator."""

    name = "sum"

    def examples(self, split: str) -> Iterator[Example]:
        yield Example(id="sum", conversation=SUM, reference="five")

    async def grade(self, example: Example, trace: Trace) -> Grade:
        called = trace.parent is not None and bool(trace.parent.message.tool_calls)
        return Grade(score=float(called and example.reference in trace.message.text))


def run(address: str, tasks: list[Any], **more: Any) -> Report:
    async def inside() -> Report:
        async with OpenAIClient(address) as client:
            return await evaluate(client, tasks, model="knows", **more)

    return asyncio.run(asyncio.wait_for(inside(), 120))


def test_questions_tools_and_texts_through_a_server(
    address: str, directory: Path, questions: Path, tmp_path: Path
) -> None:
    texts = [("a", "light, then dark"), ("b", "It is five. 2+3?")]
    tasks = [(OwnTask(questions), ()), (SumTask(), (CALCULATOR,)), (Likelihood(texts={"test": texts}), ())]
    report = run(address, tasks)
    figures = {row["task"]: row for row in report.figures()}
    assert figures["questions"]["value"] == pytest.approx(2 / 3) and figures["questions"]["cases"] == 3
    assert figures["questions"]["error"] == pytest.approx(math.sqrt(2 / 9 / 3))
    assert figures["sum"]["value"] == 1.0
    tokenizer = Tokenizer.load(directory)
    start = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
    ids = [[*start, *tokenizer.encode(text)] for _, text in texts]
    bits = -sum(float(row.sum()) for row in log_probs(load(directory), ids)) / math.log(2)
    size = sum(len(text.encode()) for _, text in texts)
    assert figures["likelihood"]["value"] == pytest.approx(bits / size, rel=1e-4)
    report.save(tmp_path / "report.json")
    saved = read_json(tmp_path / "report.json")
    wrong = next(case for case in saved["cases"] if case["id"] == "wrong")
    assert wrong["score"] == 0 and "something else" in wrong["reason"] and "base64" not in json.dumps(saved)


def test_long_texts_are_scored_in_windows_as_in_one_process(address: str, directory: Path) -> None:
    ids = [np.random.default_rng(n).integers(1, 60, n) for n in (1, 2, 20, 21, 33, 90)]

    async def inside() -> list[np.ndarray]:
        async with OpenAIClient(address) as client:
            return await score_tokens(client, ids, window=20, stride=8)

    expected = log_probs(load(directory), ids, window=20, stride=8)
    for ours, theirs in zip(asyncio.run(inside()), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


def reports(ours: list[float], theirs: list[float]) -> tuple[TaskReport, TaskReport]:
    def made(scores: list[float]) -> TaskReport:
        conversation = Conversation(messages=(Message(role="user", content=("x",)),))
        cases = [
            Graded(
                Example(id=str(n), conversation=conversation, reference="x"), conversation, Grade(score=score)
            )
            for n, score in enumerate(scores)
        ]
        return TaskReport("t", tuple(cases))

    return made(ours), made(theirs)


def test_a_paired_difference_is_the_mean_of_differences() -> None:
    draw = np.random.default_rng(0)
    theirs = (draw.random(200) < 0.5).astype(float)
    ours = np.where(draw.random(200) < 0.1, 1 - theirs, theirs)
    found = paired(*reports(ours.tolist(), theirs.tolist()))
    differences = ours - theirs
    assert found.mean == pytest.approx(differences.mean())
    assert found.standard_error == pytest.approx(differences.std(ddof=1) / math.sqrt(200))
    unpaired = math.sqrt(ours.var() / 200 + theirs.var() / 200)
    assert found.standard_error < unpaired / 2, "the same questions on both sides: their difficulty cancels"


class Judge:
    def __init__(self, says: str) -> None:
        self.says, self.asked = says, ""

    async def reply(self, conversation: Conversation, params: SamplingParams) -> Trace:
        self.asked = conversation.messages[0].text
        return Trace(message=Message(role="assistant", content=(self.says,)))


@pytest.mark.parametrize(
    ("says", "score", "reason"),
    [
        ("Verdict: right", 1.0, ""), ("verdict: WRONG.", 0.0, "judged wrong"),
        ("who knows", 0.0, "no verdict"),
        ("verdict: right or verdict: wrong", 0.0, "no verdict"),
    ],
)  # fmt: skip
def test_a_judge_is_read_strictly(tmp_path: Path, says: str, score: float, reason: str) -> None:
    path = tmp_path / "judged.jsonl"
    path.write_text(json.dumps({"prompt": "Why?", "reference": "Because.", "grade": "judge"}) + "\n")
    judge = Judge(says)
    task = OwnTask(path, judge)
    (example,) = task.examples("test")
    trace = Trace(message=Message(role="assistant", content=("Therefore.",)))
    grade = asyncio.run(task.grade(example, trace))
    assert grade.score == score and reason in grade.reason
    assert all(text in judge.asked for text in ("Why?", "Because.", "Therefore."))
    with pytest.raises(InputError, match="--judge"):
        OwnTask(path)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"prompt": "x", "reference": "y", "grade": "nearly"}', "bad.jsonl:1: grade is"),
        ('{"prompt": "x", "grade": "exact"}', "bad.jsonl:1: reference is missing"),
        ('{"reference": "x", "grade": "exact"}', "bad.jsonl:1: prompt is missing"),
        ('{"prompt": "x", "reference": "y", "grade": "exact", "why": 1}', "bad.jsonl:1: 'why' is no field"),
        ('{"prompt": ', "bad.jsonl:1"),
        ("", "holds no question"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, said: str) -> None:
    (tmp_path / "bad.jsonl").write_text(line + "\n")
    with pytest.raises((DataError, InputError), match=said):
        OwnTask(tmp_path / "bad.jsonl")


def test_tasks_are_found_by_what_people_type(questions: Path) -> None:
    assert (
        find_task("arithmetic")[0].name == "arithmetic" and find_task(str(questions))[0].name == "questions"
    )
    listed, known = (
        next(find_task("arithmetic", tools=way)[0].examples("test")) for way in ("listed", "known")
    )
    assert listed.conversation.tools and not known.conversation.tools
    with pytest.raises(InputError, match="did you mean arithmetic"):
        find_task("arithmetics")
    with pytest.raises(InputError, match="gsm8k:PATH"):
        find_task("gsm8k")


def test_the_verb_over_a_directory_and_against_a_server(
    address: str, directory: Path, questions: Path
) -> None:
    command = [sys.executable, "-m", "whorl", "eval", str(directory), "--tasks", str(questions),
               "--against", address, "--json", "--out", str(questions.parent / "cases.json")]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout)
    assert printed["figures"][0]["value"] == pytest.approx(2 / 3)
    (difference,) = printed["differences"]
    assert difference["difference"] == 0 and difference["cases"] == 3 and not difference["beyond_noise"]
    assert len(read_json(questions.parent / "cases.json")["cases"]) == 3
    wrong = subprocess.run(
        [sys.executable, "-m", "whorl", "eval", str(questions.parent), "--tasks", str(questions)],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert wrong.returncode == 2 and "config.json" in wrong.stderr.splitlines()[-1], wrong.stderr
