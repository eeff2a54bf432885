"""A board is shown again byte for byte, or it is said what differs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from whorl.arena import (
    Battle,
    Battles,
    Judge,
    RatingConfig,
    make_board,
    replay,
    simulate_battles,
    write_battles,
)
from whorl.arena.simulation import synthetic_strengths
from whorl.base.errors import DataError, InputError


@pytest.fixture(scope="module")
def battles() -> Battles:
    return simulate_battles(synthetic_strengths(6), [Judge(tie_width=0.3)] * 3, 2000)


@pytest.mark.parametrize(
    "settings",
    [
        RatingConfig(),
        RatingConfig(ties="rao-kupper", interval="bootstrap", rounds=20, weights="propensity"),
        RatingConfig(interval="simultaneous", anchor="model-3", anchor_rating=1200),
    ],
)
def test_the_same_bytes_from_the_same_battles(battles: Battles, settings: RatingConfig) -> None:
    board = make_board(battles, settings).to_bytes()
    assert replay(board, battles).to_bytes() == board
    record = json.loads(board)
    assert json.dumps(record, sort_keys=True, separators=(",", ":")).encode() + b"\n" == board
    assert record["votes"] == 2000 and len(record["rows"]) == 6


def test_another_process_that_reads_the_battles_from_a_file_makes_the_same_board(
    battles: Battles, tmp_path: Path
) -> None:
    write_battles(battles, tmp_path / "b.csv")
    make_board(battles).save(tmp_path / "board.json")
    code = (
        "from whorl.arena import read_battles, replay\nfrom pathlib import Path\n"
        "battles, _ = read_battles('b.csv')\nprint(replay(Path('board.json').read_bytes(), battles).digest)"
    )
    environment = {"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "2"}  # here it is 1
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.strip() == make_board(battles).digest


def test_what_differs_is_said(battles: Battles) -> None:
    board = make_board(battles).to_bytes()
    with pytest.raises(DataError, match="made from other battles: 2000 votes"):
        replay(board, battles.take(range(1999)))
    record = json.loads(board)

    def changed(**values: object) -> bytes:
        return (json.dumps(record | values, sort_keys=True, separators=(",", ":")) + "\n").encode()

    rows = [dict(row) for row in record["rows"]]
    rows[1]["rating"] += 0.01
    with pytest.raises(DataError, match=f"row .*{rows[1]['model']}.*recomputed"):
        replay(changed(rows=rows), battles)
    with pytest.raises(DataError, match="votes is 3, recomputed 2000"):
        replay(changed(votes=3), battles)
    with pytest.raises(DataError, match="different bytes"):
        replay(json.dumps(record).encode(), battles)
    with pytest.raises(InputError, match="format 2, newer than 1"):
        replay(changed(format=2), battles)
    with pytest.raises(DataError, match="settings do not fit"):
        replay(changed(settings={"ties": "thirds"}), battles)
    for broken in (b"{", b"[]", b"\xff", b"{}"):
        with pytest.raises(DataError, match=r"votes\.json"):
            replay(broken, battles, "votes.json")


def test_a_category_is_chosen_and_an_open_end_is_null() -> None:
    rows = [
        Battle(model_a="a", model_b="b", winner="model_a", category="x", time=5.0),
        Battle(model_a="a", model_b="c", winner="model_b", category="y", time=9.0),
    ]
    board = make_board(Battles.from_rows(rows), RatingConfig(category="x"))
    assert board.votes == 1 and board.until == 5.0
    assert [row["model"] for row in board.rows] == ["a", "b"]
    assert json.loads(board.to_bytes())["rows"][0]["high"] is None
