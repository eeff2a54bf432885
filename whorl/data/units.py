"""Units of work: the first pass over one (read, annotate, filter, sketch) and the last (write).

Both are what a worker process runs. A unit is a few small files, or a part of a large one; what it
gives depends on nothing else, so it can be done anywhere, in any order, and again.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np

from whorl.base.errors import DataError
from whorl.base.files import atomic_write, read_json, sha256_file, write_json
from whorl.base.posix import fsync_directory
from whorl.data.config import ReadConfig
from whorl.data.dataset import (
    document_of,
    document_row,
    document_schema,
    reject_record,
    set_aside,
    signal_schema,
    table_rows,
)
from whorl.data.dedup.exact import content_key
from whorl.data.dedup.minhash import Sketch
from whorl.data.document import Document, Reject, SignalValue, Span
from whorl.data.readers.piece import read_piece
from whorl.data.readers.sources import Piece
from whorl.data.steps import Step, Steps

BATCH_DOCUMENTS = 256
BATCH_CHARACTERS = 4 << 20  # a batch ends at whichever comes first


# -- the first pass --------------------------------------------------------------------------------


@dataclass(frozen=True)
class FirstPass:
    """Reads pieces and applies the steps that look at one document at a time."""

    work: Path
    config: ReadConfig
    steps: tuple[Step, ...]
    sketches: tuple[Sketch, ...]

    def __call__(self, task: tuple[int, tuple[Piece, ...]]) -> dict[str, Any]:
        """Do unit `task` = (number, pieces) into its own folder; the folder appears whole or not."""
        number, pieces = task
        target = unit_folder(self.work, number)
        if target.exists():
            return read_unit(self.work, number)
        target.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f"{number:06d}.", suffix=".part", dir=target.parent))
        try:
            with _UnitWriter(folder, self.sketches) as writer:
                steps = Steps(self.steps)
                for piece in pieces:
                    for item in read_piece(piece, self.config):
                        writer.take(item, steps)
            write_json(folder / "done.json", writer.summary())
            os.replace(folder, target)
            fsync_directory(target.parent)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return writer.summary()


def unit_folder(work: Path, number: int) -> Path:
    return work / "units" / f"{number:06d}"


def read_unit(work: Path, number: int) -> dict[str, Any]:
    """The summary a finished unit left."""
    return dict(read_json(unit_folder(work, number) / "done.json", what="unit record"))


class _UnitWriter:
    """The files of one unit, written as documents come.

    `keys.bin`, `ids.bin` and `sketch-K.bin` are rows of uint64 without a header, so that they can
    grow and be joined by appending; `images.bin` is pairs (document in this unit, image digest).
    """

    def __init__(self, folder: Path, sketches: tuple[Sketch, ...]) -> None:
        self._folder, self._sketches = folder, sketches
        self._batch: list[Document] = []
        self._characters = 0
        self._kinds: dict[str, str] = {}
        self._reasons: dict[str, Counter[str]] = {}
        self._documents = self._read = 0
        self._stack = ExitStack()
        self._files: dict[str, IO[bytes]] = {}
        self._table: Any = None

    def __enter__(self) -> _UnitWriter:
        import pyarrow as pa
        import pyarrow.parquet as pq

        names = [
            "keys.bin",
            "ids.bin",
            "images.bin",
            *(f"sketch-{k}.bin" for k in range(len(self._sketches))),
        ]
        for name in [*names, "rejects.jsonl", "documents.parquet"]:
            self._files[name] = self._stack.enter_context(open(self._folder / name, "wb"))
        self._schema = document_schema().append(pa.field("signals", pa.string()))
        table = pq.ParquetWriter(self._files["documents.parquet"], self._schema, compression="zstd")
        self._table = self._stack.enter_context(table)
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            if kind is None:
                self._flush()
                self._table.close()
                for file in self._files.values():
                    file.flush()
                    os.fsync(file.fileno())
        finally:
            self._stack.close()

    def take(self, item: Document | Reject, steps: Steps) -> None:
        if isinstance(item, Document):
            self._read += 1
            if verdict := steps.apply(item):
                item = set_aside(item, *verdict)
        if isinstance(item, Reject):
            self._reasons.setdefault(item.step, Counter())[item.reason] += 1
            self._files["rejects.jsonl"].write(_line(item))
            return
        self._note_kinds(item)
        self._batch.append(item)
        self._characters += len(item.text) + sum(len(image.data) for image in item.images)
        if len(self._batch) >= BATCH_DOCUMENTS or self._characters >= BATCH_CHARACTERS:
            self._flush()

    def _note_kinds(self, document: Document) -> None:
        for name, value in document.signals.items():
            kind = "spans" if isinstance(value, list) else "number"
            if value is None:
                self._kinds.setdefault(name, "")
            elif self._kinds.get(name) in (None, ""):
                self._kinds[name] = kind
            elif self._kinds[name] != kind:
                raise DataError(
                    f"signal {name!r} gave {kind} for {document.id} and {self._kinds[name]} before"
                )

    def _flush(self) -> None:
        import pyarrow as pa

        if not self._batch:
            return
        rows = [
            {**document_row(document), "signals": json.dumps(document.signals)} for document in self._batch
        ]
        self._table.write_table(pa.Table.from_pylist(rows, schema=self._schema))
        self._files["keys.bin"].write(b"".join(map(content_key, self._batch)))
        self._files["ids.bin"].write(b"".join(bytes.fromhex(document.id) for document in self._batch))
        for place, document in enumerate(self._batch, start=self._documents):
            for image in document.images:
                self._files["images.bin"].write(
                    np.array([place, int(image.digest[:16], 16)], dtype="<u8").tobytes()
                )
        for number, sketch in enumerate(self._sketches):
            self._files[f"sketch-{number}.bin"].write(sketch(self._batch).astype("<u8").tobytes())
        self._documents += len(self._batch)
        self._batch, self._characters = [], 0

    def summary(self) -> dict[str, Any]:
        reasons = {step: dict(sorted(counts.items())) for step, counts in self._reasons.items()}
        return {"read": self._read, "documents": self._documents, "reasons": reasons, "kinds": self._kinds}


# -- the last pass ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class LastPass:
    """Writes a unit's final files, by the decisions made over all documents."""

    work: Path
    out: Path
    kinds: dict[str, str]
    split: bool
    exact: str  # the steps' names, for the rejects
    near: str

    def __call__(self, task: tuple[int, int, int]) -> dict[str, Any]:
        """Do `task` = (unit, its first document's number among all, how many it has)."""
        number, first, count = task
        marker = self.work / "final" / f"{number:06d}.json"
        if marker.exists():
            return dict(read_json(marker))
        part = f"part-{number:06d}"
        decisions = (
            np.memmap(self.work / "decisions.bin", dtype="<i8", mode="r") if count else np.zeros(0, "<i8")
        )
        unit = _Decided(unit_folder(self.work, number), decisions[first : first + count], self)
        files: dict[str, Any] = {}
        if count and unit.kept:
            files[f"documents/{part}.parquet"] = self._table(
                f"documents/{part}.parquet", document_schema(), unit.rows()
            )
            if self.kinds:
                name, schema = f"signals/{part}.parquet", signal_schema(self.kinds)
                files[name] = self._table(name, schema, unit.signals(sorted(self.kinds)))
        if rejects := self._rejects(f"rejects/{part}.jsonl", unit):
            files[f"rejects/{part}.jsonl"] = rejects
        write_json(marker, result := {"files": files})
        return result

    def _table(self, name: str, schema: Any, batches: Iterable[list[dict[str, Any]]]) -> dict[str, Any]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        rows = 0
        with (
            atomic_write(self.out / name, "wb") as file,
            pq.ParquetWriter(file, schema, compression="zstd") as table,
        ):
            for batch in batches:
                table.write_table(pa.Table.from_pylist(batch, schema=schema))
                rows += len(batch)
        return file_entry(self.out / name, rows)

    def _rejects(self, name: str, unit: _Decided) -> dict[str, Any] | None:
        source = unit.folder / "rejects.jsonl"
        if not source.stat().st_size and unit.kept == len(unit.decisions):
            return None
        lines = 0
        with atomic_write(self.out / name, "wb") as file:
            with open(source, "rb") as old:
                for line in old:
                    file.write(line)
                    lines += 1
            for reject in unit.duplicates():
                file.write(_line(reject))
                lines += 1
        return file_entry(self.out / name, lines)


def _line(reject: Reject) -> bytes:
    # Names of files may hold bytes that are no UTF-8; they must not end the run.
    return json.dumps(reject_record(reject), ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"


def file_entry(path: Path, rows: int) -> dict[str, Any]:
    """What the manifest says of a file."""
    return {"rows": rows, "bytes": path.stat().st_size, "sha256": sha256_file(path)}


TRAIN, VALIDATION = -1, -2  # decisions; from 0 on, twice the number of the document kept instead,
EXACT, NEAR = 0, 1  # plus one of these


@dataclass
class _Decided:
    """A unit's documents with what was decided of each."""

    folder: Path
    decisions: np.ndarray
    task: LastPass
    kept: int = field(init=False)

    def __post_init__(self) -> None:
        self.kept = int((self.decisions < 0).sum())

    def _batches(self) -> Iterator[tuple[list[dict[str, Any]], np.ndarray]]:
        at = 0
        for rows in table_rows(self.folder / "documents.parquet"):
            yield rows, self.decisions[at : at + len(rows)]
            at += len(rows)

    def rows(self) -> Iterator[list[dict[str, Any]]]:
        """Rows of the documents kept, their split filled in."""
        names = {TRAIN: "train", VALIDATION: "validation"} if self.task.split else {TRAIN: ""}
        for rows, decisions in self._batches():
            kept = []
            for row, decision in zip(rows, decisions, strict=True):
                if decision < 0:
                    del row["signals"]
                    kept.append({**row, "split": names[int(decision)]})
            if kept:
                yield kept

    def signals(self, names: list[str]) -> Iterator[list[dict[str, Any]]]:
        """Rows of the signals of the documents kept."""
        for rows, decisions in self._batches():
            kept = []
            for row, decision in zip(rows, decisions, strict=True):
                if decision < 0:
                    said = signals_of(row["signals"])
                    kept.append({"id": row["id"], **{name: _column(said.get(name)) for name in names}})
            if kept:
                yield kept

    def duplicates(self) -> Iterator[Reject]:
        """Rejects of the documents that are duplicates, with the id of the one kept."""
        ids: Any = None
        if self.kept < len(self.decisions):
            ids = np.memmap(self.task.work / "ids.bin", dtype="u1", mode="r").reshape(-1, 16)
            for rows, decisions in self._batches():
                for row, decision in zip(rows, decisions, strict=True):
                    if decision >= 0:
                        document = document_of(row, signals_of(row.pop("signals")))
                        kept = ids[int(decision) // 2].tobytes().hex()
                        near = int(decision) % 2 == NEAR
                        step, reason = (
                            (self.task.near, "near-duplicate") if near else (self.task.exact, "duplicate")
                        )
                        yield set_aside(document, step, reason, f"of document {kept}")


def signals_of(text: str) -> dict[str, SignalValue]:
    """Signals from the JSON a first pass keeps them in."""
    return {
        name: [Span(*span) for span in value] if isinstance(value, list) else value
        for name, value in json.loads(text).items()
    }


def _column(value: SignalValue) -> Any:
    return [span._asdict() for span in value] if isinstance(value, list) else value
