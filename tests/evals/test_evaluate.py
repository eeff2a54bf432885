"""Evaluation through a real server: the same figures as in process, questions of one's own, a judge."""

from __future__ import annotations

import asyncio
import json
import math
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.evals.judges import serving
from tests.models.learnt import CALCULATOR, DARK, LIGHT, SUM, save_learnt
from whorl.base.client import OpenAIClient, Scored
from whorl.base.errors import DataError, InputError
from whorl.base.files import read_json
from whorl.base.nouns import Conversation, Message, SamplingParams, Trace
from whorl.evals import OwnTask, Report, evaluate, find_task, find_tasks, paired, served
from whorl.evals.evaluation import compare
from whorl.evals.grading import Graded, TaskReport
from whorl.evals.likelihood import score_tokens
from whorl.models import load
from whorl.models.likelihood import log_probs
from whorl.tasks.estimate import Estimate
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
        (
            '{"prompt": "x", "reference": "y", "grade": "exact", "why": 1}',
            "bad.jsonl:1: 'why' is not a field",
        ),
        ('{"prompt": ', "bad.jsonl:1: not valid JSON"),
        (
            '{"prompt": "x", "reference": "y", "grade": "exact", "id": "q"}\n'
            '{"prompt": "z", "reference": "y", "grade": "exact", "id": "q"}',
            "bad.jsonl:2: the id 'q' is already on .*bad.jsonl:1",
        ),
        ("", "contains no questions"),
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


def test_files_of_one_name_are_two_tasks(tmp_path: Path) -> None:
    words = []
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "q.jsonl").write_text(
            json.dumps({"prompt": folder, "reference": "y", "grade": "exact", "id": "1"}) + "\n"
        )
        words.append(str(tmp_path / folder / "q.jsonl"))
    assert [task.name for task, _ in find_tasks(words)] == words
    assert [task.name for task, _ in find_tasks([words[0], "arithmetic"])] == ["q", "arithmetic"]
    for twice in (["arithmetic", "arithmetic"], [words[0], words[0]]):
        with pytest.raises(InputError, match="are the same task"):
            find_tasks(twice)


def test_ids_that_repeat_are_compared_one_by_one() -> None:
    """A task of one's own may give an id to several cases: a model against itself has no difference."""
    conversation = Conversation(messages=(Message(role="user", content=("x",)),))
    example = Example(id="same", conversation=conversation, reference="x")
    cases = tuple(Graded(example, conversation, Grade(score=score)) for score in (0.0, 1.0))
    report = Report("m", (TaskReport("t", cases), TaskReport("t", cases[::-1])))
    assert [(row["difference"], row["error"]) for row in compare(report, report)] == [(0, 0), (0, 0)]


@pytest.mark.parametrize(("count", "clear"), [(2, False), (5, False), (6, True)])
def test_a_few_cases_that_all_agree_are_no_proof(count: int, clear: bool) -> None:
    one, other = reports([1.0] * count, [0.0] * count)
    (row,) = compare(Report("a", (one,)), Report("b", (other,)))
    assert row["error"] == 0 and row["beyond_noise"] is clear
    (shown,) = Report("a", (one,)).figures()
    assert shown["error"] == 0 and shown["high"] == 1.0
    assert shown["low"] == pytest.approx(Estimate.of([1.0] * count).wilson()[0])


def test_texts_are_compared_in_bits_a_byte(address: str) -> None:
    class Twice:
        """Every text as likely as at the server, but for half as many bits."""

        def __init__(self, client: OpenAIClient) -> None:
            self.client = client

        async def reply(self, conversation: Conversation, params: SamplingParams) -> Trace:
            return await self.client.reply(conversation, params)

        async def score(self, text: str | Sequence[int]) -> Scored:
            found = await self.client.score(text)
            return replace(found, logprobs=tuple(value / 2 for value in found.logprobs))

    texts = [("a", "light, then dark"), ("b", "It is five. 2+3?"), ("c", "dark")]
    tasks: list[Any] = [(Likelihood(texts={"test": texts}), ())]

    async def inside() -> tuple[Report, Report]:
        async with OpenAIClient(address) as client:
            return await evaluate(Twice(client), tasks), await evaluate(client, tasks)

    better, plain = asyncio.run(asyncio.wait_for(inside(), 120))
    (row,) = compare(better, plain)
    whole = plain.figures()[0]["value"]
    assert row["unit"] == "bits/byte" and row["difference"] == pytest.approx(-whole / 2)


def evaluated(*words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "whorl", "eval", *words], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done


def test_a_question_that_is_too_long_is_named_and_counts_as_0(address: str, questions: Path) -> None:
    with questions.open("a") as file:
        long = {"prompt": "dark " * 5000, "reference": "x", "grade": "contains", "id": "long"}
        file.write(json.dumps(long) + "\n")
    done = evaluated(address, "--tasks", str(questions), "--json", "--out", str(questions.parent / "o.json"))
    (row,) = json.loads(done.stdout)["figures"]
    assert row["cases"] == 4 and row["refused"] == 1 and row["value"] == pytest.approx(2 / 4)
    assert f"{questions}:4 was refused" in done.stderr and "it counts as 0" in done.stderr
    (case,) = [one for one in read_json(questions.parent / "o.json")["cases"] if one["id"] == "long"]
    assert case["score"] == 0 and "context" in case["reason"]
    shown = evaluated(address, "--tasks", str(questions)).stdout
    assert "1 refused" in shown and "95 %" in shown
    questions.write_text(json.dumps(long) + "\n")
    done = evaluated(address, "--tasks", str(questions), code=2)
    assert f"all of its 1 cases were rejected; the first, {questions}:1" in done.stderr
    assert not done.stdout


def test_each_server_has_its_own_key_and_the_name_that_is_asked(tmp_path: Path) -> None:
    line = {"prompt": "Why?", "reference": "Because.", "grade": "judge"}
    (tmp_path / "judged.jsonl").write_text((json.dumps(line) + "\n") * 130)  # more than are asked at a time
    (tmp_path / "one.jsonl").write_text(json.dumps(line) + "\n")
    keys = {name: tmp_path / name for name in ("mine", "theirs", "wise")}
    for name, path in keys.items():
        path.write_text(f"key-of-{name}\n")
    with (
        serving(lambda messages: "Therefore.", "first", "second") as mine,
        serving(lambda messages: "No.", "one", "two") as theirs,
        serving(
            lambda messages: "verdict: " + ("right" if "Therefore" in str(messages) else "wrong")
        ) as wise,
    ):
        done = evaluated(
            f"{mine.url}#second", "--against", f"{theirs.url}#two", "--judge", wise.url,
            "--tasks", str(tmp_path / "judged.jsonl"), "--json",
            "--api-key-file", str(keys["mine"]), "--against-key-file", str(keys["theirs"]),
            "--judge-key-file", str(keys["wise"]),
        )  # fmt: skip
        assert [one.keys for one in (mine, theirs, wise)] == [
            {f"Bearer key-of-{name}"} for name in ("mine", "theirs", "wise")
        ]
        assert mine.models == {"second"} and theirs.models == {"two"}
        asked = len(mine.conversations)
        for words, said in (
            (("--against", f"{theirs.url}#three"), "serves no model 'three'; it serves one, two"),
            (("--against", str(tmp_path)), "no config.json"),
            (("--against", theirs.url, "--against-key-file", str(tmp_path / "none")), "--against-key-file"),
            (("--out", str(tmp_path)), "--out"),
            (("--out", "/proc/none/x.json"), "--out"),
        ):
            refused = evaluated(mine.url, "--tasks", "arithmetic", *words, code=2)
            assert said in refused.stderr
        assert len(mine.conversations) == asked, "all is looked at before the first question"
        assert "names no task" in evaluated(mine.url, "--tasks", ",", code=2).stderr
        one = evaluated(mine.url, "--against", theirs.url, "--judge", wise.url, "--json",
                        "--tasks", str(tmp_path / "one.jsonl"))  # fmt: skip
    assert json.loads(done.stdout)["differences"][0]["beyond_noise"]
    row = json.loads(one.stdout)
    assert row["figures"][0]["value"] == 1.0 and row["figures"][0]["error"] == 0
    assert row["differences"][0]["difference"] == 1.0 and row["differences"][0]["error"] is None
    assert "NaN" not in one.stdout


def test_what_was_measured_is_shown_where_the_other_model_fails(tmp_path: Path) -> None:
    line = {"prompt": "Why?", "reference": "Because.", "grade": "contains"}
    (tmp_path / "q.jsonl").write_text(json.dumps(line) + "\n")

    def breaks(messages: list[dict[str, Any]]) -> str:
        raise ConnectionError("as a server that is killed")

    with serving(lambda messages: "Because.") as mine, serving(breaks) as theirs:
        words = (mine.url, "--against", theirs.url, "--tasks", str(tmp_path / "q.jsonl"), "--json")
        done = evaluated(*words, code=1)
    assert json.loads(done.stdout)["figures"][0]["value"] == 1.0 and theirs.url in done.stderr
