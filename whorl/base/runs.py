"""What a folder of runs holds: a line for each, and one in full."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from whorl.base.config import read_toml
from whorl.base.errors import InputError
from whorl.base.logbook import CONFIG, EVENTS, METRICS, Metric, read_events, read_metrics

SILENT_AFTER = 600  # seconds without a line after which an unfinished run counts as stopped


STATE_WORDS = {"going": "running", "left": "interrupted"}  # as people read them; the others say it already


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run directory, summed up. Times are seconds since the epoch; `seconds` is from the first
    line to the last, pauses included."""

    path: str
    state: str  # "done", "left" (a signal: starts again where it stopped), "fault", "going" or "stopped"
    started: float
    ended: float
    steps: int
    starts: int
    last: dict[str, float] = field(default_factory=dict)  # the newest value of each metric

    @property
    def seconds(self) -> float:
        return self.ended - self.started

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "seconds": self.seconds}


@dataclass(frozen=True, kw_only=True)
class Record:
    """A run in full, as it lies on disk; `parts` are the runs directly inside its folder, as the
    quickstart has one for each training."""

    run: Run
    config: dict[str, Any]
    metrics: list[Metric]
    events: list[dict[str, Any]]
    parts: list[Record] = field(default_factory=list)

    @property
    def name(self) -> str:
        return Path(self.run.path).resolve().name

    def of_kind(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["kind"] == kind]


def default_runs() -> str:
    """Where new runs go: where the studio, `whorl runs` and the rest look for them."""
    workspace = os.environ.get("WHORL_WORKSPACE")
    return str(Path(workspace) / "runs") if workspace else "runs"


def find_runs(root: str | Path) -> Iterator[Path]:
    """Run directories under `root`, itself too: whatever holds events.jsonl or metrics.jsonl."""
    root = Path(root)
    if not root.is_dir():
        raise InputError(f"{root} is not a directory; give the folder that contains your runs")
    yield from sorted({file.parent for name in (EVENTS, METRICS) for file in root.rglob(name)})


def list_runs(root: str | Path) -> list[Run]:
    """Every run under `root`, oldest first."""
    return sorted((read_run(path).run for path in find_runs(root)), key=lambda run: run.started)


def read_run(path: str | Path) -> Record:
    """A run in full. `InputError` where `path` is not one, `DataError` where its files are damaged."""
    path = Path(path)
    if not any((path / name).is_file() for name in (EVENTS, METRICS)):
        raise InputError(f"{path} is not a run: it has neither {EVENTS} nor {METRICS}; see whorl runs list")
    metrics, events = read_metrics(path), read_events(path)
    config = read_toml(path / CONFIG) if (path / CONFIG).is_file() else {}
    return Record(
        run=sum_up(path, metrics, events),
        config=config,
        metrics=metrics,
        events=events,
        parts=sorted((read_run(part) for part in _runs_inside(path)), key=lambda part: part.run.started),
    )


def _runs_inside(path: Path) -> set[Path]:
    return {file.parent for name in (EVENTS, METRICS) for file in path.glob(f"*/{name}")}


def sum_up(path: Path, metrics: list[Metric], events: list[dict[str, Any]]) -> Run:
    """A run in a line, from what its two files hold."""
    times = [metric.time for metric in metrics] + [event["time"] for event in events]
    last: dict[str, float] = {}
    for metric in metrics:
        last.update(metric.values)
    return Run(
        path=str(path),
        state=_state(events, max(times, default=0.0)),
        started=min(times, default=0.0),
        ended=max(times, default=0.0),
        steps=max((metric.step for metric in metrics), default=0),
        starts=sum(event["kind"] == "start" for event in events),
        last=last,
    )


def _state(events: list[dict[str, Any]], ended: float) -> str:
    reason = ""
    for event in events:
        if event["kind"] == "finish":
            reason = event["reason"]
        elif event["kind"] == "signal":
            reason = "signal"
        elif event["kind"] in ("start", "resume"):
            reason = ""
    if not reason:
        return "going" if time.time() - ended < SILENT_AFTER else "stopped"
    return {"signal": "left", "fault": "fault"}.get(reason, "done")
