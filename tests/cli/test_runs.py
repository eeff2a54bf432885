"""`whorl runs`, over real run directories."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from click.testing import CliRunner

from whorl.base.config import Config
from whorl.base.logbook import Logbook
from whorl.cli.runs import command


class Recipe(Config):
    steps: int = 3


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("first", "second"):
        with Logbook(tmp_path / name) as logbook:
            logbook.config(Recipe())
            logbook.metric(1, loss=3.0, lr=1e-3)
            logbook.metric(2, loss=math.nan)
            logbook.event("checkpoint", step=2, path="checkpoints/step-2")
            logbook.event("finish", step=2)
    return tmp_path


def run(*words: str) -> str:
    result = CliRunner().invoke(command, words, catch_exceptions=False)
    assert result.exit_code == 0
    return result.stdout


def strict(text: str) -> object:
    def refuse(constant: str) -> float:
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(text, parse_constant=refuse)


def test_list(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert [line.split()[1] for line in run("list", str(root)).splitlines()[1:]] == ["done", "done"]
    monkeypatch.setenv("WHORL_WORKSPACE", str(root))
    rows = strict(run("list", "--json"))
    assert isinstance(rows, list)
    assert [Path(row["path"]).name for row in rows] == ["first", "second"]
    assert rows[0]["last"] == {"loss": "nan", "lr": 1e-3}


def test_list_of_nothing_is_empty_json(tmp_path: Path) -> None:
    assert strict(run("list", str(tmp_path), "--json")) == []


def test_show(root: Path) -> None:
    shown = run("show", str(root / "first"))
    assert "done, 2 steps" in shown
    assert "checkpoints/step-2" in shown
    record = strict(run("show", str(root / "first"), "--json"))
    assert isinstance(record, dict)
    assert record["config"] == {"steps": 3}
    assert [event["kind"] for event in record["events"]] == ["start", "checkpoint", "finish"]
    assert record["metrics"][0]["values"] == {"loss": 3.0, "lr": 1e-3}


def test_report(root: Path, tmp_path: Path) -> None:
    page = tmp_path / "elsewhere" / "page.html"
    assert strict(run("report", str(root / "first"), "--output", str(page), "--json")) == {
        "report": str(page)
    }
    assert page.read_text().startswith("<!doctype html>")
    assert run("report", str(root / "first")).strip() == str(root / "first" / "report.html")
