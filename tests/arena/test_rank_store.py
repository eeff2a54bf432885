"""`whorl arena board`, `replay` and `voters`, as a person calls them on a real store."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from whorl.arena import Battles, RatingConfig, Store, make_board
from whorl.arena.store import Said
from whorl.base.nouns import Message
from whorl.cli.main import main

Command = Callable[..., tuple[str, str]]

MODELS = ("good", "fair", "poor")
VOTERS, VOTES = 8, 25
WORDS = ["alder", "birch", "cedar", "elm", "fir", "hazel", "ivy", "oak", "pine", "yew"]


@pytest.fixture
def whorl(capsys: pytest.CaptureFixture[str]) -> Command:
    def run(*words: str, code: int = 0) -> tuple[str, str]:
        with pytest.raises(SystemExit) as left:
            main(["arena", *words])
        out, err = capsys.readouterr()
        assert left.value.code == code, err
        return out, err

    return run


def says(role: str, text: str) -> Message:
    return Message(role=role, content=(text,))  # type: ignore[arg-type]


def cast(store: Store, person: int, chance: random.Random, *, contrary: bool = False) -> str:
    """A vote by somebody who likes good models, or who is `contrary`; its battle."""
    a, b = chance.sample(MODELS, 2)
    better = (MODELS.index(a) < MODELS.index(b)) != contrary
    agrees = chance.random() < 0.9
    words = " ".join(chance.choice(WORDS) for _ in range(9))
    vote = store.add_battle(
        person, [says("user", f"{words} {chance.random()}")], model_a=a, model_b=b, probability=1 / 3,
        consent="rate", category=chance.choice(["code", "talk"]),
        a=[Said(message=says("assistant", words * chance.randint(1, 3)))],
        b=[Said(message=says("assistant", words))], winner="model_a" if better == agrees else "model_b",
    )  # fmt: skip
    assert vote.rated
    return vote.battle.id


@pytest.fixture
def votes(cast_once: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(cast_once, tmp_path / "arena.sqlite"))


@pytest.fixture(scope="module")
def cast_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("votes") / "arena.sqlite"
    with Store.open(path, train_share=0.0) as store:
        for name in MODELS:
            store.add_model(name)
        people = [store.add_person(f"voter {number}").id for number in range(VOTERS)]
        people.append(store.add_person("[contrary]").id)
        for number, person in enumerate(people):
            chance = random.Random(number)
            for _ in range(VOTES):
                cast(store, person, chance, contrary=number == VOTERS)
    return path


def test_a_past_board_comes_again_byte_for_byte(votes: Path, tmp_path: Path, whorl: Command) -> None:
    first, second = tmp_path / "first.json", tmp_path / "second.json"
    words = ["--store", str(votes)]
    out, err = whorl("board", *words, "--out", str(first))
    assert out.splitlines()[1].split()[:2] == ["1", "good"] and f"whorl arena replay {first}" in err
    styled = ["--style", "tokens", "--anchor", "fair=1200", "--category", "code", "--interval", "bootstrap"]
    (tmp_path / "styled.json").write_text(whorl("board", *words, *styled, "--json")[0])
    held = first.read_bytes()
    moment = json.loads(held)["at"]

    with Store.open(votes) as store:
        rated = list(store.battles())
        store.set_consent(rated[0].battle, "none")
        store.erase(rated[1].battle)
        store.erase_person(int(rated[-1].voter))
        for _ in range(30):
            cast(store, int(rated[0].voter), random.Random(store.head().seq))
        store.set_consent(rated[2].battle, "none")
        store.set_consent(rated[2].battle, "rate")
        assert held == make_board(Battles.from_rows(store.battles(at=moment)), at=moment).to_bytes()

    for board in (first, tmp_path / "styled.json"):
        assert "give the same" in whorl("replay", str(board), *words)[0]
    assert json.loads(whorl("replay", str(first), *words, "--json")[0])["same"] is True
    assert whorl("board", *words, "--at", str(moment), "--json")[0].encode() == held
    iso = datetime.fromtimestamp(moment, UTC).isoformat()
    assert whorl("board", *words, "--at", iso, "--json")[0].encode() == held
    whorl("board", *words, "--out", str(second))
    assert json.loads(second.read_bytes())["votes"] == json.loads(held)["votes"] + 30 - 1
    assert second.read_bytes() != held and "give the same" in whorl("replay", str(second), *words)[0]
    with Store.open(votes) as store:
        assert store.verify().ok
    command = [sys.executable, "-m", "whorl", "arena", "replay", str(first), *words]
    assert subprocess.run(command, check=False).returncode == 0, "another process finds the same"


def test_a_board_that_is_not_the_logs_exits_with_1(votes: Path, tmp_path: Path, whorl: Command) -> None:
    words = ["--store", str(votes)]
    held = whorl("board", *words, "--json")[0]
    changed = tmp_path / "changed.json"
    record = json.loads(held)
    record["rows"][0]["rating"] += 0.01
    changed.write_text(json.dumps(record, sort_keys=True, separators=(",", ":")) + "\n")
    out, err = whorl("replay", str(changed), *words, code=1)
    assert out == "" and len(err.splitlines()) == 1
    assert f"{changed} does not match its battles: row" in err and "recomputed" in err
    told = json.loads(whorl("replay", str(changed), *words, "--json", code=1)[0])
    assert told["same"] is False and "recomputed" in told["difference"]
    changed.write_text(held.replace(":", ": ", 1))
    assert "different bytes" in whorl("replay", str(changed), *words, code=1)[1]
    # a board that does not say when, as one of a file of votes
    with Store.open(votes) as store:
        make_board(Battles.from_rows(store.battles()), RatingConfig(level=0.9)).save(changed)
        moment = store.last_change()
        cast(store, 1, random.Random(99))
    assert "was made from other battles" in whorl("replay", str(changed), *words, code=1)[1]
    assert "give the same" in whorl("replay", str(changed), *words, "--at", str(moment))[0]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["replay", "none.json"], "none.json is not a file; give a board"),
        (["replay", "BROKEN"], "is not valid JSON"),
        (["replay", "BROKEN", "--store", "none.sqlite"], "is not valid JSON"),
        (["board", "--at", "yesterday"], "--at: time 'yesterday' is neither seconds"),
        (["board", "--at", "2001-01-01"], "has no vote that counts at 2001-01-01"),
        (["board", "--level", "2"], "--level: "),
        (["board", "--rounds", "1"], "--rounds: "),
        (["board", "--category", "cod"], "no battle has category 'cod'; did you mean code?"),
        (["board", "--store", "none.sqlite"], "none.sqlite"),
        (["voters", "--alpha", "2"], "alpha 2.0 is not between 0 and 1"),
    ],
)
def test_a_mistake_is_one_line(
    votes: Path, tmp_path: Path, words: list[str], line: str, whorl: Command
) -> None:
    (tmp_path / "broken.json").write_text('{"format": 1,')
    given = [str(tmp_path / "broken.json") if word == "BROKEN" else word for word in words]
    out, err = whorl(*given, *([] if "--store" in words else ["--store", str(votes)]), code=2)
    assert out == "" and line in err and len(err.strip().splitlines()) == 1


def test_odd_voters_are_named_and_nothing_more(votes: Path, whorl: Command) -> None:
    before = whorl("board", "--store", str(votes), "--json")[0]
    [odd] = json.loads(whorl("voters", "--store", str(votes), "--alpha", "0.01", "--json")[0])
    assert (odd["name"], odd["votes"]) == ("[contrary]", VOTES) and odd["statistic"] >= odd["threshold"]
    out, err = whorl("voters", "--store", str(votes), "--alpha", "0.01")
    assert "[contrary]" in out and f"1 of {VOTERS + 1} voters to review; their votes count as before" in err
    assert whorl("board", "--store", str(votes), "--json")[0] == before
    with Store.open(votes) as store:
        store.erase_person(odd["voter"])
    assert "erased-" in whorl("voters", "--store", str(votes), "--alpha", "0.01")[0]
