"""Bytes to clean text, and the files that are one document each: text, markdown, source code."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import PurePosixPath

from whorl.data.config import ReadConfig
from whorl.data.document import Document, Reject, document_id
from whorl.data.readers.sources import SourceFile
from whorl.data.readers.stream import Stream

BOM = b"\xef\xbb\xbf"
_HEADING = re.compile(r"^#\s+(.+?)\s*#*$", re.MULTILINE)


class BadTextError(ValueError):
    """Text that is not taken: `reason` is the reject's, `line` counts from 1 within the text."""

    def __init__(self, reason: str, detail: str, line: int = 1) -> None:
        super().__init__(detail)
        self.reason, self.detail, self.line = reason, detail, line


def decode(data: bytes) -> str:
    """UTF-8 bytes to text, a byte-order mark dropped. Raises `BadTextError`."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise BadTextError("encoding", "it is UTF-16, not UTF-8; convert it (iconv -f UTF-16 -t UTF-8)")
    try:
        return data.removeprefix(BOM).decode("utf-8")
    except UnicodeDecodeError as error:
        data = error.object
        line = data.count(b"\n", 0, error.start) + 1
        detail = f"byte {error.start} (0x{data[error.start]:02x}) is not UTF-8; convert it (iconv -t UTF-8)"
        raise BadTextError("encoding", detail, line) from error


def clean(text: str) -> str:
    """Line ends as "\\n". Raises `BadTextError` for a NUL or half a surrogate pair."""
    if "\0" in text:
        place = text.index("\0")
        raise BadTextError(
            "nul", f"character {place} is a NUL; a binary file?", text.count("\n", 0, place) + 1
        )
    if not text.isascii():
        check_encodable(text)
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


def check_encodable(text: str) -> None:
    """Raises `BadTextError` where `text` has half a surrogate pair, which no UTF-8 file can hold."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        line = text.count("\n", 0, error.start) + 1
        raise BadTextError("encoding", f"character {error.start} is not valid Unicode", line) from error


def read_whole(file: SourceFile, config: ReadConfig) -> Iterator[Document | Reject]:
    """A file that is one document."""
    with Stream(file.path, file.compression) as stream:
        data = stream.file.read(config.max_file_bytes + 1)
        size = len(data)
        while len(data) > config.max_file_bytes and (rest := stream.file.read(1 << 20)):
            size += len(rest)
        problem = stream.problem

    def reject(reason: str, detail: str, line: int = 0) -> Reject:
        return Reject(source=file.path, reason=reason, line=line, detail=detail, size=size,
                      data=data[: config.keep_reject_bytes])  # fmt: skip

    if problem:
        yield reject("truncated" if "cut short" in problem else "corrupt", problem)
    elif size > config.max_file_bytes:
        yield reject("over-limit", f"{size:,} bytes; read.max_file_bytes is {config.max_file_bytes:,}")
    elif not size:
        yield reject("empty-file", "0 bytes")
    else:
        try:
            text = clean(decode(data))
        except BadTextError as bad:
            yield reject(bad.reason, bad.detail, bad.line)
            return
        if text.strip():
            yield _document(file, text)
        else:
            yield reject("empty-text", "only whitespace")


def _document(file: SourceFile, text: str) -> Document:
    name = PurePosixPath(file.label).name.removesuffix(file.compression)
    title = name
    if file.format != "code":
        heading = _HEADING.search(text) if file.format == "markdown" else None
        title = heading.group(1) if heading else PurePosixPath(name).stem
    kind = file.format if file.format in ("markdown", "code") else "text"
    return Document(
        id=document_id(file.label, 0, text), text=text, source=file.path, title=title, kind=kind,
        meta={"path": file.label},
    )  # fmt: skip
