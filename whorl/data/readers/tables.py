"""CSV and parquet, a row at a time."""

from __future__ import annotations

import csv
from collections.abc import Iterator

from whorl.data.config import ReadConfig
from whorl.data.document import Document, Reject
from whorl.data.readers.records import RecordReader, as_bytes
from whorl.data.readers.sources import Piece, SourceFile
from whorl.data.readers.stream import Stream, lines
from whorl.data.readers.text import BOM, BadTextError, check_encodable

PARQUET_ROWS = 64  # rows held at a time
PARQUET_BUFFER = 1 << 20  # bytes of a column read ahead; without it, a row group's whole column is held


def read_csv(file: SourceFile, config: ReadConfig) -> Iterator[Document | Reject]:
    """Rows under a header line, comma-separated (tabs in .tsv), quoted fields over several lines too."""
    reader = RecordReader(file, config)
    name = file.path.lower().removesuffix(file.compression)
    csv.field_size_limit(config.max_record_bytes)  # the csv module keeps this for the whole process
    with Stream(file.path, file.compression) as stream:
        source = _CsvLines(stream, reader)
        rows = csv.reader(source, delimiter="\t" if name.endswith(".tsv") else ",", strict=True)
        header: list[str] | None = None
        index, more = 0, True
        while more:
            first, bad = source.number + 1, ""
            try:
                row = next(rows)
            except StopIteration:
                more = False
            except csv.Error as error:
                bad = str(error)
            yield from source.take_rejects()
            raw = source.take_raw()
            if bad:
                yield reader.reject("broken-csv", first, bad, raw)
            elif not more or not row:
                continue
            elif header is None:
                header = row
                if missing := reader.missing_text(row):
                    yield reader.reject("missing-text", first, missing, raw)
                    return
            else:
                yield _row_document(reader, header, row, index, first, raw)
                index += 1
        if stream.problem:
            reason = "truncated" if "cut short" in stream.problem else "corrupt"
            yield reader.reject(reason, source.number, f"{stream.problem}; rows after this line are skipped")
        elif header is None and not source.number:
            yield reader.reject("empty-file", 0, "no header line")


def _row_document(
    reader: RecordReader, header: list[str], row: list[str], index: int, line: int, raw: bytes
) -> Document | Reject:
    if len(row) != len(header):
        return reader.reject("broken-csv", line, f"{len(row)} fields; the header has {len(header)}", raw)
    try:
        for field in row:
            check_encodable(field)
    except BadTextError:
        return reader.reject("encoding", line, "not UTF-8; convert it (iconv -t UTF-8)", raw)
    return reader.read(dict(zip(header, row, strict=True)), index=index, line=line, raw=raw)


class _CsvLines:
    """Feeds the csv module lines of bounded length and remembers the bytes a row was made of.

    Bytes that are not UTF-8 come as lone surrogates, by which the row they end up in is known.
    """

    def __init__(self, stream: Stream, reader: RecordReader) -> None:
        config = reader.config
        self._stream, self._reader = stream, reader
        self._lines = lines(stream.file, first=0, length=None, limit=config.max_record_bytes,
                            keep=config.keep_reject_bytes)  # fmt: skip
        self._raw: list[bytes] = []
        self._rejects: list[Reject] = []
        self.number = 0

    def __iter__(self) -> Iterator[str]:
        for line in self._lines:
            self.number = line.number
            if line.over:
                limit = (
                    f"{line.size:,} bytes; read.max_record_bytes is {self._reader.config.max_record_bytes:,}"
                )
                self._rejects.append(
                    self._reader.reject("over-limit", line.number, limit, line.data, line.size)
                )
                continue
            if self._stream.problem and not line.data.endswith(b"\n"):
                detail = "the row was cut off with the archive"
                self._rejects.append(self._reader.reject("truncated", line.number, detail, line.data))
                return
            self._raw.append(line.data)
            data = line.data.removeprefix(BOM) if line.number == 1 else line.data
            yield data.decode("utf-8", "surrogateescape")

    def take_raw(self) -> bytes:
        raw, self._raw = b"".join(self._raw), []
        return raw

    def take_rejects(self) -> list[Reject]:
        taken, self._rejects = self._rejects, []
        return taken


def read_parquet(piece: Piece, config: ReadConfig) -> Iterator[Document | Reject]:
    """Rows of a parquet file; a piece of one is the row groups [start, end)."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    reader = RecordReader(piece.file, config)
    index = piece.first
    try:
        with pq.ParquetFile(piece.file.path, buffer_size=PARQUET_BUFFER) as table:
            if missing := reader.missing_text(table.schema_arrow.names):
                yield reader.reject("missing-text", 0, missing)
                return
            if not table.metadata.num_rows:
                yield reader.reject("empty-file", 0, "no rows")
            groups = range(piece.start, table.num_row_groups if piece.end is None else piece.end)
            for batch in table.iter_batches(PARQUET_ROWS, row_groups=list(groups)):
                for row in batch.to_pylist():
                    yield _parquet_row(reader, row, index)
                    index += 1
    except (pa.ArrowException, OSError) as error:
        detail = f"{str(error).splitlines()[0][:300]}; rows after this one are skipped"
        yield reader.reject("corrupt", index, detail)


def _parquet_row(reader: RecordReader, row: dict[str, object], index: int) -> Document | Reject:
    limit = reader.config.max_record_bytes
    size = sum(len(value) for value in row.values() if isinstance(value, str | bytes))
    if size > limit:
        return reader.reject("over-limit", index + 1, f"{size:,} bytes; read.max_record_bytes is {limit:,}",
                             as_bytes(row), size)  # fmt: skip
    return reader.read(row, index=index, line=index + 1)
