"""Files of battles as people have them: FastChat's, Kaggle's, plain ones, and broken ones."""

from __future__ import annotations

import gzip
import json
import os
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
    assert report.bad[0].startswith(f"{tmp_path}/b.csv:6: winner 'X' is not model_a, model_b, tie, ")


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
    "x,y": "2 fields, but the first line names 8",
    "x,y,,,,,,": "winner is empty",
    ",y,tie,,,,,": "model_a is empty",
    "x,x,tie,,,,,": "'x' paired with itself",
    "x,y,z,,,,,": "winner 'z' is not model_a",
    "x,y,tie,yesterday,,,,": "time 'yesterday' is neither seconds",
    "x,y,tie,,0,,,": "probability 0 is not in (0, 1]",
    "x,y,tie,,nan,,,": "probability 'nan' is not a number",
    "x,y,tie,,many,,,": "probability 'many' is not a number",
    "x,y,tie,,,,-1,2": "tokens_a -1 is below 0",
    "x,y,tie,,,,few,2": "tokens_a 'few' is not a number",
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
        ("b.csv", b"", "is empty; its first line must name the columns"),
        ("b.csv", b"model_a,model_b,winner\n", "has no battles"),
        ("b.csv", b"model_a,model_b,winer\nx,y,x\n", ":1: no column 'winner'; did you mean winer?"),
        (
            "b.csv",
            b"model_a,model_b,winner\nx,y,w\n",
            "no battles that can be rated; the first bad row: .*b.csv:2",
        ),
        ("b.csv.gz", b"not gzip", "cannot be read to the end"),
        ("b.csv.gz", gzip.compress(PLAIN.encode() * 50, mtime=0)[:-20], "cannot be read to the end"),
        ("b.json", b"{}", "is not a JSON array"),
        ("b.json", b'[\n{"model_a" 3}]', "b.json:2: not valid JSON"),
        ("b.jsonl", b"", "has no battles"),
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
    with pytest.raises(InputError, match="no column 'language', which --category needs; choose from model_a"):
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


HEAD = "model_a,model_b,winner,prompt\n"
MANY = "x,y,model_b,p\n" * 500


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        (HEAD + "x,y,tie,p\n" + '"x,y,tie,p\n' + MANY, 3, "never closed"),
        (HEAD + 'x,y,tie,"p\n' + MANY, 2, "never closed"),
        (HEAD + 'x,y,tie,"two\n""lines"""\nx,y,tie,"p\n' + MANY, 4, "never closed"),
        (HEAD + '"x",y,"tie","two\nlines\nand ""more' + "\n" + MANY, 2, "never closed"),
        (HEAD.replace("prompt", '"prompt') + MANY, 1, "never closed"),
        # another row's quote closes it: what stands between is no field
        (HEAD + 'x,y,tie,"p\n' + MANY + 'x,y,tie,p"\n', 2, "lines 2 to 503 were read as one row"),
        (HEAD + '"x,y,tie,p\n' + MANY + '"x y",y,tie,p\n', 2, "lines 2 to 503"),
        (HEAD + 'x,y,"tie\n' + 'z",y,tie,p\n', 2, "lines 2 to 3"),
        (HEAD.replace("prompt", "voter") + 'x,y,tie,"me\nx,y,tie,me"\n', 2, "lines 2 to 3"),
    ],
)
def test_a_quote_that_is_left_open_loses_no_vote_in_silence(
    tmp_path: Path, text: str, line: int, words: str
) -> None:
    with pytest.raises(InputError, match=words) as caught:
        read_battles(put(tmp_path / "b.csv", text))
    assert str(caught.value).startswith(f"{tmp_path}/b.csv:{line}: a quote opens here")
    assert "\n" not in str(caught.value)


def test_quotes_that_are_closed(tmp_path: Path) -> None:
    text = (
        "id,prompt,model_a,model_b,winner\n"
        '1,"a table:\nid,winner\n1,""tie""\n\nwhat is it?","llama, 7b","qwen ""2""",model_a\n'
        '2,"ends in a line break\n","llama, 7b","qwen ""2""",tie\n'
        '3,5" nails,"llama, 7b","qwen ""2""","qwen ""2"""'
    )
    battles, report = read_battles(put(tmp_path / "b.csv", text))
    assert battles.models == ("llama, 7b", 'qwen "2"') and not report.bad
    assert battles.winner.tolist() == [MODEL_A, TIE, MODEL_B]


GOOD = '{"model_a": "x", "model_b": "y", "winner": "x"'


def deep(levels: int) -> str:
    return "[" * levels + "]" * levels


@pytest.mark.parametrize(
    ("name", "row", "words"),
    [
        ("b.jsonl", '{"model_a": "x", "conv": ' + deep(100_000) + "}", "nested too deeply"),
        ("b.jsonl", '{"model_a": "x", "turn": ' + "9" * 5000 + "}", "a number of thousands of digits"),
        ("b.jsonl", GOOD + ', "tstamp": ' + "9" * 400 + "}", "time 99"),
        ("b.jsonl", GOOD + ', "probability": -' + "9" * 400 + "}", "probability -9"),
        ("b.csv", "x,y,tie," + "9" * 400, "time '99"),
    ],
)  # fmt: skip
def test_what_no_parser_takes_is_a_bad_row(tmp_path: Path, name: str, row: str, words: str) -> None:
    good = {"b.jsonl": GOOD + "}\n",
            "b.csv": "model_a,model_b,winner,time\nx,y,tie,5\n"}[name]  # fmt: skip
    battles, report = read_battles(put(tmp_path / name, good + row + "\n"))
    assert len(battles) == 1 and report.bad_count == 1 and words in report.bad[0]
    assert len(report.bad[0]) < 200 + len(str(tmp_path))


@pytest.mark.parametrize("value", [deep(100_000), "9" * 5000])
def test_what_no_parser_takes_in_an_array_is_one_line(tmp_path: Path, value: str) -> None:
    with pytest.raises(InputError, match=r"b\.json: JSON "):
        read_battles(put(tmp_path / "b.json", f"[{value}]"))


@pytest.mark.parametrize(
    "content",
    [
        ("\ufeff" + PLAIN).encode("utf-16-le"),
        PLAIN.encode("utf-16"),
        b"\n  \r\n" + PLAIN.encode(),
        PLAIN.replace("model_a,model_b,winner", "Model_A,MODEL_B,Winner").encode(),
        PLAIN.replace("winner\n", '"winner","the\nnote"\n').replace("x\n", "x,\n").encode(),
    ],
    ids=["utf-16", "utf-16 with its mark", "blank lines first", "capitals", "a header of two lines"],
)
def test_tables_as_spreadsheets_write_them(tmp_path: Path, content: bytes) -> None:
    battles, _ = read_battles(put(tmp_path / "b.csv", content))
    assert battles.models == ("x", "y") and battles.winner[0] == MODEL_A


@pytest.mark.skipif(not Path("/dev/fd").is_dir(), reason="pipes have no names here")
def test_a_pipe_is_read_once() -> None:
    reader, writer = os.pipe()
    os.write(writer, PLAIN.encode())
    os.close(writer)
    battles, _ = read_battles(f"/dev/fd/{reader}")
    os.close(reader)
    assert len(battles) == 4


def test_a_column_that_is_there_twice_is_refused_where_it_is_read(tmp_path: Path) -> None:
    text = "model_a,model_b,winner,note,note\nx,y,tie,1,2\n"
    assert len(read_battles(put(tmp_path / "b.csv", text))[0]) == 1
    with pytest.raises(InputError, match=r"b\.csv:1: column 'winner' appears twice"):
        read_battles(put(tmp_path / "b.csv", text.replace("note", "winner")))
    with pytest.raises(InputError, match="column 'note' appears twice"):
        read_battles(put(tmp_path / "b.csv", text), where=("note", "1"))


def test_an_object_of_battles_and_lines_in_a_json(tmp_path: Path) -> None:
    row = '{"model_a": "x", "model_b": "y", "winner": "x"}'
    assert len(read_battles(put(tmp_path / "b.json", f'{{"battles": [{row}], "n": 1}}'))[0]) == 1
    with pytest.raises(InputError, match=r"b\.json:2: .*use \.jsonl for one object per line"):
        read_battles(put(tmp_path / "b.json", f"{row}\n{row}\n"))


def test_votes_of_people_who_saw_the_names_are_left_out(tmp_path: Path) -> None:
    rows = [{"model_a": "x", "model_b": "y", "winner": "model_a", "anony": anony} for anony in (True, False)]
    battles, report = read_battles(put(tmp_path / "b.json", json.dumps(rows + rows[1:])))
    assert len(battles) == 1 and (report.good, report.named, report.bad_count) == (1, 2, 0)
    battles, report = read_battles(
        put(tmp_path / "b.csv", "model_a,model_b,winner,anony\nx,y,x,True\nx,y,y,False\n")
    )
    assert len(battles) == 1 and report.named == 1
    with pytest.raises(InputError, match="has no blind votes"):
        read_battles(put(tmp_path / "b.json", json.dumps(rows[1:])))
