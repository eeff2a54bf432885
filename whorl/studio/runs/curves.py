"""A run's metrics as curves for the page, with what happened meanwhile."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from whorl.base.logbook import Metric, series
from whorl.base.plot import Series, thin
from whorl.base.report import PLOTS, SMOOTH
from whorl.base.runs import Record
from whorl.base.timeline import event_line

POINTS = 1500  # of a curve; more are thinned, their extremes kept
LOGARITHMIC = ("loss", "lr", "grad_norm")
# Events that are shown on the curves; those of "start" and "stage" have no step.
MARKED = ("resume", "checkpoint", "sample", "signal", "fault", "damaged", "exported", "note")
BAD = ("fault", "damaged")
MARK_LENGTH = 60  # characters


def charts(record: Record) -> list[dict[str, Any]]:
    """The plots of one run: metrics that belong together share one, as in the report."""
    return [
        {
            "title": title, "log": names[0] in LOGARITHMIC, "metrics": names,
            "series": [curve(record.metrics, name, words(name)) for name in names], "marks": marks(record),
        }
        for title, names in grouped(record.metrics)
    ]  # fmt: skip


def compared(records: Sequence[tuple[str, Record]]) -> list[dict[str, Any]]:
    """A plot for each metric, with a curve for each run that has it."""
    names = list(dict.fromkeys(name for _, record in records for name in metric_names(record.metrics)))
    order = [name for _, group in PLOTS for name in group]
    titles = {group[0]: title for title, group in PLOTS}
    names.sort(key=lambda name: order.index(name) if name in order else len(order))
    return [
        {
            "title": titles.get(name, words(name)), "metrics": [name],
            "log": name in LOGARITHMIC or name == "validation_loss",
            "series": [
                curve(record.metrics, name, way) for way, record in records
                if name in metric_names(record.metrics)
            ],
            "marks": [],
        }
        for name in names
    ]  # fmt: skip


def grouped(metrics: Iterable[Metric]) -> list[tuple[str, list[str]]]:
    names = metric_names(metrics)
    known = {name for _, group in PLOTS for name in group}
    found = [(title, [name for name in group if name in names]) for title, group in PLOTS]
    found += [(words(name), [name]) for name in names if name not in known]
    return [(title, group) for title, group in found if group]


def metric_names(metrics: Iterable[Metric]) -> list[str]:
    return list(dict.fromkeys(name for metric in metrics for name in metric.values))


def curve(metrics: Sequence[Metric], name: str, called: str) -> dict[str, Any]:
    steps, values = series(metrics, name)
    drawn = thin(Series(name, steps, values), POINTS)
    y = [number(value) for value in drawn.values]
    return {"name": called, "metric": name, "x": list(drawn.steps), "y": y, "smooth": name in SMOOTH}


def marks(record: Record) -> list[dict[str, Any]]:
    """Events at their steps; what has none stands on the timeline alone."""
    return [one for event in record.events if (one := mark(event)) is not None]


def mark(event: dict[str, Any]) -> dict[str, Any] | None:
    step = event.get("step", -1)
    if event["kind"] not in MARKED or not isinstance(step, int) or step < 0:
        return None
    text = _told(event)
    text = text if len(text) <= MARK_LENGTH else text[: MARK_LENGTH - 1] + "…"
    return {"x": step, "kind": event["kind"], "text": text, "bad": event["kind"] in BAD}


def _told(event: dict[str, Any]) -> str:
    """An event in few words: the timeline has it in full."""
    if event["kind"] == "checkpoint":
        return f"{event.get('bytes', 0) / 1e6:,.1f} MB in {event.get('seconds', 0):.2g} s"
    if event["kind"] == "exported":
        return f"{event['path'].rpartition('/')[2]} {(event.get('weights') or event.get('adapter', ''))[:12]}"
    for field in ("reply", "text", "signal", "reason"):
        if event.get(field):
            return " ".join(str(event[field]).split())
    return event_line({key: value for key, value in event.items() if key != "step"})


def number(value: float) -> float | None:
    return float(f"{value:.6g}") if math.isfinite(value) else None


def words(name: str) -> str:
    return name.replace("_", " ")
