"""`whorl arena rank` and `simulate`, as a person calls them."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from whorl.arena import fit_bradley_terry, read_battles
from whorl.cli.main import main


def run(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> tuple[str, str]:
    with pytest.raises(SystemExit) as left:
        main(["arena", *words])
    out, err = capsys.readouterr()
    assert left.value.code == code, err
    return out, err


@pytest.fixture
def votes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    path = tmp_path / "votes.csv"
    run(capsys, "simulate", "--synthetic", "--models", "5", "--battles", "3000", "--out", str(path))
    return path


KEYS = {"model", "rating", "low", "high", "rank", "battles"}


def test_json_is_the_list_of_the_fit(votes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = json.loads(run(capsys, "rank", str(votes), "--json")[0])
    assert all(set(row) == KEYS for row in rows)
    assert rows == fit_bradley_terry(read_battles(votes)[0]).rows()
    assert rows == sorted(rows, key=lambda row: -row["rating"])


@pytest.mark.parametrize(
    ("words", "arguments"),
    [
        (["--ties", "rao-kupper"], {"ties": "rao-kupper"}),
        (["--weights", "propensity", "--level", "0.8"], {"weights": "propensity", "level": 0.8}),
        (["--interval", "simultaneous"], {"interval": "simultaneous"}),
        (["--interval", "bootstrap", "--rounds", "30", "--seed", "4"],
         {"interval": "bootstrap", "rounds": 30, "seed": 4}),
        (["--anchor", "model-2=1200"], {"anchor": "model-2", "anchor_rating": 1200}),
        (["--anchor", "model-2"], {"anchor": "model-2"}),
    ],
)  # fmt: skip
def test_every_option_reaches_the_fit(
    votes: Path, capsys: pytest.CaptureFixture[str], words: list[str], arguments: dict[str, object]
) -> None:
    rows = json.loads(run(capsys, "rank", str(votes), "--json", *words)[0])
    battles, _ = read_battles(votes)
    assert rows == fit_bradley_terry(battles, **arguments).rows()  # type: ignore[arg-type]
    assert rows != fit_bradley_terry(battles).rows()


def test_the_table_at_both_widths(
    votes: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for width, drawn in (("80", False), ("140", True)):
        monkeypatch.setenv("COLUMNS", width)
        out, _ = run(capsys, "rank", str(votes), "--flips")
        lines = out.splitlines()
        assert len(lines) == 6 and "votes to flip" in lines[0]
        assert all("model-" in line for line in lines[1:])
        assert ("●" in out) is drawn


def test_bad_rows_are_named_on_stderr_and_the_rest_is_ranked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "b.csv"
    path.write_text("model_a,model_b,winner\n" + "x,y,x\ny,x,x\nx,y,y\n" * 3 + "x,x,x\n" * 7)
    out, err = run(capsys, "rank", str(path), "--json")
    assert [row["model"] for row in json.loads(out)] == ["x", "y"]
    assert err.count(f"{path}:") == 5 and f"{path}:11: 'x' paired with itself" in err
    assert "7 of 16 rows are not battles and were left out" in err


def test_category_and_style(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "b.jsonl"
    records = [
        {"model_a": "x", "model_b": "y", "winner": "xyx"[n % 3],
         "language": "German" if n % 2 else "English", "category": "code",
         "tokens_a": n % 7, "tokens_b": n % 5, "bold_a": 0, "bold_b": n % 2}
        for n in range(120)
    ]  # fmt: skip
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    rows = json.loads(run(capsys, "rank", str(path), "--category", "language=German", "--json")[0])
    assert rows[0]["battles"] == 60
    assert json.loads(run(capsys, "rank", str(path), "--category", "code", "--json")[0])[0]["battles"] == 120
    _, err = run(capsys, "rank", str(path), "--style", "tokens")
    assert "one standard deviation more tokens is" in err and "bold" not in err
    assert "bold" in run(capsys, "rank", str(path), "--style", "all")[1]
    assert "no battles that can be rated" in run(capsys, "rank", str(path), "--style", "lists", code=2)[1]
    assert (
        "choose from English, German"
        in run(capsys, "rank", str(path), "--category", "language=French", code=2)[1]
    )


@pytest.mark.parametrize("form", ["svg", "html", "png"])
def test_a_plot_is_written(votes: Path, capsys: pytest.CaptureFixture[str], form: str) -> None:
    target = votes.parent / f"plot.{form}"
    run(capsys, "rank", str(votes), "--plot", str(target))
    assert target.stat().st_size > 1000


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["rank", "none.csv"], "none.csv does not exist"),
        (["rank", "VOTES", "--plot", "p.gif"], "--plot p.gif must end in .svg, .html, .png"),
        (["rank", "VOTES", "--anchor", "model-9"], "model 'model-9' has no battle here"),
        (["rank", "VOTES", "--anchor", "model-2=high"], "'high' is not a number"),
        (["rank", "VOTES", "--anchor", "model-2=nan"], "'nan' is not a number"),
        (["rank", "VOTES", "--level", "2"], "level 2.0 is not between 0 and 1"),
        (["rank", "VOTES", "--interval", "bootstrap", "--rounds", "1"], "rounds 1 is too few"),
        (["rank", "VOTES", "--category", "x"], "no column 'category', which --category needs"),
        (["rank"], "Missing argument 'FILE'"),
        (["simulate"], "Missing argument '[NAME=]MODEL|URL…'"),
        (["simulate", "--synthetic", "--models", "1"], "--models"),
        (["simulate", "--synthetic", "--noise", "2"], "--noise"),
    ],
)
def test_a_mistake_is_one_line(
    votes: Path, capsys: pytest.CaptureFixture[str], words: list[str], line: str
) -> None:
    out, err = run(capsys, *[str(votes) if word == "VOTES" else word for word in words], code=2)
    assert out == "" and line in err
    assert len(err.strip().splitlines()) == 1


def test_simulate_shows_truth_and_what_was_found(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["simulate", "--synthetic", "--models", "4", "--battles", "4000", "--active", "--repeat", "3"]
    found = json.loads(run(capsys, *words, "--json")[0])
    assert {row["true_place"] for row in found["rows"]} == {1, 2, 3, 4}
    assert found["held"] == sum(row["low"] <= row["limit"] <= row["high"] for row in found["rows"])
    assert found["repeated"]["intervals"] == 12
    out, _ = run(capsys, *words)
    assert "of 4 intervals contain the limit" in out and "over the repeats:" in out
    assert run(capsys, *words)[0] == out  # the same seed, the same votes


def test_a_name_from_a_file_moves_no_cursor(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "b.jsonl"
    names = ["\x1b[31mred", "plain", "\x9b2Jclears"]
    rows = [{"model_a": a, "model_b": b, "winner": "tie", "category": a} for a in names for b in names]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    out, err = run(capsys, "rank", str(path), "--plot", str(tmp_path / "p.svg"))
    assert "\\x1b[31mred" in "".join(ElementTree.parse(tmp_path / "p.svg").getroot().itertext())
    assert "\\x1b[31mred" in out and "\\x9b2Jclears" in out
    assert not {"\x1b", "\x9b"} & {*out, *err}
    out, _ = run(capsys, "rank", str(path), "--json")
    assert {row["model"] for row in json.loads(out)} == set(names) and not {"\x1b", "\x9b"} & {*out}
    _, err = run(capsys, "rank", str(path), "--category", "none of them", code=2)
    assert "choose from" in err and not {"\x1b", "\x9b"} & {*err}


def test_votes_that_saw_the_names_are_counted_in_a_note(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "b.csv"
    path.write_text("model_a,model_b,winner,anony\nx,y,x,True\ny,x,x,False\n")
    _, err = run(capsys, "rank", str(path), "--json")
    assert "1 votes left out: their voters saw the models' names" in err
