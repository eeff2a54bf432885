from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from whorl.base.errors import DataError, InputError
from whorl.text.bpe import SPECIALS, train_bpe
from whorl.text.tokenizer import Tokenizer

CODE = "def f(x):\n    if x > 10:\n        return 123\n\n    return None\n" * 20


def spelled(tokenizer: Tokenizer, text: str) -> list[str]:
    return [tokenizer.decode([number]) for number in tokenizer.encode(text)]


def test_specials_come_first_then_bytes() -> None:
    made = train_bpe([CODE], 300)
    assert [made.token_of(number) for number in range(len(SPECIALS))] == list(SPECIALS)
    assert all(made.decode(made.encode(chr(code))) == chr(code) for code in range(0x250))
    assert [made.token_of(number) for number in made.end_ids] == ["<|im_end|>", "<|endoftext|>"]


def test_digits_stand_alone_and_indentation_goes_with_its_newline() -> None:
    made = train_bpe([CODE], 400)
    assert [piece for piece in spelled(made, "x = 123") if piece.isdigit()] == ["1", "2", "3"]
    assert "\n        " in spelled(made, "if x:\n        return")
    assert "\n\n    " in spelled(made, "1\n\n    return")


def test_same_texts_same_tokenizer_in_another_process() -> None:
    learn = "train_bpe(sys.stdin.read().split('|'), 350)"
    script = f"import sys; from whorl.text import train_bpe; print({learn}.hash)"
    texts = [CODE, "the quick brown fox " * 30, "été 日本 " * 9]
    hashes = {train_bpe(texts, 350).hash}
    for threads in ("1", "4"):
        done = subprocess.run(
            [sys.executable, "-c", script],
            input="|".join(texts),
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "RAYON_NUM_THREADS": threads, "PYTHONHASHSEED": threads, "PYTHONUTF8": "1"},
        )
        hashes.add(done.stdout.strip())
    assert len(hashes) == 1


def test_few_texts_make_fewer_tokens() -> None:
    assert len(SPECIALS) + 256 <= train_bpe(["ab ab"], 5000).vocab_size < 300


def test_bad_input_is_named() -> None:
    with pytest.raises(InputError, match=r"vocab_size 200 is too small.*need 266"):
        train_bpe(["x"], 200)
    with pytest.raises(DataError, match="no text to learn"):
        train_bpe([], 300)
    with pytest.raises(DataError, match="no text to learn"):
        train_bpe(["", ""], 300)
    with pytest.raises(InputError, match="distinct"):
        train_bpe(["x"], 300, ["<a>", "<a>"])


def whorl(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "whorl", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_command_trains_on_a_folder_and_says_what_it_left_out(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.py").write_text(CODE)
    (tmp_path / "in" / "b.jsonl").write_text(json.dumps({"text": "hello world " * 20}) + "\n")
    (tmp_path / "in" / "broken.txt").write_bytes(b"\xff\xfe\x00")
    words = ["tokenizer", "train", str(tmp_path / "in"), "--out", str(tmp_path / "out")]
    done = whorl(*words, "--vocab-size", "300", "--json")
    assert done.returncode == 0, done.stderr
    made = json.loads(done.stdout)
    assert made["documents"] == 2
    assert made["rejects"] == 1
    assert "broken.txt" in done.stderr
    assert Tokenizer.load(tmp_path / "out").hash == made["hash"]


def test_command_refuses_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("hello")
    done = whorl("tokenizer", "train", str(tmp_path), "--out", str(tmp_path / "out"), "--vocab-size", "3")
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()
