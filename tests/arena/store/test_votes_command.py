"""`whorl arena verify | export | erase | people`, `whorl backup`, `whorl restore`, as a person calls them."""

from __future__ import annotations

import io
import json
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from whorl.arena.store import Pairing, Store
from whorl.base.errors import InputError
from whorl.base.nouns import Message
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
    assert code == 0 and "1 votes, 2 rows, 0 erased: chain intact" in out
    head = out.splitlines()[-1].removeprefix("head ")
    code, out, _ = run(capsys, "arena", "verify", "--head", head, "--json")
    assert code == 0 and json.loads(out)["ok"] is True and json.loads(out)["head"] == head
    code, _, err = run(capsys, "arena", "verify", "--head", "nonsense")
    assert code == 2 and err.count("\n") == 1
    with sqlite3.connect(workspace / "arena" / "arena.sqlite") as connection:
        connection.execute("DROP TRIGGER arena_log_no_delete")
        connection.execute("DELETE FROM arena_log WHERE seq = 2")
    connection.close()
    code, _, err = run(capsys, "arena", "verify")  # noted beside the store
    assert code == 2 and "row 2 of the log is missing" in err and "arena.sqlite.heads" in err
    (workspace / "arena" / "arena.sqlite.heads").unlink()
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
    assert code == 2 and "never overwritten" in err
    there = str(tmp_path / "there")
    code, out, _ = run(capsys, "restore", str(tmp_path / "backup"), "--workspace", there, "--json")
    assert code == 0 and json.loads(out)["votes"] == 1
    code, out, _ = run(capsys, "arena", "verify", "--store", f"{there}/arena/arena.sqlite")
    assert code == 0 and "1 votes" in out


def test_erase_says_what_goes_asks_and_leaves_a_chain_that_verifies(
    workspace: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, fight: Fight
) -> None:
    with Store.open(workspace / "arena" / "arena.sqlite") as store:
        [battle] = (one.id for one in store.conversations())
        store.start_chat(1, [Message(role="user", content=("Flax?",))], consent="none")
        bob = store.add_person("bob")
        store.start_chat(bob.id, [Message(role="user", content=("Wool?",))], consent="none")
    for answer, told in (
        ("n\n", "1 conversations with 3 messages will be erased permanently (1 votes stay"),
        ("", "--yes"),
    ):
        monkeypatch.setattr("sys.stdin", io.StringIO(answer))
        code, _, err = run(capsys, "arena", "erase", battle)
        assert code == 2 and told in err and "nothing was erased" in err
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    code, out, err = run(capsys, "arena", "erase", battle)
    assert code == 0 and "3 messages; 1 votes, chain intact" in out and "backups and exports" in err
    head = out.splitlines()[-1].removeprefix("head ")
    assert run(capsys, "arena", "verify", "--head", head)[0] == 0
    code, out, _ = run(capsys, "arena", "erase", "--person", "ann", "--yes", "--json")
    assert code == 0
    told = json.loads(out)
    assert (told["conversations"], told["turns"], told["votes"]) == (1, 1, 0)  # the other was gone
    with Store.open(workspace / "arena" / "arena.sqlite") as store:
        assert [person.name for person in store.people()] == ["erased-1", "bob"]
        assert [one.person for one in store.conversations() if one.erased is None] == [bob.id]
        assert store.verify(told["head"]).erased == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "give either"),
        (("x", "--person", "ann"), "give either"),
        (("--person", "anne", "--yes"), "did you mean ann?"),
        (("nothing", "--yes"), "'nothing' is not in the store"),
        (("nothing", "--json"), "add --yes"),
    ],
)
def test_erase_refuses_what_it_cannot_find(
    workspace: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], said: str
) -> None:
    code, _, err = run(capsys, "arena", "erase", *words)
    assert code == 2 and said in err and err.count("\n") == 1
    with Store.open(workspace / "arena" / "arena.sqlite") as store:
        assert store.verify().erased == 0


def test_people_are_listed_added_and_given_new_tokens(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(capsys, "arena", "people", "add", "Zoë", "--role", "admin")
    first = out.strip()
    assert code == 0 and "only once" in err and first not in err
    code, out, _ = run(capsys, "arena", "people", "token", "Zoë", "--json")
    second = json.loads(out)["token"]
    with Store.open(workspace / "arena" / "arena.sqlite") as store:
        assert store.sign_in("Zoë", second).role == "admin"
        with pytest.raises(InputError, match="wrong"):
            store.sign_in("Zoë", first)
    code, out, _ = run(capsys, "arena", "people", "list")
    assert code == 0 and out.splitlines() == ["   1  voter  ann", "   2  admin  Zoë"]
    assert json.loads(run(capsys, "arena", "people", "list", "--json")[1])[1]["name"] == "Zoë"
    for words, said in (
        (("add", "ann"), "is already in the store"),
        (("add", "erased-7"), "choose another"),
        (("add", " "), "needs a name"),
        (("token", "Zoe"), "did you mean Zoë"),
    ):
        code, out, err = run(capsys, "arena", "people", *words)
        assert code == 2 and said in err and not out


def test_the_first_person_makes_the_store(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WHORL_WORKSPACE", str(tmp_path))
    assert run(capsys, "arena", "people", "list")[0] == 2 and not list(tmp_path.iterdir())
    assert run(capsys, "arena", "people", "add", "ann")[0] == 0
    assert "ann" in run(capsys, "arena", "people", "list")[1]
