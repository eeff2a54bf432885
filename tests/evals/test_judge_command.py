"""`whorl judge` as it is typed: a directory, a server and a file of answers before a judge."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.evals.judges import prefers, serving
from tests.post.preferences import save_tiny
from whorl.evals.judge_questions import read_answers, write_answers

TURNS = {str(n): (f"answer {n}", "more " * n) for n in range(1, 4)}


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    lines = [{"question_id": n, "category": "c", "turns": [f"What {n}?", "More?"]} for n in range(1, 4)]
    (tmp_path / "questions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path / "questions.jsonl"


def judge(*words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "whorl", "judge", *words], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == code, done.stderr
    return done


def test_a_directory_a_server_and_a_file_are_compared(tmp_path: Path, questions: Path) -> None:
    write_answers(tmp_path / "old.jsonl", "old", TURNS)
    (tmp_path / "key").write_text("secret-of-the-judge\n")
    tiny = save_tiny(tmp_path / "tiny")
    with (
        serving(lambda messages: "a long and careful answer " * 40, "first", "second") as server,
        serving(prefers(lambda a, b: "A" if len(a) > len(b) else "B"), "wise") as wise,
    ):
        done = judge(
            f"tiny={tiny}", f"{server.url}#second", str(tmp_path / "old.jsonl"),
            "--questions", str(questions), "--judge", wise.url,
            "--judge-key-file", str(tmp_path / "key"), "--max-tokens", "8", "--json",
            "--battles", str(tmp_path / "battles.csv"), "--answers", str(tmp_path / "given"),
            "--out", str(tmp_path / "cases.json"), "--verdicts", str(tmp_path / "verdicts.jsonl"),
        )  # fmt: skip
        assert wise.keys == {"Bearer secret-of-the-judge"} and server.keys == {""}
        asked = len(wise.conversations)
        again = judge(
            str(tmp_path / "given" / "second.jsonl"), str(tmp_path / "given" / "tiny.jsonl"),
            str(tmp_path / "old.jsonl"), "--questions", str(questions), "--judge", wise.url,
            "--verdicts", str(tmp_path / "verdicts.jsonl"),
        )  # fmt: skip
    report = json.loads(done.stdout)
    assert report["judge"] == "wise" and report["models"][0]["model"] == "second"
    assert report["models"][0]["win_rate"] == 1.0 and report["comparisons"] == 18
    rows = list(csv.DictReader((tmp_path / "battles.csv").open()))
    assert len(rows) == 18 and {row["model_a"] for row in rows} | {row["model_b"] for row in rows} == {
        "tiny", "second", "old"
    }  # fmt: skip
    assert set(read_answers(tmp_path / "given" / "second.jsonl")["second"]) == {"1", "2", "3"}
    assert len(json.loads((tmp_path / "cases.json").read_text())["cases"]) == 18
    assert "win rate" in again.stdout and "the longer answer won" in again.stdout
    assert len(wise.conversations) - asked < 2 * 18, "pairs shown in the same order were judged already"


def test_one_model_is_scored(tmp_path: Path, questions: Path) -> None:
    write_answers(tmp_path / "old.jsonl", "old", TURNS)
    with serving(lambda messages: "Fine.\nverdict: 7") as wise:
        words = (str(tmp_path / "old.jsonl"), "--questions", str(questions), "--judge", wise.url)
        done = judge(*words)
        scored = json.loads(judge(*words, "--json", "--limit", "1").stdout)
    assert "7.0" in done.stdout and "points" in done.stdout and "turn 2" in done.stdout
    assert scored["models"][0]["score"] == 7.0 and scored["models"][0]["error"] is None


def test_mistakes_are_one_line(tmp_path: Path, questions: Path) -> None:
    write_answers(tmp_path / "old.jsonl", "old", TURNS)
    old = str(tmp_path / "old.jsonl")
    url = ("--judge", "http://127.0.0.1:9", "--questions", str(questions))
    for words, said in (
        ((old, old, *url), "two models are named old"),
        ((old, *url, "--battles", "x.csv"), "--battles needs at least two models"),
        (
            (old, "--judge", "http://x", "--questions", str(tmp_path / "gone.jsonl")),
            "gone.jsonl does not exist",
        ),
        ((str(tmp_path / "gone.jsonl"), *url), "file of answers"),
    ):
        done = judge(*words, code=2)
        assert said in done.stderr.splitlines()[-1] and "Traceback" not in done.stderr
    unreached = judge(old, *url, code=1)
    assert "does not answer" in unreached.stderr and "--verdicts FILE" in unreached.stderr


def test_a_judge_that_cannot_be_read_is_no_success(tmp_path: Path, questions: Path) -> None:
    write_answers(tmp_path / "old.jsonl", "old", TURNS)
    write_answers(tmp_path / "new.jsonl", "new", dict.fromkeys(TURNS, ("short", "short")))
    files = [str(tmp_path / name) for name in ("old.jsonl", "new.jsonl")]
    with serving(lambda messages: "Who knows.") as wise:
        for given in (files, files[:1]):
            done = judge(*given, "--questions", str(questions), "--judge", wise.url, code=2)
            assert "no verdict of model could be read" in done.stderr.splitlines()[-1]
            assert "Who knows." in done.stdout


def test_all_models_are_there_before_one_is_asked(tmp_path: Path, questions: Path) -> None:
    with serving(lambda messages: "Fine.", "first") as server:
        for words, said in (
            ((f"{server.url}#second", "--judge", server.url), "serves no model 'second'"),
            ((server.url, str(tmp_path), "--judge", server.url), "no config.json"),
            ((server.url, "--judge", f"{server.url}#wise"), "serves no model 'wise'"),
        ):
            done = judge(*words, "--questions", str(questions), code=2)
            assert said in done.stderr.splitlines()[-1]
        assert not server.conversations
