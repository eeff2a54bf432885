"""`whorl arena verify | export`, `whorl backup`, `whorl restore`, as a person calls them."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from whorl.arena.store import Pairing, Store
from whorl.cli.main import main

Fight = Callable[..., Pairing]


@pytest.fixture
def workspace(tmp_path: Path, fight: Fight, monkeypatch: pytest.MonkeyPatch) -> Path:
    place = tmp_path / "workspace"
    with Store.open(place / "arena" / "arena.sqlite", train_share=1.0) as store:
        for name in ("amber-1", "birch-2"):
            store.add_model(name)
        store.add_person("ann")
        store.vote(fight(store, consent="train").id, "model_a")
    monkeypatch.setenv("WHORL_WORKSPACE", str(place))
    return place


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    capsys.readouterr()
    with pytest.raises(SystemExit) as left:
        main(words)
    out, err = capsys.readouterr()
    assert isinstance(left.value.code, int)
    return left.value.code, out, err


def test_verify_prints_the_head_and_takes_it_back(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run(capsys, "arena", "verify")
    assert code == 0 and "1 votes, 2 rows, 0 erased: whole" in out
    head = out.splitlines()[-1].removeprefix("head ")
    code, out, _ = run(capsys, "arena", "verify", "--head", head, "--json")
    assert code == 0 and json.loads(out)["ok"] is True and json.loads(out)["head"] == head
    code, _, err = run(capsys, "arena", "verify", "--head", "nonsense")
    assert code == 2 and err.count("\n") == 1
    with sqlite3.connect(workspace / "arena" / "arena.sqlite") as connection:
        connection.execute("DROP TRIGGER arena_log_no_delete")
        connection.execute("DELETE FROM arena_log WHERE seq = 2")
    connection.close()
    assert run(capsys, "arena", "verify")[0] == 0
    code, _, err = run(capsys, "arena", "verify", "--head", head)
    assert code == 2 and "row 2 of the log is missing" in err
    code, out, _ = run(capsys, "arena", "verify", "--head", head, "--json")
    assert code == 2 and "row 2" in json.loads(out)["problem"]


def test_verify_of_nothing_makes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "arena", "verify", "--store", str(tmp_path / "none.sqlite"))
    assert code == 2 and "no store at" in err and not list(tmp_path.iterdir())


def test_export_backup_and_restore(
    workspace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run(capsys, "arena", "export", str(tmp_path / "out"))
    assert code == 0 and "1 preference pairs, 1 conversations" in out
    code, out, _ = run(capsys, "arena", "export", str(tmp_path / "again"), "--json")
    assert code == 0 and json.loads(out)["preferences"] == 1
    code, out, _ = run(capsys, "backup", str(tmp_path / "backup"))
    assert code == 0 and "1 votes and 0 files of runs backed up and read back" in out
    code, _, err = run(capsys, "backup", str(tmp_path / "backup"))
    assert code == 2 and "never written over" in err
    there = str(tmp_path / "there")
    code, out, _ = run(capsys, "restore", str(tmp_path / "backup"), "--workspace", there, "--json")
    assert code == 0 and json.loads(out)["votes"] == 1
    code, out, _ = run(capsys, "arena", "verify", "--store", f"{there}/arena/arena.sqlite")
    assert code == 0 and "1 votes" in out
