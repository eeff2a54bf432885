"""JSON lines, and JSON files that hold an array (or a row) of records, read as streams."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from typing import IO, Any

from whorl.data.config import ReadConfig
from whorl.data.document import Document, Reject
from whorl.data.readers.records import RecordReader
from whorl.data.readers.sources import Piece, SourceFile
from whorl.data.readers.stream import Stream, lines
from whorl.data.readers.text import BOM, BadTextError, decode

_SPACE = " \t\r\n"
_BLOCK = 1 << 18


def read_jsonl(piece: Piece, config: ReadConfig) -> Iterator[Document | Reject]:
    """One record a line; blank lines are no records. A line that is broken is a reject on its own."""
    reader = RecordReader(piece.file, config)
    length = None if piece.end is None else piece.end - piece.start
    empty = True
    with Stream(piece.file.path, piece.file.compression, piece.start) as stream:
        last = piece.first
        for line in lines(stream.file, first=piece.first, length=length,
                          limit=config.max_record_bytes, keep=config.keep_reject_bytes):  # fmt: skip
            last, empty = line.number, False
            if stream.problem and not line.data.endswith(b"\n"):
                break  # the cut part of a record; reported below
            raw = line.data.removeprefix(BOM) if line.number == 1 else line.data
            if line.over:
                limit = f"{line.size:,} bytes; read.max_record_bytes is {config.max_record_bytes:,}"
                yield reader.reject("over-limit", line.number, limit, raw, line.size)
            elif raw.strip():
                yield _line_document(reader, raw, line.number)
        if stream.problem:
            yield _damage(
                reader, stream.problem, last, b"" if empty or line.data.endswith(b"\n") else line.data
            )
        elif empty and piece.start == 0:
            yield reader.reject("empty-file", 0, "no lines")


def _damage(reader: RecordReader, problem: str, last: int, cut: bytes) -> Reject:
    reason = "truncated" if "cut short" in problem else "corrupt"
    return reader.reject(reason, last, f"{problem}; lines after this one are skipped", cut)


def _line_document(reader: RecordReader, raw: bytes, number: int) -> Document | Reject:
    try:
        record = json.loads(decode(raw))
    except BadTextError as bad:
        return reader.reject(bad.reason, number, bad.detail, raw)
    except (ValueError, RecursionError) as error:
        return reader.reject("broken-json", number, str(error), raw)
    return reader.read(record, index=number - 1, line=number, raw=raw)


def read_json(file: SourceFile, config: ReadConfig) -> Iterator[Document | Reject]:
    """A JSON array of records, one record, or records one after another.

    Only a record at a time is held. Past a broken record there is no telling where the next one
    begins, so the rest of the file is one reject.
    """
    reader = RecordReader(file, config)
    with Stream(file.path, file.compression) as stream:
        values = _JsonValues(stream.file, config.max_record_bytes)
        try:
            for index, (line, value) in enumerate(values):
                yield reader.read(value, index=index, line=line)
        except BadTextError as bad:
            kept = values.rest(config.keep_reject_bytes)
            detail = f"{bad.detail}; the rest of the file cannot be read"
            if stream.problem:
                yield _damage(reader, stream.problem, values.line, kept)
            else:
                yield reader.reject(bad.reason, values.line, detail, kept, values.rest_size())
            return
        if stream.problem:
            yield _damage(reader, stream.problem, values.line, b"")
        elif values.count == 0:
            yield reader.reject("empty-file", 0, "no records")


class _JsonValues:
    """Iterates over (line, value) of the values of an array, or of values in a row.

    Raises `BadTextError` at the first that is broken or longer than `limit` characters.
    """

    def __init__(self, file: IO[bytes], limit: int) -> None:
        self._file, self._limit = file, limit
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")()
        self._parse = json.JSONDecoder().raw_decode
        self._text, self._at, self._ended = "", 0, False
        self.line, self.count = 1, 0

    def __iter__(self) -> Iterator[tuple[int, Any]]:
        array = self._peek() == "["
        if array:
            self._skip(1)
        while (mark := self._peek()) and mark != "]":
            if mark == "," and self.count:
                self._skip(1)
                continue
            line = self.line
            yield line, self._value()
            self.count += 1
        if array and mark != "]":
            raise BadTextError("broken-json", "the array is not closed")
        if mark == "]":
            if not array:
                raise BadTextError("broken-json", "a ] without a matching [")
            self._skip(1)
            if self._peek():
                raise BadTextError("broken-json", "text after the array")

    def _value(self) -> Any:
        while True:
            try:
                value, end = self._parse(self._text, self._at)
                if end < len(self._text) or self._ended:  # "12" may yet become "123"
                    self._skip(end - self._at)
                    return value
            except RecursionError as error:
                raise BadTextError("broken-json", "nested too deeply") from error
            except ValueError as error:
                if self._ended:
                    raise BadTextError("broken-json", str(error)) from error
            if len(self._text) - self._at > self._limit:
                raise BadTextError(
                    "broken-json", f"no complete record within read.max_record_bytes ({self._limit:,})"
                )
            self._more(max(_BLOCK, len(self._text) - self._at))  # doubling keeps retries linear

    def _peek(self) -> str:
        """The next character that is not white space; "" at the end."""
        while True:
            while self._at < len(self._text) and self._text[self._at] in _SPACE:
                self._skip(1)
            if self._at < len(self._text) or self._ended:
                return self._text[self._at : self._at + 1]
            self._more(_BLOCK)

    def _skip(self, count: int) -> None:
        self.line += self._text.count("\n", self._at, self._at + count)
        self._at += count

    def _more(self, size: int) -> None:
        data = self._file.read(size)
        self._ended = not data
        try:
            text = self._decoder.decode(data, final=self._ended)
        except UnicodeDecodeError as error:
            self._ended = True
            raise BadTextError(
                "encoding", f"not UTF-8: {error.reason}; convert it (iconv -t UTF-8)"
            ) from error
        self._text, self._at = self._text[self._at :] + text, 0

    def rest(self, keep: int) -> bytes:
        """What is in hand and was not read, at most `keep` bytes of it."""
        return self._text[self._at : self._at + keep].encode("utf-8", "surrogatepass")[:keep]

    def rest_size(self) -> int:
        """How many bytes were not read; reads the file to its end to know."""
        size = len(self._text[self._at :].encode("utf-8", "surrogatepass"))
        while data := self._file.read(_BLOCK):
            size += len(data)
        return size
