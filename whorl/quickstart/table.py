"""The table the run ends with."""

from __future__ import annotations

import math
from dataclasses import replace

from whorl.base.progress import duration
from whorl.base.results import written, written_error, written_floor
from whorl.quickstart.figures import Figure
from whorl.quickstart.plan import ROUND_TRIP
from whorl.quickstart.stages import Stages

MEMORY_LIMIT = 4e9
WHOLE = 1.5  # of the minutes a run is given, with its round trip
LEFT_OUT = "skipped: --no-round-trip"


def run_rows(stages: Stages, minutes: float) -> list[Figure]:
    """The run's time and memory, as rows; `minutes` are those it was given up to its figures."""
    whole = Figure("whole run, including the round trip", note=LEFT_OUT)
    if all(stages.done(name) for name in ROUND_TRIP):
        whole = replace(whole, value=stages.seconds() / 60, floor=WHOLE * minutes, lower_is_better=True,
                        unit="minutes", note="")  # fmt: skip
    return [
        Figure("run up to its figures", stages.seconds(*ROUND_TRIP) / 60, floor=minutes, lower_is_better=True,
               unit="minutes"),
        whole,
        Figure("peak memory of the process tree", stages.peak / 1e9, floor=MEMORY_LIMIT / 1e9,
               lower_is_better=True, unit="GB"),
    ]  # fmt: skip


def table_lines(rows: list[Figure]) -> list[str]:
    """Aligned columns: figure, measured, standard error, cases, floor, and whether it is met."""
    cells = [("figure", "measured", "± s.e.", "cases", "target", "")] + [_cells(row) for row in rows]
    widths = [max(len(row[column]) for row in cells) for column in range(5)]
    lines = []
    for row in cells:
        aligned = [row[0].ljust(widths[0]), *(row[column].rjust(widths[column]) for column in range(1, 5))]
        lines.append("  ".join([*aligned, row[5]]).rstrip())
    return [lines[0], "─" * max(len(line) for line in lines), *lines[1:]]


def _cells(row: Figure) -> tuple[str, str, str, str, str, str]:
    if math.isnan(row.value):
        return row.name, "—", "", "", _floor(row), row.note
    error = "" if math.isnan(row.error) else written_error(row.error, row.unit)
    verdict = {None: "", True: "met", False: "NOT MET"}[row.met]
    verdict = ": ".join(part for part in (verdict, row.note) if part)
    cases = f"{row.cases:,}" if row.cases else ""
    return row.name, written(row.value, row.unit), error, cases, _floor(row), verdict


def _floor(row: Figure) -> str:
    if row.floor is None:
        return ""
    floor = written_floor(row.floor, row.unit, lower_is_better=row.lower_is_better)
    return floor if row.unit == "%" else floor.removesuffix(f" {row.unit}")  # the column before it has it


def stage_lines(stages: Stages) -> list[str]:
    """Each stage's time against its budget, and the peak memory until its end."""
    return [
        f"{name:<12} {duration(stage['seconds']):>12}"
        + (f"  of {duration(stage['budget'])}" if stage["budget"] else "")
        + f"  {stage['memory'] / 1e9:.1f} GB"
        for name, stage in stages.known.items()
    ]
