"""Files that are whole or not there, and lines that survive a crash."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whorl.base.errors import DataError, InputError
from whorl.base.files import (
    JsonLines,
    atomic_write,
    read_json,
    read_jsonl,
    sha256_file,
    sha256_json,
    write_json,
)


def test_a_failed_write_leaves_the_old_file_and_no_rubbish(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), atomic_write(path) as file:
        file.write("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_written_file_has_the_rights_of_any_other(tmp_path: Path) -> None:
    with atomic_write(tmp_path / "a", "wb") as file:
        file.write(b"1")
    (tmp_path / "b").write_bytes(b"1")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode


@given(
    records=st.lists(st.dictionaries(st.text(max_size=5), st.text(max_size=30)), max_size=5),
    cut=st.integers(0, 200),
)
def test_a_torn_file_keeps_every_whole_line(
    tmp_path_factory: pytest.TempPathFactory, records: list[dict[str, str]], cut: int
) -> None:
    """Cut anywhere: the lines before the cut are all there, and new ones follow cleanly."""
    path = tmp_path_factory.mktemp("torn") / "a.jsonl"
    file = JsonLines(path)
    for record in records:
        file.append(record)
    file.close()
    whole = path.read_bytes()
    kept = whole[: min(cut, len(whole))]
    path.write_bytes(kept)
    expected = [json.loads(line) for line in kept.split(b"\n")[:-1]]
    assert list(read_jsonl(path)) == expected
    again = JsonLines(path)
    assert again.torn_bytes == len(kept.split(b"\n")[-1])
    again.append({"new": "1"})
    again.close()
    assert list(read_jsonl(path)) == [*expected, {"new": "1"}]


def test_every_appended_line_survives_kill_9(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    code = (
        "import sys; from whorl.base.files import JsonLines\n"
        f"f = JsonLines({str(path)!r})\n"
        "n = 0\n"
        "while True:\n"
        "    f.append({'n': n}); n += 1\n"
        "    print(n, flush=True)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    told = 0
    while told < 200:
        told = int(process.stdout.readline())
    process.send_signal(signal.SIGKILL)
    process.wait()
    found = [record["n"] for record in read_jsonl(path)]
    assert found == list(range(len(found)))
    assert len(found) >= told


def test_a_broken_line_inside_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"a": 1}\n{broken\n{"a": 2}\n')
    with pytest.raises(DataError, match=r"a\.jsonl:2"):
        list(read_jsonl(tmp_path / "a.jsonl"))


def test_hashes_are_those_of_the_bytes(tmp_path: Path) -> None:
    data = os.urandom(3_000_000)
    (tmp_path / "a").write_bytes(data)
    assert sha256_file(tmp_path / "a") == hashlib.sha256(data).hexdigest()
    assert sha256_json({"b": 1, "a": "é"}) == hashlib.sha256('{"a":"é","b":1}'.encode()).hexdigest()


def test_json_files_come_back_and_say_what_is_wrong(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"ä": [1, None]})
    assert read_json(tmp_path / "a.json") == {"ä": [1, None]}
    with pytest.raises(InputError, match=r"manifest .*none\.json does not exist"):
        read_json(tmp_path / "none.json", what="manifest")
    (tmp_path / "b.json").write_text("{")
    with pytest.raises(DataError, match="not valid JSON"):
        read_json(tmp_path / "b.json")
