"""What is in a dataset directory, or in raw files: counts, reasons, quantiles, samples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from whorl.base.errors import InputError
from whorl.data.config import ReadConfig
from whorl.data.dataset import open_manifest, read_dataset, read_rejects, reject_record
from whorl.data.document import Document, Reject
from whorl.data.readers.piece import read

if TYPE_CHECKING:
    import pyarrow as pa

QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
RESERVOIR = 100_000  # lengths of this many documents, evenly taken, stand for all of a raw input
SHOWN = 240  # characters of a sample


@dataclass
class Inspection:
    """What `whorl data inspect` shows. `reasons` is step → reason → count; `quantiles` name →
    values at `QUANTILES`, of a signal with spans over the mean score of each document."""

    path: str
    read: int = 0
    documents: int = 0
    splits: dict[str, int] = field(default_factory=dict)
    reasons: dict[str, dict[str, int]] = field(default_factory=dict)
    quantiles: dict[str, list[float]] = field(default_factory=dict)
    kept: list[dict[str, Any]] = field(default_factory=list)
    rejected: list[dict[str, Any]] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "quantiles_at": list(QUANTILES)}


def inspect(path: str | Path, *, samples: int = 3, config: ReadConfig | None = None) -> Inspection:
    """Look at a dataset directory (through its manifest), or read raw files and say what they give.

    `samples` documents are shown, and as many rejects of every step and reason. Raises `InputError`
    where there is nothing at `path`.
    """
    if not Path(path).exists():
        raise InputError(f"{path} does not exist; give a dataset directory, or files to read")
    if (Path(path) / "manifest.json").is_file():
        return _inspect_dataset(Path(path), samples)
    if (Path(path) / "work" / "plan.json").is_file():
        raise InputError(f"{path} is an unfinished dataset; run the same `whorl data run` again to finish it")
    return _inspect_raw(path, samples, config or ReadConfig())


def _inspect_dataset(directory: Path, samples: int) -> Inspection:
    manifest = open_manifest(directory)
    found = Inspection(path=str(directory))
    found.read, found.documents = manifest["read"], manifest["documents"]
    found.splits, found.reasons = manifest["splits"], manifest["reasons"]
    found.quantiles = dict(_dataset_quantiles(directory, list(manifest["files"])))
    found.kept = [_sample(document) for document in islice(read_dataset(directory), samples)]
    found.rejected = _few_of_each(read_rejects(directory), samples)
    return found


def _inspect_raw(path: str | Path, samples: int, config: ReadConfig) -> Inspection:
    found = Inspection(path=str(path))
    lengths: list[int] = []
    every = 1
    reasons: Counter[str] = Counter()
    for item in read(path, config):
        if isinstance(item, Reject):
            reasons[item.reason] += 1
            if reasons[item.reason] <= samples:
                found.rejected.append(_short(reject_record(item)))
            continue
        if found.documents % every == 0:
            lengths.append(len(item.text))
            if len(lengths) == RESERVOIR:  # from here on, half as many
                lengths, every = lengths[::2], every * 2
        found.documents += 1
        if found.documents <= samples:
            found.kept.append(_sample(item))
    found.read = found.documents
    found.reasons = {"read": dict(sorted(reasons.items()))} if reasons else {}
    found.quantiles = {"characters": _quantiles(np.array(lengths, dtype=np.float64))} if lengths else {}
    return found


def _dataset_quantiles(directory: Path, files: list[str]) -> Iterator[tuple[str, list[float]]]:
    """A column at a time, so that memory is eight bytes a document."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    texts = [directory / name for name in files if name.startswith("documents/")]
    if not texts:
        return
    lengths = [
        pc.utf8_length(batch.column(0)).to_numpy(zero_copy_only=False)
        for path in texts
        for batch in pq.ParquetFile(path).iter_batches(1024, columns=["text"])
    ]
    yield "characters", _quantiles(np.concatenate(lengths).astype(np.float64))
    tables = [directory / name for name in files if name.startswith("signals/")]
    for name in [name for name in pq.read_schema(tables[0]).names if name != "id"] if tables else []:
        values = np.concatenate([numbers_of(pq.read_table(path, columns=[name])) for path in tables])
        values = values[np.isfinite(values)]
        if len(values):
            yield name, _quantiles(values)


def numbers_of(table: pa.Table) -> np.ndarray:
    """One number a document: the signal's, or the mean of its spans' scores; NaN where there is none."""
    import pyarrow as pa

    column = table.column(0).combine_chunks()
    if not pa.types.is_list(column.type):
        return np.asarray(column.to_numpy(zero_copy_only=False), dtype=np.float64)
    ends = column.offsets.to_numpy()
    scores = np.nan_to_num(column.values.field("score").to_numpy(zero_copy_only=False).astype(np.float64))
    sums = np.concatenate(([0.0], np.cumsum(scores)))
    counts = np.diff(ends)
    totals = sums[ends[1:]] - sums[ends[:-1]]
    return np.divide(totals, counts, out=np.full(len(counts), np.nan), where=counts > 0)


def _quantiles(values: np.ndarray) -> list[float]:
    return [float(value) for value in np.quantile(values, QUANTILES)]


def _few_of_each(records: Iterator[dict[str, Any]], samples: int) -> list[dict[str, Any]]:
    seen: Counter[tuple[str, str]] = Counter()
    few = []
    for record in records:
        kind = (record["step"], record["reason"])
        seen[kind] += 1
        if seen[kind] <= samples:
            few.append(_short(record))
    return few


def _short(record: dict[str, Any]) -> dict[str, Any]:
    """A reject with the beginning of its original."""
    text = record.get("text") or record.get("document", {}).get("text") or record.get("base64", "")
    kept = {name: record[name] for name in ("source", "line", "step", "reason", "detail")}
    return {**kept, "text": text[:SHOWN]}


def _sample(document: Document) -> dict[str, Any]:
    return {
        "id": document.id, "source": document.source, "line": document.line, "title": document.title,
        "kind": document.kind, "split": document.split, "text": document.text[:SHOWN],
    }  # fmt: skip
