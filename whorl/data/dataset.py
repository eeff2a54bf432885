"""A dataset directory: what its files hold, and reading them back.

documents/part-000000.parquet   id, text, source, line, meta (JSON), images, title, kind, split
signals/part-000000.parquet     id, and a column a signal: a number, or a list of (start, end, score)
rejects/part-000000.jsonl       source, line, step, reason, detail, size and the original
manifest.json                  format, counts, reasons by step, hashes of every file and input
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from whorl.base.errors import DataError, InputError
from whorl.base.files import read_json, read_jsonl, sha256_file
from whorl.base.nouns import ImagePart
from whorl.data.document import Document, Reject, SignalValue, Span

if TYPE_CHECKING:
    import pyarrow as pa

FORMAT = 1


def document_schema() -> pa.Schema:
    """Columns of documents/*.parquet."""
    import pyarrow as pa

    image = pa.struct([("data", pa.binary()), ("media_type", pa.string())])
    text = [(name, pa.string()) for name in ("id", "text", "source")]
    rest = [("line", pa.int64()), ("meta", pa.string()), ("images", pa.list_(image))]
    return pa.schema([*text, *rest, *((name, pa.string()) for name in ("title", "kind", "split"))])


def signal_schema(kinds: dict[str, str]) -> pa.Schema:
    """Columns of signals/*.parquet; `kinds` says "number" or "spans" for every signal."""
    import pyarrow as pa

    span = pa.struct([("start", pa.int64()), ("end", pa.int64()), ("score", pa.float64())])
    types = {"number": pa.float64(), "spans": pa.list_(span)}
    return pa.schema([("id", pa.string()), *((name, types[kind]) for name, kind in sorted(kinds.items()))])


def document_row(document: Document) -> dict[str, Any]:
    """A document as a row of `document_schema`."""
    return {
        "id": document.id,
        "text": document.text,
        "source": document.source,
        "line": document.line,
        "meta": json.dumps(document.meta, ensure_ascii=False),
        "images": [{"data": image.data, "media_type": image.media_type} for image in document.images],
        "title": document.title,
        "kind": document.kind,
        "split": document.split,
    }


def document_of(row: dict[str, Any], signals: dict[str, SignalValue] | None = None) -> Document:
    """The document a row was made of."""
    images = tuple(ImagePart(**image) for image in row["images"])
    return Document(**{**row, "meta": json.loads(row["meta"]), "images": images, "signals": signals or {}})


def reject_record(reject: Reject) -> dict[str, Any]:
    """A reject as a line of rejects/*.jsonl. Its original is `text`, `base64` where it is not UTF-8,
    or `document`; `cut` says that only its beginning was kept."""
    record: dict[str, Any] = {
        "source": reject.source, "line": reject.line, "step": reject.step,
        "reason": reject.reason, "detail": reject.detail, "size": reject.size,
    }  # fmt: skip
    if reject.document is not None:
        record["document"] = dict(reject.document)
    elif reject.data:
        try:
            record["text"] = reject.data.decode("utf-8")
        except UnicodeDecodeError:
            record["base64"] = base64.b64encode(reject.data).decode("ascii")
        if len(reject.data) < reject.size:
            record["cut"] = True
    return record


def set_aside(document: Document, step: str, reason: str, detail: str = "") -> Reject:
    """The reject of a document a step did not keep, the whole of it and its plain signals inside."""
    row = document_row(document)
    row["meta"] = document.meta
    row["images"] = [image.to_data_uri() for image in document.images]
    row["signals"] = {name: value for name, value in document.signals.items() if not isinstance(value, list)}
    del row["source"], row["line"], row["split"]
    size = len(document.text.encode("utf-8"))
    return Reject(source=document.source, line=document.line, step=step, reason=reason, detail=detail,
                  size=size, document=row)  # fmt: skip


def open_manifest(directory: str | Path) -> dict[str, Any]:
    """The manifest of a dataset directory. Raises `InputError` where there is none or a newer one."""
    path = Path(directory) / "manifest.json"
    if not path.is_file():
        raise InputError(
            f"{directory} is not a finished dataset (no manifest.json); make one with `whorl data run`"
        )
    manifest = read_json(path, what="dataset manifest")
    if not isinstance(manifest, dict) or not isinstance(manifest.get("format"), int):
        raise DataError(f"{path} is not a dataset manifest: it has no format number")
    if manifest["format"] > FORMAT:
        raise InputError(
            f"{path} has format {manifest['format']}; this version of Whorl reads up to {FORMAT}:"
            " upgrade whorl"
        )
    return manifest


def verify_dataset(directory: str | Path) -> None:
    """Check every file of a dataset against the manifest's hashes. Raises `DataError` for the first
    that is missing or changed."""
    for name, entry in open_manifest(directory)["files"].items():
        path = Path(directory) / name
        if not path.is_file():
            raise DataError(f"{path} is missing, but the manifest lists it; rebuild the dataset")
        if sha256_file(path) != entry["sha256"]:
            raise DataError(f"{path} has changed since it was written (SHA-256); rebuild the dataset")


def read_dataset(
    directory: str | Path, *, split: str | None = None, signals: bool = True, verify: bool = False
) -> Iterator[Document]:
    """The documents of a dataset in order, with their signals; of one `split` ("train",
    "validation") where given. `verify` checks every file's hash first. Holds a few hundred at a time."""
    manifest = open_manifest(directory)
    if split is not None and split not in manifest["splits"]:
        raise InputError(
            f"{directory} has no split {split!r}; it has {', '.join(manifest['splits']) or 'none'}"
        )
    if verify:
        verify_dataset(directory)
    for name in manifest["files"]:
        if name.startswith("documents/"):
            yield from _read_part(Path(directory), name, split, signals)


def _read_part(directory: Path, name: str, split: str | None, signals: bool) -> Iterator[Document]:
    import pyarrow as pa

    beside = directory / name.replace("documents/", "signals/", 1)
    try:
        said = _signal_rows(beside) if signals and beside.exists() else None
        for rows in table_rows(directory / name):
            for row in rows:
                values = next(said, {}) if said else {}
                if said and values.pop("id", None) != row["id"]:
                    raise DataError(f"{beside} does not match {name} at document {row['id']}")
                if split is None or row["split"] == split:
                    yield document_of(row, values)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{directory / name} cannot be read: {str(error).splitlines()[0]}") from error


def _signal_rows(path: Path) -> Iterator[dict[str, Any]]:
    for rows in table_rows(path):
        for row in rows:
            yield {
                name: [Span(**span) for span in value] if isinstance(value, list) else value
                for name, value in row.items()
            }


def table_rows(path: Path) -> Iterator[list[dict[str, Any]]]:
    """The rows of a parquet file of ours, a row group at a time: those were made small in bytes, and
    batches that run over them would not be."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as table:
        for group in range(table.num_row_groups):
            yield table.read_row_group(group).to_pylist()


def read_rejects(directory: str | Path) -> Iterator[dict[str, Any]]:
    """The lines of a dataset's rejects/*.jsonl, in order; see `reject_record`."""
    for name in open_manifest(directory)["files"]:
        if name.startswith("rejects/"):
            yield from read_jsonl(Path(directory) / name)
