"""Files of battles as people have them: FastChat's, Kaggle's, plain ones, and broken ones."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whorl.arena import Battle, Battles, read_battles, write_battles
from whorl.arena.battles import BOTH_BAD, MODEL_A, MODEL_B, TIE, WINNERS
from whorl.base.errors import InputError


def put(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


PLAIN = "model_a,model_b,winner\nx,y,x\ny,x,model_a\nx,y,tie\nx,y,tie (bothbad)\n y , x ,X\n"


def test_a_plain_csv_with_names_words_and_spaces(tmp_path: Path) -> None:
    battles, report = read_battles(put(tmp_path / "b.csv", PLAIN))
    assert battles.models == ("x", "y")
    assert battles.winner.tolist() == [MODEL_A, MODEL_A, TIE, BOTH_BAD]
    assert (report.good, report.bad_count) == (4, 1)
    assert report.bad[0].startswith(f"{tmp_path}/b.csv:6: winner 'X' is none of model_a, model_b, tie, ")


@pytest.mark.parametrize(
    "form", ["csv", "tsv", "semicolon", "bom", "crlf", "gz", "jsonl", "jsonl.gz", "json"]
)
def test_every_form_holds_the_same(tmp_path: Path, form: str) -> None:
    rows = [("x", "y", "model_b"), ("y", "z", "tie"), ("z", "x", "z")]
    text = "".join(",".join(row) + "\n" for row in [("model_a", "model_b", "winner"), *rows])
    lines = "".join(json.dumps({"model_a": a, "model_b": b, "winner": w}) + "\n\n" for a, b, w in rows)
    path = {
        "csv": lambda: put(tmp_path / "b.csv", text),
        "tsv": lambda: put(tmp_path / "b.tsv", text.replace(",", "\t")),
        "semicolon": lambda: put(tmp_path / "b.csv", text.replace(",", ";")),
        "bom": lambda: put(tmp_path / "b.csv", "\ufeff" + text),
        "crlf": lambda: put(tmp_path / "b.csv", text.replace("\n", "\r\n")),
        "gz": lambda: put(tmp_path / "b.csv.gz", gzip.compress(text.encode())),
        "jsonl": lambda: put(tmp_path / "b.jsonl", lines),
        "jsonl.gz": lambda: put(tmp_path / "b.jsonl.gz", gzip.compress(lines.encode())),
        "json": lambda: put(tmp_path / "b.json", "[" + ",".join(lines.split("\n\n")[:-1]) + "]"),
    }[form]()
    battles, report = read_battles(path)
    assert report.bad_count == 0
    named = [(battles.models[a], battles.models[b], WINNERS[w])
             for a, b, w in zip(battles.a, battles.b, battles.winner, strict=True)]  # fmt: skip
    assert named == [("x", "y", "model_b"), ("y", "z", "tie"), ("z", "x", "model_a")]


def test_fastchats_file_with_its_metadata(tmp_path: Path) -> None:
    row = {
        "question_id": "q1", "model_a": "gpt-4", "model_b": "koala", "winner": "tie (bothbad)",
        "judge": "arena_user_1", "turn": 2, "anony": True, "language": "English", "tstamp": 1696000000.5,
        "conv_metadata": {
            "sum_assistant_a_tokens": 120, "sum_assistant_b_tokens": 40,
            "header_count_a": {"h1": 1, "h2": 2}, "header_count_b": {"h1": 0},
            "list_count_a": {"ordered": 3, "unordered": 1}, "list_count_b": {"ordered": 0, "unordered": 0},
            "bold_count_a": {"**": 2, "__": 0}, "bold_count_b": {"**": 0, "__": 1},
        },
    }  # fmt: skip
    battles, report = read_battles(put(tmp_path / "clean.json", json.dumps([row])), style=None)
    assert battles.style_names == ("tokens", "headers", "lists", "bold")
    assert battles.style.tolist() == [[[120, 40], [3, 0], [4, 0], [2, 1]]]
    assert battles.time.tolist() == [1696000000.5]
    assert battles.voter.names == ("arena_user_1",) and battles.prompt.names == ("q1",)
    assert report.columns == ("time", "voter", "prompt")
    chosen, _ = read_battles(tmp_path / "clean.json", where=("language", "english"))
    assert len(chosen) == 1


def test_kaggles_three_columns(tmp_path: Path) -> None:
    text = (
        "id,model_a,model_b,prompt,winner_model_a,winner_model_b,winner_tie\n"
        '1,x,y,"two\nlines, and a comma",1,0,0\n'
        "2,x,y,p,0,1,0\n3,x,y,p,0,0,1\n4,x,y,p,1,0,1\n"
    )
    battles, report = read_battles(put(tmp_path / "train.csv", text))
    assert battles.winner.tolist() == [MODEL_A, MODEL_B, TIE]
    assert report.bad[0].startswith(f"{tmp_path}/train.csv:6: not exactly one")  # the physical line


BAD_ROWS = {
    "x,y": "2 fields where the first line names 8",
    "x,y,,,,,,": "winner is empty",
    ",y,tie,,,,,": "model_a is empty",
    "x,x,tie,,,,,": "'x' against itself",
    "x,y,z,,,,,": "winner 'z' is none of",
    "x,y,tie,yesterday,,,,": "time 'yesterday' is neither seconds",
    "x,y,tie,,0,,,": "probability 0 is not in (0, 1]",
    "x,y,tie,,nan,,,": "probability 'nan' is no number",
    "x,y,tie,,many,,,": "probability 'many' is no number",
    "x,y,tie,,,,-1,2": "tokens_a -1 is below 0",
    "x,y,tie,,,,few,2": "tokens_a 'few' is no number",
    b"x\xff,y,tie,,,,1,2": "model_a is not valid UTF-8",
    b"x,y,tie,,,c\xff,1,2": "category is not valid UTF-8",
}


@pytest.mark.parametrize("row", BAD_ROWS)
def test_a_bad_row_is_named_and_kept_out(tmp_path: Path, row: str | bytes) -> None:
    head = b"model_a,model_b,winner,time,probability,category,tokens_a,tokens_b\n"
    good = b"x,y,tie,2026-01-02T03:04:05Z,0.5,c,1,2\n"
    line = row if isinstance(row, bytes) else row.encode()
    battles, report = read_battles(
        put(tmp_path / "b.csv", head + good + line + b"\n" + good), style=("tokens",)
    )
    assert len(battles) == 2 and report.bad_count == 1
    assert report.bad[0].startswith(f"{tmp_path}/b.csv:3: {BAD_ROWS[row]}")
    assert battles.time[0] == 1767323045.0


@pytest.mark.parametrize("line", ["{", "[1]", "7", '{"model_a": 3, "model_b": "y", "winner": "tie"}', "{}"])
def test_bad_lines_of_json(tmp_path: Path, line: str) -> None:
    good = '{"model_a": "x", "model_b": "y", "winner": "x"}\n'
    battles, report = read_battles(put(tmp_path / "b.jsonl", good + line + "\n" + good))
    assert len(battles) == 2 and report.bad_count == 1
    assert report.bad[0].startswith(f"{tmp_path}/b.jsonl:2: ")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("b.csv", b"", "is empty; its first line names the columns"),
        ("b.csv", b"model_a,model_b,winner\n", "holds no battles"),
        ("b.csv", b"model_a,model_b,winer\nx,y,x\n", ":1: no column 'winner'; did you mean winer?"),
        (
            "b.csv",
            b"model_a,model_b,winner\nx,y,w\n",
            "no battle that can be rated; the first bad row: .*b.csv:2",
        ),
        ("b.csv.gz", b"not gzip", "cannot be read to its end"),
        ("b.csv.gz", gzip.compress(PLAIN.encode() * 50)[:-20], "cannot be read to its end"),
        ("b.json", b"{}", "holds no JSON array"),
        ("b.json", b'[\n{"model_a" 3}]', "b.json:2: not valid JSON"),
        ("b.jsonl", b"", "holds no battles"),
        ("b.csv", bytes(range(256)), "no column 'model_a'"),
    ],
)
def test_a_file_without_a_good_row_is_one_line(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        read_battles(put(tmp_path / name, content))
    assert "\n" not in str(caught.value)


def test_no_file_a_directory_and_an_unknown_category(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        read_battles(tmp_path / "none.csv")
    with pytest.raises(InputError, match="is a directory"):
        read_battles(tmp_path)
    path = put(tmp_path / "b.csv", "model_a,model_b,winner,category\nx,y,x,coding\nx,y,y,maths\n")
    assert len(read_battles(path, where=("category", "Coding"))[0]) == 1
    with pytest.raises(InputError, match="no battle with category 'code'; did you mean coding"):
        read_battles(path, where=("category", "code"))
    with pytest.raises(
        InputError, match="no column 'language', which --category asks for; there are model_a"
    ):
        read_battles(path, where=("language", "German"))


def test_a_field_of_ten_megabytes_is_read(tmp_path: Path) -> None:
    text = "model_a,model_b,winner,prompt\nx,y,x," + "a" * 10_000_000 + "\n"
    assert len(read_battles(put(tmp_path / "b.csv", text))[0]) == 1


names = st.text(
    st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=8
).filter(lambda text: text == text.strip() and text not in {"", *WINNERS})  # fmt: skip


@settings(max_examples=25)  # each is a file made safe on the disk
@given(
    st.lists(
        st.tuples(
            st.lists(names, min_size=2, max_size=2, unique=True),
            st.sampled_from(WINNERS),
            st.none() | st.floats(-1e12, 1e12),
            st.none() | st.floats(1e-9, 1),
            st.just("") | names,
            st.integers(0, 10**6),
        ),
        min_size=1,
        max_size=8,
    )
)
def test_what_is_written_is_read_back(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[tuple[list[str], str, float | None, float | None, str, int]],
) -> None:
    battles = Battles.from_rows(
        Battle(model_a=pair[0], model_b=pair[1], winner=winner, time=time, probability=probability,  # type: ignore[arg-type]
               voter=word, category=word, prompt=word, style=(("tokens", count, count + 1),))
        for pair, winner, time, probability, word, count in rows
    )  # fmt: skip
    path = tmp_path_factory.mktemp("written") / "b.csv"
    write_battles(battles, path)
    again, report = read_battles(path, style=("tokens",))
    assert report.bad == []
    assert again.digest == battles.digest
