"""Readers: every kind of file, and every kind of damage, each with its file and line."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from whorl.base.errors import InputError
from whorl.base.nouns import ImagePart
from whorl.data import Document, ReadConfig, Reject, read
from whorl.data.readers import Piece, SourceFile, discover, read_piece
from whorl.data.readers.jsonlines import read_json
from whorl.data.scan import scan

SHARED = Path(os.environ.get("WHORL_TEST_DATA") or Path(__file__).resolve().parents[2] / "../shared/data")


def shared(name: str) -> Path:
    if not (SHARED / name).exists():
        pytest.skip(f"{name} is not in {SHARED}")
    return SHARED / name


def write(path: Path, data: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def split(items: Any) -> tuple[list[Document], list[Reject]]:
    found = list(items)
    return [i for i in found if isinstance(i, Document)], [i for i in found if isinstance(i, Reject)]


def one_reject(path: Path, config: ReadConfig | None = None) -> Reject:
    documents, rejects = split(read(path, config))
    assert not documents
    (reject,) = rejects
    return reject


def png(size: tuple[int, int] = (5, 4), kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    pixels = random.Random(0).randbytes(size[0] * size[1] * 3)
    Image.frombytes("RGB", size, pixels).save(buffer, kind)
    return buffer.getvalue()


def jsonl(rows: list[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


# -- whole files ----------------------------------------------------------------------------------


def test_text_markdown_and_code(tmp_path: Path) -> None:
    write(tmp_path / "in/a.txt", b"\xef\xbb\xbfone\r\ntwo\rthree\n")
    write(tmp_path / "in/b.md", "intro\n# The title #\nbody\n")
    write(tmp_path / "in/sub/c.py", "print('x')\n")
    write(tmp_path / "in/README", "hello\n")
    documents, rejects = split(read(tmp_path / "in"))
    assert not rejects
    told = [(d.meta["path"], d.kind, d.title, d.text) for d in documents]
    assert told == [
        ("in/README", "text", "README", "hello\n"),
        ("in/a.txt", "text", "a", "one\ntwo\nthree\n"),
        ("in/b.md", "markdown", "The title", "intro\n# The title #\nbody\n"),
        ("in/sub/c.py", "code", "c.py", "print('x')\n"),
    ]
    assert documents[1].source == (tmp_path / "in/a.txt").as_posix()


@pytest.mark.parametrize(
    ("name", "data", "reason", "line"),
    [
        ("a.txt", b"", "empty-file", 0),
        ("a.txt", b" \n\t\n", "empty-text", 0),
        ("a.txt", b"one\ntw\xe4\n", "encoding", 2),
        ("a.txt", "text".encode("utf-16"), "encoding", 1),
        ("a.txt", b"one\ntwo\n\0", "nul", 3),
        ("a.txt", b"x" * 2001, "over-limit", 0),
        ("a.txt.gz", gzip.compress(b"word " * 300, mtime=0)[:-9], "truncated", 0),
        ("a.txt.gz", b"not gzip at all", "corrupt", 0),
        ("a.txt.zst", zstandard.compress(random.Random(0).randbytes(1500))[:-20], "truncated", 0),
        ("a.txt.gz", gzip.compress(b"x" * 3000, mtime=0), "over-limit", 0),
        ("a.jsonl", b"", "empty-file", 0),
        ("a.json", b" ", "empty-file", 0),
        ("a.csv", b"", "empty-file", 0),
        ("a.csv", b"x,y\n1,2\n", "missing-text", 1),
        ("a.parquet", b"PAR1 and nothing of the kind", "corrupt", 0),
    ],
)
def test_a_damaged_file_is_one_reject_with_its_place(
    tmp_path: Path, name: str, data: bytes, reason: str, line: int
) -> None:
    reject = one_reject(write(tmp_path / name, data), ReadConfig(max_file_bytes=2000, keep_reject_bytes=100))
    assert (reject.reason, reject.line) == (reason, line)
    assert reject.source == (tmp_path / name).as_posix()
    assert reject.detail and "\n" not in str(reject)
    assert reject.data == data[: len(reject.data)] or name.endswith((".gz", ".zst"))
    assert len(reject.data) <= 100


def test_an_unreadable_file_is_a_reject(tmp_path: Path) -> None:
    piece = Piece(file=SourceFile(path=str(tmp_path / "gone.txt"), label="gone.txt", format="text"))
    ((reject),) = read_piece(piece, ReadConfig())
    assert isinstance(reject, Reject) and reject.reason == "unreadable"


# -- JSON lines -----------------------------------------------------------------------------------


def test_every_broken_line_is_reported_and_the_rest_goes_on(tmp_path: Path) -> None:
    lines = [
        b'\xef\xbb\xbf{"text": "first\\r\\nline", "n": 1}\r',  # 1: BOM and CRLF are no fault
        b"",  # 2: a blank line is no record
        b"{broken",  # 3
        b'{"text": "\xff"}',  # 4
        b"[1, 2]",  # 5
        b'{"text": "\\ud800"}',  # 6: half a surrogate pair
        b'{"text": 7}',  # 7
        b'{"other": "x"}',  # 8
        b'{"text": "  "}',  # 9
        b'{"text": "a\\u0000"}',  # 10
        b'{"text": "' + b"x" * 400 + b'"}',  # 11: over the limit
        b"[" * 100_000,  # 12: over the limit, and deep
        b'{"text": "last", "t": "\\udc00"}',  # 13
        b'{"text": "last"}',  # 14, without a newline
    ]
    path = write(tmp_path / "a.jsonl", b"\n".join(lines))
    documents, rejects = split(read(path, ReadConfig(max_record_bytes=300)))
    assert [(d.line, d.text) for d in documents] == [(1, "first\nline"), (14, "last")]
    assert documents[0].meta == {"n": 1}
    assert [(r.line, r.reason) for r in rejects] == [
        (3, "broken-json"), (4, "encoding"), (5, "not-a-record"), (6, "encoding"), (7, "missing-text"),
        (8, "missing-text"), (9, "empty-text"), (10, "nul"), (11, "over-limit"), (12, "over-limit"),
        (13, "encoding"),
    ]  # fmt: skip
    for reject in rejects:
        assert lines[reject.line - 1].startswith(reject.data.rstrip(b"\n")), reject
        assert reject.size == len(lines[reject.line - 1]) + 1


def test_deep_nesting_is_a_reject(tmp_path: Path) -> None:
    assert one_reject(write(tmp_path / "a.jsonl", b"[" * 100_000)).reason == "broken-json"
    assert one_reject(write(tmp_path / "a.json", b"[" * 100_000)).reason == "broken-json"


@pytest.mark.parametrize("compress", [gzip.compress, zstandard.compress], ids=["gz", "zst"])
def test_a_cut_archive_gives_what_is_before_the_cut(tmp_path: Path, compress: Any) -> None:
    raw = shared("gsm8k-test.jsonl").read_bytes()
    suffix = ".gz" if compress is gzip.compress else ".zst"
    config = ReadConfig(text_fields=("question", "answer"))
    whole, _ = split(read(shared("gsm8k-test.jsonl"), config))
    packed = compress(raw)
    double = write(tmp_path / f"double.jsonl{suffix}", packed + packed)  # archives one after another
    assert [d.text for d in split(read(double, config))[0]] == [d.text for d in whole] * 2
    cut = write(tmp_path / f"cut.jsonl{suffix}", packed[: len(packed) * 2 // 3])
    documents, rejects = split(read(cut, config))
    assert 100 < len(documents) < len(whole)
    assert [d.text for d in documents] == [d.text for d in whole[: len(documents)]]
    (reject,) = rejects
    assert (reject.reason, reject.line) == ("truncated", len(documents) + 1)
    assert raw.split(b"\n")[len(documents)].startswith(reject.data)


def test_a_flipped_byte_in_an_archive_is_found(tmp_path: Path) -> None:
    packed = bytearray(shared("humaneval.jsonl.gz").read_bytes())
    packed[len(packed) // 2] ^= 0x10
    documents, rejects = split(
        read(write(tmp_path / "a.jsonl.gz", bytes(packed)), ReadConfig(text_fields=("prompt",)))
    )
    assert len(documents) < 164
    assert rejects[-1].reason == "corrupt"


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=30), max_size=30),
    blanks=st.booleans(),
    end=st.booleans(),
    piece=st.integers(1, 200),
)  # fmt: skip
def test_pieces_of_a_file_give_what_the_whole_gives(
    tmp_path_factory: pytest.TempPathFactory, rows: list[str], blanks: bool, end: bool, piece: int
) -> None:
    path = tmp_path_factory.mktemp("pieces") / "a.jsonl"
    lines = [json.dumps({"text": row}, ensure_ascii=False) for row in rows]
    text = ("\n\n" if blanks else "\n").join([*lines, "{broken"]) + ("\n" if end else "")
    path.write_text(text, encoding="utf-8", newline="")
    file = SourceFile(path=str(path), label="a.jsonl", format="jsonl")
    scanned = scan((file, piece))
    config = ReadConfig()
    parts = [item for part, _ in scanned.pieces for item in read_piece(part, config)]
    assert parts == list(read_piece(Piece(file=file), config))
    assert sum(size for _, size in scanned.pieces) == path.stat().st_size


# -- JSON -----------------------------------------------------------------------------------------

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=100, deadline=None)
@given(values=st.lists(VALUES, max_size=8), indent=st.sampled_from([None, 1]), block=st.integers(1, 40))
def test_json_arrays_are_streamed_as_json_reads_them(
    tmp_path_factory: pytest.TempPathFactory, values: list[Any], indent: int | None, block: int
) -> None:
    from whorl.data.readers import jsonlines

    records = [{"text": "x", "value": value} for value in values]
    path = tmp_path_factory.mktemp("json") / "a.json"
    path.write_text(json.dumps(records, indent=indent), encoding="utf-8")
    old = jsonlines._BLOCK
    jsonlines._BLOCK = block
    try:
        documents, rejects = split(
            read_json(SourceFile(path=str(path), label="a", format="json"), ReadConfig())
        )
    finally:
        jsonlines._BLOCK = old
    assert [d.meta["value"] for d in documents] == json.loads(json.dumps(values))
    assert len(rejects) == (not values)


def test_json_in_its_other_forms(tmp_path: Path) -> None:
    single, _ = split(read(write(tmp_path / "a.json", '{"text": "one"}')))
    assert [d.text for d in single] == ["one"]
    row, _ = split(read(write(tmp_path / "b.json", '{"text": "one"}\n{\n"text": "two"}')))
    assert [(d.text, d.line) for d in row] == [("one", 1), ("two", 2)]


def test_past_a_broken_record_the_rest_of_an_array_is_one_reject(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", '[{"text": "one"},\n{"text" "two"},\n{"text": "three"}]')
    documents, rejects = split(read(path))
    assert [d.text for d in documents] == ["one"]
    (reject,) = rejects
    assert (reject.reason, reject.line) == ("broken-json", 2)
    assert reject.data == b'{"text" "two"},\n{"text": "three"}]' and reject.size == len(reject.data)


# -- tables ---------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(
        st.tuples(st.text(alphabet='a,"\n;é ', min_size=1, max_size=8), st.text(alphabet='b"\n', max_size=5)),
        max_size=10,
    )
)
def test_csv_is_read_as_the_csv_module_writes_it(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]]
) -> None:
    path = tmp_path_factory.mktemp("csv") / "a.csv"
    with open(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("text", "more"), *rows])
    documents, rejects = split(read(path))
    assert [(d.text, d.meta["more"]) for d in documents] == [row for row in rows if row[0].strip()]
    assert {r.reason for r in rejects} <= {"empty-text"}
    assert len(documents) + len(rejects) == len(rows)


def test_broken_rows_of_a_csv(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tsv", b'text\tn\n"two\nlines"\t1\nshort\n\xff\t2\n"un"balanced\t3\nlast\t4\n')
    documents, rejects = split(read(path))
    assert [(d.text, d.line) for d in documents] == [("two\nlines", 2), ("last", 7)]
    assert [(r.reason, r.line, r.data) for r in rejects] == [
        ("broken-csv", 4, b"short\n"),
        ("encoding", 5, b"\xff\t2\n"),
        ("broken-csv", 6, b'"un"balanced\t3\n'),
    ]


def test_a_real_csv(tmp_path: Path) -> None:
    path = shared("earthquakes-23k.csv")
    assert "Latitude" in one_reject(path).detail
    documents, rejects = split(read(path, ReadConfig(text_fields=("Date", "Magnitude"))))
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    assert not rejects and len(documents) == len(rows)
    assert documents[-1].text == f"{rows[-1]['Date']}\n\n{rows[-1]['Magnitude']}"


def test_parquet_by_row_groups(tmp_path: Path) -> None:
    rows = [{"text": f"row {n}", "n": n, "when": None} for n in range(1000)]
    path = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=90)
    whole, rejects = split(read(path))
    assert not rejects and [d.text for d in whole] == [row["text"] for row in rows]
    file = SourceFile(path=str(path), label="a.parquet", format="parquet")
    scanned = scan((file, 2000))
    assert len(scanned.pieces) > 3
    assert [d for part, _ in scanned.pieces for d in read_piece(part, ReadConfig())] == whole
    path.write_bytes(path.read_bytes()[:-100])
    assert one_reject(path).reason == "corrupt"


# -- images ---------------------------------------------------------------------------------------


def test_images_in_all_their_forms(tmp_path: Path) -> None:
    data, jpeg = png(), png((7, 3), "JPEG")
    write(tmp_path / "pictures/a.png", data)
    rows = [
        {"text": "path", "image": "pictures/a.png"},
        {"text": "uri", "image": ImagePart(data=jpeg).to_data_uri()},
        {"text": "", "images": ["pictures/a.png", {"path": "pictures/a.png"}]},
    ]
    documents, rejects = split(read(write(tmp_path / "a.jsonl", jsonl(rows))))
    assert not rejects
    assert [[i.data for i in d.images] for d in documents] == [[data], [jpeg], [data, data]]
    assert documents[1].images[0].media_type == "image/jpeg"
    assert {d.kind for d in documents} == {"image-text"}
    assert "image" not in documents[0].meta
    table = pa.Table.from_pylist([{"text": "bytes", "image": {"bytes": data, "path": "x"}, "images": [jpeg]}])
    pq.write_table(table, tmp_path / "b.parquet")
    (document,), _ = split(read(tmp_path / "b.parquet"))
    assert [i.data for i in document.images] == [data, jpeg]


def test_images_that_cannot_be_read(tmp_path: Path) -> None:
    write(tmp_path / "outside.png", png())
    folder = tmp_path / "in"
    write(folder / "cut.jpg", png((200, 200), "JPEG")[:-500])
    write(folder / "huge.png", png((300, 300)))
    rows = [
        {"text": "x", "image": "cut.jpg"},
        {"text": "x", "image": "missing.png"},
        {"text": "x", "image": "../outside.png"},
        {"text": "x", "image": str(tmp_path / "outside.png")},
        {"text": "x", "image": "https://example.org/a.png"},
        {"text": "x", "image": "data:image/png;base64,????"},
        {"text": "x", "image": 3},
        {"text": "x", "image": "huge.png"},
    ]
    documents, rejects = split(
        read(write(folder / "a.jsonl", jsonl(rows)), ReadConfig(max_image_pixels=50_000))
    )
    assert not documents
    cut = [r for r in rejects if r.reason == "image"]
    remedies = ("decoded", "missing.png", "outside", "outside", "web", "base64", "neither", "pixels")
    assert [r.line for r in cut] == list(range(1, 9))
    for part, reject in zip(remedies, cut, strict=True):
        assert part in reject.detail, reject


# -- conversations --------------------------------------------------------------------------------


def test_conversations_pass_as_documents(tmp_path: Path) -> None:
    path = shared("conversations.json")
    documents, rejects = split(read(path))
    raw = json.loads(path.read_text(encoding="utf-8"))
    assert not rejects and len(documents) == len(raw)
    assert {d.kind for d in documents} == {"conversation"}
    for document, record in zip(documents, raw, strict=True):
        assert document.meta == record
        assert all(turn["value"].replace("\r\n", "\n") in document.text for turn in record["conversations"])
    odd = write(
        tmp_path / "a.jsonl", jsonl([{"messages": [{"role": "user", "content": [{"type": "text"}]}]}])
    )
    assert one_reject(odd).reason == "conversation-form"


# -- finding files --------------------------------------------------------------------------------


def test_nothing_is_passed_over_in_silence(tmp_path: Path) -> None:
    root = tmp_path / "in"
    for name in (
        "b.txt",
        "a.txt",
        "sub/z.md",
        "sub/.hidden/x.txt",
        ".git/config",
        "x.bin",
        "skip.txt",
        "p.png",
    ):
        write(root / name, "text")
    (root / "loop").symlink_to(root)
    (root / "broken.txt").symlink_to(root / "nowhere")
    found = list(discover([root, root / "a.txt"], ReadConfig(exclude=("skip*",))))
    labels = [entry.label for entry in found if isinstance(entry, SourceFile)]
    assert labels == ["in/a.txt", "in/b.txt", "in/sub/z.md"]
    reasons = {r.source.removeprefix(f"{root.as_posix()}/"): r.reason for r in found if isinstance(r, Reject)}
    assert reasons == {
        ".git": "hidden", "sub/.hidden": "hidden", "broken.txt": "not-a-file", "loop": "linked-folder",
        "p.png": "unknown-format", "skip.txt": "excluded", "x.bin": "unknown-format", "a.txt": "listed-twice",
    }  # fmt: skip


def test_globs_and_outright_names(tmp_path: Path) -> None:
    for name in ("x/b.txt", "x/y/a.txt", "x/c.odd"):
        write(tmp_path / name, f"text of {name}")
    documents, _ = split(read(str(tmp_path / "**/*.txt")))
    assert [d.meta["path"] for d in documents] == ["b.txt", "a.txt"]
    named, _ = split(read(tmp_path / "x/c.odd"))  # an unknown ending, but named: text
    assert named[0].text == "text of x/c.odd"
    included, rejects = split(read(tmp_path / "x", ReadConfig(include=("*.txt",))))
    assert len(included) == 2 and [r.reason for r in rejects] == ["not-included"]
    for missing in ("nowhere.txt", "*.nothing"):
        with pytest.raises(InputError, match=r"nowhere|nothing"):
            list(read(tmp_path / missing))


def test_ids_outlive_a_moved_folder(tmp_path: Path) -> None:
    write(tmp_path / "one/in/a.txt", "text")
    write(tmp_path / "two/in/a.txt", "text")
    (first,), (second,) = split(read(tmp_path / "one/in"))[0], split(read(tmp_path / "two/in"))[0]
    assert first.id == second.id and first.source != second.source
    both, _ = split(read([tmp_path / "one/in", tmp_path / "two/in"]))
    assert len({d.id for d in both}) == 2  # two folders of one name in one run


def test_real_files_read_as_they_are() -> None:
    for name in ("tinyshakespeare.txt", "wikitext2-valid.txt"):
        (document,), rejects = split(read(shared(name)))
        assert not rejects
        assert document.text == shared(name).read_bytes().decode("utf-8")
    documents, rejects = split(
        read(shared("gsm8k-train.jsonl"), ReadConfig(text_fields=("question", "answer")))
    )
    rows = [json.loads(line) for line in shared("gsm8k-train.jsonl").read_text(encoding="utf-8").splitlines()]
    assert not rejects
    assert [d.text for d in documents] == [f"{row['question']}\n\n{row['answer']}" for row in rows]
    assert len({d.id for d in documents}) == len(rows)
