"""A run as one page: figures, plots, timeline, samples, configuration, provenance.

Everything is inside the file: no network, no library, light and dark as the reader's system has it.
"""

from __future__ import annotations

import json
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

from whorl.base.files import atomic_write
from whorl.base.logbook import CONFIG, Metric, series
from whorl.base.plot import Chart, Series
from whorl.base.progress import duration, figure
from whorl.base.runs import Record, read_run
from whorl.base.timeline import event_line, result_row

TEMPLATE = Path(__file__).parent / "report.html.jinja"

# Metrics that belong into one plot, in the order the plots stand; any other gets its own after them.
PLOTS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("loss", ("loss", "validation_loss")),
    ("learning rate", ("lr",)),
    ("tokens per second", ("tokens_per_second",)),
    ("gradient norm", ("grad_norm",)),
)
SMOOTH = ("loss", "grad_norm", "tokens_per_second")


def write_report(run: str | Path, output: str | Path | None = None) -> Path:
    """Write the page of a run (default `RUN/report.html`) and give its path."""
    run = Path(run)
    path = Path(output) if output else run / "report.html"
    page = render_report(read_run(run))
    with atomic_write(path) as file:
        file.write(page)
    return path


def render_report(record: Record) -> str:
    """The page as HTML."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    plots = [("", charts_of(record)), *((part.name, charts_of(part)) for part in record.parts)]
    events = [("", event) for event in record.events]
    events += [(part.name, event) for part in record.parts for event in part.events]
    events.sort(key=lambda one: one[1]["time"])
    recipe = Path(record.run.path) / CONFIG
    return template.render(
        name=record.name,
        run=record.run,
        started=when(record.run.started),
        lasted=duration(record.run.seconds),
        tiles=tiles(record),
        results=[result_row(event) for event in record.of_kind("result")],
        plots=[
            (name, [(one.title, one.series, one.svg()) for one in charts]) for name, charts in plots if charts
        ],
        points=json.dumps([one.points() for _, charts in plots for one in charts]).replace("<", "\\u003c"),
        stages=stage_bars(record),
        events=[(offset(record, event), part, event["kind"], event_line(event)) for part, event in events],
        samples=[event for _, event in events if event["kind"] == "sample"],
        config=recipe.read_text(encoding="utf-8") if recipe.is_file() else "",
        provenance=provenance_rows(record),
        versions=(record.of_kind("start") or [{}])[-1].get("versions", {}),
    )


def charts_of(record: Record) -> list[Chart]:
    """The run's metrics as plots: known ones first, together where they belong together."""
    names = list(dict.fromkeys(name for metric in record.metrics for name in metric.values))
    marks = [event["step"] for event in record.of_kind("resume")]
    planned = [(title, [name for name in group if name in names]) for title, group in PLOTS]
    known = {name for _, group in PLOTS for name in group}
    planned += [(name.replace("_", " "), [name]) for name in names if name not in known]
    return [
        Chart(title, [_series(record.metrics, name) for name in group], marks)
        for title, group in planned
        if group
    ]


def _series(metrics: list[Metric], name: str) -> Series:
    steps, values = series(metrics, name)
    return Series(name.replace("_", " "), steps, values, smooth=name in SMOOTH)


def tiles(record: Record) -> list[tuple[str, str]]:
    """The few figures at the top of the page."""
    shown: list[tuple[str, str]] = []
    for one in [record, *record.parts]:
        last, before = one.run.last, "" if one is record else f"{one.name}: "
        if one.metrics:
            shown.append((f"{before}steps", f"{one.run.steps:,}"))
        for name in ("loss", "validation_loss"):
            if name in last:
                shown.append((before + name.replace("_", " "), f"{last[name]:.3g}"))
        speeds = series(one.metrics, "tokens_per_second")[1]
        if speeds:
            shown.append((f"{before}tokens per second, median", figure(sorted(speeds)[len(speeds) // 2])))
    return [*shown, ("time", duration(record.run.seconds))]


def stage_bars(record: Record) -> list[tuple[str, float, float, str]]:
    """Each ended stage as (name, start, width in percent of the run, words)."""
    whole = max(record.run.seconds, 1e-9)
    bars = []
    for event in record.of_kind("stage"):
        if event["state"] != "end":
            continue
        start = max(event["time"] - event["seconds"] - record.run.started, 0)
        words = duration(event["seconds"])
        if event["budget"]:
            words += f" of {duration(event['budget'])}"
        left = min(100 * start / whole, 99.6)
        width = min(max(100 * event["seconds"] / whole, 0.4), 100 - left)
        bars.append((event["name"], left, width, words))
    return bars


def provenance_rows(record: Record) -> list[tuple[str, str]]:
    """Where the run came from, as its latest start recorded it, and what changed between starts."""
    starts = record.of_kind("start")
    if not starts:
        return []
    last = starts[-1]
    commit = (
        f"{last['commit'][:12]}{' with changes' if last['dirty'] else ''}"
        if last["commit"]
        else "not a repository"
    )
    machine = last["machine"]
    memory = f"{machine['memory'] / 2**30:.0f} GiB"
    rows = [
        ("command", " ".join(last["command"])),
        ("whorl", f"{last['whorl']}, commit {commit}, code {last['code'][:12]}"),
        ("dependencies", last["dependencies"][:12]),
        ("python", last["python"]),
        (
            "machine",
            f"{machine['cpu']}, {machine['cores']} cores, {memory}, {machine['system']}",
        ),
    ]
    rows += [(f"data {name}", value[:16]) for name, value in last["data"].items()]
    for before, after in pairwise(starts):
        changed = [key for key in ("code", "dependencies", "data", "python") if before[key] != after[key]]
        if changed:
            rows.append(("changed", f"{', '.join(changed)} at the start of {when(after['time'])}"))
    return rows


def offset(record: Record, event: dict[str, Any]) -> str:
    return "+" + duration(event["time"] - record.run.started)


def when(seconds: float) -> str:
    """A time as the reader's clock shows it."""
    return datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M:%S") if seconds else "–"
