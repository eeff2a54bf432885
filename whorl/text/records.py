"""Files of chats, record by record, each with its place for errors."""

from __future__ import annotations

import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from whorl.base.errors import DataError, InputError
from whorl.base.nouns import Conversation

CHUNK = 1 << 20
SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".json", ".json.gz", ".json.zst", ".parquet")


def read_conversations(
    path: str | Path, *, on_error: Callable[[DataError], None] | None = None
) -> Iterator[Conversation]:
    """The chats in a file of JSON lines, JSON or parquet (or in all such files below a directory).

    A record that is no chat raises DataError with file, place and field; with `on_error` it is
    handed there instead and reading goes on. A file that cannot be read further always raises.
    """
    from whorl.text.forms import read_conversation

    for file in record_files(Path(path)):
        for where, record in read_records(file):
            try:
                if isinstance(record, DataError):
                    raise record
                yield read_conversation(record, where, folder=file.parent)
            except DataError as error:
                if on_error is None:
                    raise
                on_error(error)


def read_records(path: Path) -> Iterator[tuple[str, Any]]:
    """(place, record) of every record; a line that is not JSON comes as the DataError saying so."""
    name = path.name.lower()
    if name.endswith(".parquet"):
        yield from _parquet(path)
        return
    try:
        with _open(path) as file:
            if ".jsonl" in name:
                yield from _lines(path, file)
            else:
                yield from _json(path, file)
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 ({error}); convert the file") from error
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        problem = f"compressed data is damaged or truncated ({error}); download it again"
        raise DataError(f"{path}: {problem}") from error


def record_files(path: Path, what: str = "chats") -> list[Path]:
    """The file, or all files of records below a directory; `InputError` where there is none of `what`."""
    if not path.exists():
        raise InputError(f"{path} does not exist; give a file or directory of {what}")
    if not path.is_dir():
        if not path.name.lower().endswith(SUFFIXES):
            raise InputError(f"{path}: {what} are read from {', '.join(SUFFIXES)}; convert or rename it")
        return [path]
    found = (file for file in path.rglob("*") if file.name.lower().endswith(SUFFIXES))
    files = sorted(file for file in found if file.is_file())
    if not files:
        raise InputError(f"{path} contains no file of {what} ({', '.join(SUFFIXES)})")
    return files


def _open(path: Path) -> IO[str]:
    name = path.name.lower()
    if name.endswith(".gz"):
        return gzip.open(path, "rt", encoding="utf-8-sig", newline="\n")
    if name.endswith(".zst"):
        return io.TextIOWrapper(io.BufferedReader(_Zstandard(path)), encoding="utf-8-sig", newline="\n")
    return open(path, encoding="utf-8-sig", newline="\n")


class _Zstandard(io.RawIOBase):
    """A .zst file's content. A frame cut short is an EOFError, as gzip's is; the library's own reader
    would end there in silence."""

    def __init__(self, path: Path) -> None:
        try:
            import zstandard
        except ImportError as error:
            raise InputError(f"{path}: reading .zst needs zstandard; install whorl[data]") from error
        self._error = zstandard.ZstdError
        self._new = zstandard.ZstdDecompressor().decompressobj
        self._file = open(path, "rb")
        self._frame = self._new()
        self._begun = False
        self._ready = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._ready:
            given = self._frame.unused_data if self._frame.eof else b""
            if self._frame.eof:
                self._frame, self._begun = self._new(), False
            given = given or self._file.read(CHUNK)
            if not given and self._begun:
                raise EOFError("the last zstandard frame is incomplete")
            if not given:
                return 0
            self._begun = True
            try:
                self._ready = self._frame.decompress(given)
            except self._error as error:
                raise EOFError(str(error)) from error
        size = min(len(buffer), len(self._ready))
        buffer[:size], self._ready = self._ready[:size], self._ready[size:]
        return size

    def close(self) -> None:
        self._file.close()
        super().close()


def _lines(path: Path, file: IO[str]) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(file, start=1):
        where = f"{path}:{number}"
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            record = DataError(f"{where}: not valid JSON ({error}); fix or drop the line")
        yield where, record


def _json(path: Path, file: IO[str]) -> Iterator[tuple[str, Any]]:
    try:
        value = json.load(file)
    except (json.JSONDecodeError, RecursionError) as error:
        problem = f"not valid JSON ({error}); use the suffix .jsonl for one record per line"
        raise DataError(f"{path}: {problem}") from error
    records = value if isinstance(value, list) else [value]
    for number, record in enumerate(records, start=1):
        yield f"{path}: record {number}", record


def _parquet(path: Path) -> Iterator[tuple[str, Any]]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise InputError(f"{path}: reading parquet needs the pyarrow package; install whorl[data]") from error
    number = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as table:
            for batch in table.iter_batches(batch_size=64):
                for record in batch.to_pylist():
                    number += 1
                    yield f"{path}: row {number}", record
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise DataError(f"{path}: damaged parquet after row {number} ({error}); download it again") from error
