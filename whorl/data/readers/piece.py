"""The readers' two doors: everything under some paths, or one piece of one file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from whorl.data.config import ReadConfig
from whorl.data.document import Document, Reject
from whorl.data.readers.jsonlines import read_json, read_jsonl
from whorl.data.readers.sources import Piece, discover
from whorl.data.readers.tables import read_csv, read_parquet
from whorl.data.readers.text import read_whole


def read(
    paths: Iterable[str | Path] | str | Path, config: ReadConfig | None = None
) -> Iterator[Document | Reject]:
    """Every document under `paths` (files, folders, globs), in one order, streaming; and a `Reject`
    for everything there that is none. Raises `InputError` for a path that does not exist."""
    config = config or ReadConfig()
    for file in discover([paths] if isinstance(paths, str | Path) else paths, config):
        if isinstance(file, Reject):
            yield file
        else:
            yield from read_piece(Piece(file=file), config)


def read_piece(piece: Piece, config: ReadConfig) -> Iterator[Document | Reject]:
    """The documents and rejects of one piece. A file that cannot be opened or read is a reject."""
    file = piece.file
    try:
        if file.format == "jsonl":
            yield from read_jsonl(piece, config)
        elif file.format == "json":
            yield from read_json(file, config)
        elif file.format == "csv":
            yield from read_csv(file, config)
        elif file.format == "parquet":
            yield from read_parquet(piece, config)
        else:
            yield from read_whole(file, config)
    except OSError as error:
        yield Reject(source=file.path, reason="unreadable", detail=error.strerror or str(error))
