"""`inspect` and the two verbs: figures against numpy's, JSON on stdout, one line for a mistake."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from whorl.base.errors import InputError
from whorl.data import Annotate, ExactDedup, NearDedup, Split, read, read_dataset, run
from whorl.data.inspect import QUANTILES, inspect

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(30):
        text = "\n".join(f"line {n} of text {number * n}" for n in range(number + 1))
        (folder / f"{number:02d}.txt").write_text(text)
    (folder / "same.txt").write_text((folder / "07.txt").read_text())
    (folder / "bad.txt").write_bytes(b"ok\n\xff")
    return folder


def whorl(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "whorl", *words], cwd=ROOT, capture_output=True, text=True)


def test_a_dataset_in_figures(tmp_path: Path, folder: Path) -> None:
    signals = [Annotate(name, name) for name in ("rps_doc_word_count", "rps_lines_num_words")]
    report = run(folder, [*signals, ExactDedup(), NearDedup(), Split()], tmp_path / "out")
    found = inspect(tmp_path / "out", samples=2)
    documents = list(read_dataset(tmp_path / "out"))
    assert (found.read, found.documents, found.reasons) == (report.read, len(documents), report.reasons)
    expected = {
        "characters": [len(d.text) for d in documents],
        "rps_doc_word_count": [len(d.words) for d in documents],
        "rps_lines_num_words": [
            np.mean([s.score for s in d.signals["rps_lines_num_words"]]) for d in documents
        ],
    }
    assert set(found.quantiles) == set(expected)
    for name, values in expected.items():
        np.testing.assert_allclose(found.quantiles[name], np.quantile(values, QUANTILES), err_msg=name)
    assert [s["id"] for s in found.kept] == [d.id for d in documents[:2]]
    assert {(r["step"], r["reason"]) for r in found.rejected} == {
        (step, reason) for step, counts in report.reasons.items() for reason in counts
    }


def test_raw_files_in_figures(folder: Path) -> None:
    found = inspect(folder)
    lengths = [len(item.text) for item in read(folder) if hasattr(item, "text")]
    assert found.documents == len(lengths) == 31
    np.testing.assert_allclose(found.quantiles["characters"], np.quantile(lengths, QUANTILES))
    assert found.reasons == {"read": {"encoding": 1}}
    assert found.rejected[0]["line"] == 2


def test_where_there_is_nothing_to_inspect(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        inspect(tmp_path / "nowhere")
    (tmp_path / "out/work").mkdir(parents=True)
    (tmp_path / "out/work/plan.json").write_text("{}")
    with pytest.raises(InputError, match="unfinished"):
        inspect(tmp_path / "out")


def test_the_verbs(tmp_path: Path, folder: Path) -> None:
    out = str(tmp_path / "out")
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('signals = ["rps_doc_word_count"]\n[split]\nvalidation = 0.2\n')
    done = whorl("data", "run", str(recipe), str(folder), "--out", out, "--workers", "1", "--json")
    assert done.returncode == 0, done.stderr
    counts = json.loads(done.stdout)
    assert counts["read"] == 31 and counts["reasons"]["exact"] == {"duplicate": 1}
    assert counts["documents"] == counts["splits"]["train"] + counts["splits"]["validation"]
    again = whorl(
        "data", "run", str(recipe), str(folder), "--out", out
    )  # already done: workers change nothing
    assert again.returncode == 0 and f"{counts['documents']:,} documents kept" in again.stdout
    shown = whorl("data", "inspect", out, "--json")
    assert json.loads(shown.stdout)["documents"] == counts["documents"]
    plain = whorl("data", "inspect", out)
    assert "encoding" in plain.stdout and "rps_doc_word_count" in plain.stdout and "bad.txt:2" in plain.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["data", "run"], "no input"),
        (["data", "run", "{in}"], "--out"),
        (["data", "run", "{in}/nowhere", "--out", "{out}"], "does not exist"),
        (["data", "run", "{in}", "--out", "{out}", "--filters", "gopher"], "did you mean gopher_quality"),
        (
            ["data", "run", "{in}", "--out", "{out}", "--split.validaton", "0.1"],
            "did you mean --split.validation",
        ),
        (["data", "inspect", "{in}/nowhere"], "does not exist"),
    ],
)
def test_a_mistake_is_one_line(tmp_path: Path, folder: Path, words: list[str], message: str) -> None:
    done = whorl(*(word.format(**{"in": folder, "out": tmp_path / "out"}) for word in words))
    assert done.returncode == 2
    assert message in done.stderr and len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()
