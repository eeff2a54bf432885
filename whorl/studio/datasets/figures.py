"""What a dataset's page counts: how many documents each step left, and how its signals are spread."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from whorl.base.errors import DataError
from whorl.data.inspect import numbers_of

SAMPLED = 50_000  # documents whose signals are read; of more, row groups spread evenly over the files
BINS = 32
READ = "read"


@dataclass(frozen=True)
class Stage:
    """A step of the funnel: `left` documents after it, of which `share` of all that were read."""

    name: str
    lost: int
    left: int
    share: float
    reasons: tuple[tuple[str, int], ...]


def funnel(manifest: dict[str, Any]) -> list[Stage]:
    """The steps in their order, each with what it set aside. What could not be read at all was never a
    document: it stands before them."""
    reasons: dict[str, dict[str, int]] = manifest["reasons"]
    left = read = manifest["read"]
    stages = []
    for name in [READ, *(step for step in reasons if step != READ)]:
        lost = sum(reasons.get(name, {}).values())
        left -= lost if name != READ else 0
        ordered = tuple(sorted(reasons.get(name, {}).items(), key=lambda one: (-one[1], one[0])))
        stages.append(Stage(name, lost, left, left / read if read else 0.0, ordered))
    return stages


def histograms(folder: Path, manifest: dict[str, Any]) -> dict[str, Any]:
    """{"plots", "same", "read", "all"}: a histogram for each signal, over `read` of `all` documents; a
    signal that is the same for all of them needs none: (name, value) in `same`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    files = [name for name in manifest["files"] if name.startswith("signals/")]
    rows = sum(manifest["files"][name].get("rows", 0) for name in files)
    columns: dict[str, list[np.ndarray]] = {}
    read = 0
    try:
        for name in files:
            with pq.ParquetFile(folder / name) as table:
                signals = [column for column in table.schema_arrow.names if column != "id"]
                for group in spread(table, max(round(SAMPLED * table.metadata.num_rows / max(rows, 1)), 1)):
                    values = table.read_row_group(group, columns=signals)
                    read += values.num_rows
                    for signal in signals:
                        columns.setdefault(signal, []).append(numbers_of(values.select([signal])))
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{folder}: its signals cannot be read: {str(error).splitlines()[0]}") from error
    plots, same = [], []
    for name, parts in columns.items():
        values = np.concatenate(parts)
        values = values[np.isfinite(values)]
        if len(values) and values.min() == values.max():
            same.append((name, f"{values[0]:.4g}"))
        elif len(values):
            plots.append(histogram(name, values))
    return {"plots": plots, "same": same, "read": read, "all": rows}


def spread(table: Any, wanted: int) -> list[int]:
    """Row groups, evenly over the file, that hold about so many rows; at least one."""
    count = table.num_row_groups
    if not count:
        return []
    take = max(min(count, round(count * wanted / max(table.metadata.num_rows, 1))), 1)
    return sorted({int(number) for number in np.linspace(0, count - 1, take)})


def histogram(name: str, values: np.ndarray) -> dict[str, Any]:
    """A plot's data, with the median and what lies outside it; the values are finite and not all one."""
    low, high = float(values.min()), float(values.max())
    first, middle, last = (float(value) for value in np.quantile(values, (0.05, 0.5, 0.95)))
    beyond = 0
    if high > last + 4 * max(last - first, 1e-12) and last > first:  # a long tail would hide all the rest
        high = last + 2 * (last - first)
        beyond = int((values > high).sum())
    whole = bool(np.all(values == np.round(values))) and high - low < BINS
    bins = np.arange(np.floor(low), np.ceil(high) + 1.5) - 0.5 if whole else np.linspace(low, high, BINS + 1)
    counts, edges = np.histogram(values[values <= high], bins)
    return {
        "title": name, "edges": [float(f"{edge:.6g}") for edge in edges],
        "counts": [int(count) for count in counts], "first": first, "middle": middle, "last": last,
        "beyond": beyond,
    }  # fmt: skip
