"""Files of keys: what one part of Whorl takes for a key, every other one does."""

from __future__ import annotations

from pathlib import Path

import pytest

from whorl.base.errors import InputError
from whorl.base.keys import read_key, read_keys
from whorl.cli.places import Place


def test_one_key_a_line_and_the_first_is_sent(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("# the studio's, since May\n\n  secret-1  \nsecret-2\n", encoding="utf-8-sig")
    assert read_keys(str(file), "--api-key-file") == ("secret-1", "secret-2")
    assert read_key(str(file), "--api-key-file") == "secret-1"
    assert Place.of("http://127.0.0.1:9", key_file=str(file), option="--api-key-file").key == "secret-1"
    assert read_keys(None, "--api-key-file") == () and read_key(None, "--api-key-file") == ""


@pytest.mark.parametrize("text", [None, b"", b"# a comment alone\n", b"\xff\xfe\x00"])
def test_a_file_without_a_key_is_named_with_its_option(tmp_path: Path, text: bytes | None) -> None:
    file = tmp_path / "keys"
    if text is not None:
        file.write_bytes(text)
    with pytest.raises(InputError, match=f"--judge-key-file {file} (cannot be read|holds no key)"):
        read_key(str(file), "--judge-key-file")
