"""What is in a file before it is read: its hash, and where it may be cut into pieces."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass

from whorl.base.files import CHUNK, sha256_file
from whorl.data.readers.sources import Piece, SourceFile


@dataclass(frozen=True)
class Scanned:
    """A file's hash, and where it may be cut: pieces of about `piece_bytes`."""

    file: SourceFile
    sha256: str
    size: int
    modified: int  # nanoseconds
    pieces: tuple[tuple[Piece, int], ...]  # with the bytes of each


def scan(task: tuple[SourceFile, int]) -> Scanned:
    """Hash a file; cut plain JSON lines at newlines and parquet at row groups."""
    file, piece_bytes = task
    try:
        status = os.stat(file.path)
        if file.format == "jsonl" and not file.compression:
            digest, pieces = _scan_lines(file, piece_bytes)
        else:
            digest = sha256_file(file.path)
            pieces = _row_groups(file, piece_bytes) if file.format == "parquet" else []
    except OSError:  # the reader meets it again and makes a reject of it
        return Scanned(file, "", 0, 0, ((Piece(file=file), 0),))
    return Scanned(file, digest, status.st_size, status.st_mtime_ns,
                   tuple(pieces) or ((Piece(file=file), status.st_size),))  # fmt: skip


def _scan_lines(file: SourceFile, piece_bytes: int) -> tuple[str, list[tuple[Piece, int]]]:
    digest, pieces = hashlib.sha256(), []
    start = at = first = newlines = 0
    with open(file.path, "rb") as source:
        while block := source.read(min(CHUNK, piece_bytes)):
            digest.update(block)
            if at + len(block) - start >= piece_bytes and (cut := block.rfind(b"\n")) >= 0:
                end = at + cut + 1
                pieces.append((Piece(file=file, start=start, end=end, first=first), end - start))
                newlines += block.count(b"\n", 0, cut + 1)
                start, first = end, newlines
                newlines += block.count(b"\n", cut + 1)
            else:
                newlines += block.count(b"\n")
            at += len(block)
    if start < at:
        pieces.append((Piece(file=file, start=start, end=at, first=first), at - start))
    return digest.hexdigest(), pieces


def _row_groups(file: SourceFile, piece_bytes: int) -> list[tuple[Piece, int]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(file.path) as table:
            metadata = table.metadata
    except (pa.ArrowException, OSError):
        return []  # damaged: one piece, which the reader makes a reject of
    pieces, start, size, rows, before = [], 0, 0, 0, 0
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        size, rows = size + group.total_byte_size, rows + group.num_rows
        if size >= piece_bytes or number + 1 == metadata.num_row_groups:
            pieces.append((Piece(file=file, start=start, end=number + 1, first=before), size))
            start, before, size, rows = number + 1, before + rows, 0, 0
    return pieces
