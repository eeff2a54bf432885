"""Files that are whole or not there: atomic writes, hashes, JSON lines with a torn end.

Whole files go through a temporary file in the same folder, fsync and rename; append-only files
get one flushed line a record, and a line cut short by a crash is dropped on the next open.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from whorl.base.errors import DataError, InputError
from whorl.base.posix import fsync_directory

CHUNK = 1 << 20


@contextmanager
def atomic_write(path: str | Path, mode: str = "w", *, sync: bool = True) -> Iterator[IO[Any]]:
    """Open a temporary file that becomes `path` when the block ends well and vanishes otherwise.

    `mode` is "w" (UTF-8 text, newlines as written) or "wb". With `sync` the bytes are on disk
    before the name is.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    text = {} if "b" in mode else {"encoding": "utf-8", "newline": "\n"}
    try:
        with os.fdopen(handle, mode, **text) as file:  # type: ignore[call-overload]
            yield file
            file.flush()
            if sync:
                os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    if sync:
        fsync_directory(path.parent)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically."""
    with atomic_write(path) as file:
        json.dump(value, file, ensure_ascii=False, indent=2)
        file.write("\n")


def read_json(path: str | Path, *, what: str = "JSON file") -> Any:
    """Read a JSON file; a missing or broken one is an error that names it."""
    path = Path(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{what} {path} does not exist") from error
    except OSError as error:
        raise InputError(f"{what} {path} cannot be read: {error.strerror}") from error
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DataError(f"{what} {path} is not valid JSON: {error}") from error
    except RecursionError as error:
        raise DataError(f"{what} {path} is nested too deeply to be read") from error


def sha256_file(path: str | Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(CHUNK):
            digest.update(block)
    return digest.hexdigest()


def sha256_input(path: str | Path) -> str:
    """Of a file's content, or of all files' below a folder: what a run notes of what it read."""
    place = Path(path)
    files = sorted(file for file in place.rglob("*") if file.is_file()) if place.is_dir() else [place]
    return sha256_json([sha256_file(file) for file in files])


def sha256_json(value: Any) -> str:
    """SHA-256 of a value's canonical JSON (sorted keys, no spaces): the same on every machine."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


class JsonLines:
    """An append-only file of one JSON object a line, flushed a line at a time.

    Opening cuts a torn last line (a crash in mid-write) and reports its length in `torn_bytes`.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.torn_bytes = _cut_torn_line(self.path)
        self._file = open(self.path, "a", encoding="utf-8", newline="\n")

    def append(self, record: dict[str, Any], *, sync: bool = False) -> None:
        self._file.write(json.dumps(record, ensure_ascii=False) + "\n")
        self._file.flush()
        if sync:
            os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


def _cut_torn_line(path: Path) -> int:
    if not path.exists():
        return 0
    with open(path, "rb+") as file:
        size = file.seek(0, os.SEEK_END)
        keep = size
        while keep > 0:  # walk back to just after the last newline
            start = max(0, keep - CHUNK)
            file.seek(start)
            newline = file.read(keep - start).rfind(b"\n")
            if newline >= 0:
                keep = start + newline + 1
                break
            keep = start
        if keep < size:
            file.truncate(keep)
        return size - keep


def read_jsonl(path: str | Path) -> Iterator[dict[str, Any]]:
    """The records of a JSON-lines file of ours; a torn last line is passed over, any other
    broken line raises `DataError` with its number."""
    with open(path, "rb") as file:  # a torn line may end inside a character
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                return
            try:
                yield json.loads(line)
            except (json.JSONDecodeError, UnicodeDecodeError) as error:
                raise DataError(f"{path}:{number}: not valid JSON: {error}") from error
