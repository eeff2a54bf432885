"""A run's record: its configuration, where it came from, its metrics and its events.

    run/config.toml       the resolved configuration, itself runnable
    run/metrics.jsonl     {"step", "time", "values"} a line; {"restored": step, "time"} on resume
    run/events.jsonl      {"kind", "time", …} a line, kinds and fields as in `whorl.base.events`

Both files are append-only. A `restored` line supersedes every earlier metric past its step; the
superseded lines stay in the file and `read_metrics` leaves them out.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from whorl.base.config import Config, dump_config
from whorl.base.errors import DataError
from whorl.base.events import check_event
from whorl.base.files import JsonLines, atomic_write, read_jsonl
from whorl.base.progress import say

FORMAT = 1
CONFIG, METRICS, EVENTS = "config.toml", "metrics.jsonl", "events.jsonl"


class Logbook:
    """The writing end, for one process: rank 0. The other ranks take `Logbook.null()`.

    A torn last line, left by a crash, is cut on opening and said. Use as a context manager or
    call `close()`; every line is flushed as it is written either way.
    """

    def __init__(self, path: str | Path) -> None:
        self.path: Path | None = Path(path)
        self._metrics: JsonLines | None = JsonLines(self.path / METRICS)
        self._events: JsonLines | None = JsonLines(self.path / EVENTS)
        for file in (self._metrics, self._events):
            if file.torn_bytes:
                say(f"{file.path}: removed {file.torn_bytes} bytes of a line left unfinished by a crash")
                self.event("torn", file=file.path.name, bytes=file.torn_bytes)

    @classmethod
    def null(cls) -> Self:
        """A logbook that checks what it is given and keeps nothing."""
        logbook = cls.__new__(cls)
        logbook.path = logbook._metrics = logbook._events = None
        return logbook

    def config(self, config: Config, data: Mapping[str, str] | None = None) -> None:
        """Write the resolved configuration, and a `start` event with the run's provenance.

        `data` names each input and the hash of its content. A configuration that differs from the
        one on disk (a resumed run with an override) is written beside it: the old one stays as
        `config-1.toml`, `config-2.toml`, …
        """
        if self.path is None:
            return
        text = dump_config(config)
        place = self.path / CONFIG
        if place.exists() and place.read_text(encoding="utf-8") != text:
            number = len(list(self.path.glob("config-*.toml"))) + 1
            place.rename(self.path / f"config-{number}.toml")
        with atomic_write(place) as file:
            file.write(text)

        from whorl.base.provenance import provenance

        self.event("start", command=sys.argv, data=dict(data or {}), **provenance())

    def metric(self, step: int, **values: float) -> None:
        """Append one record: the values after `step` optimiser steps. A value that is not finite
        is kept as text ("nan", "inf"), since JSON has no such numbers."""
        record = {
            "step": int(step),
            "time": time.time(),
            "values": {k: number(v) for k, v in values.items()},
        }
        if self._metrics is not None:
            self._metrics.append(record)

    def event(self, kind: str, **fields: Any) -> None:
        """Append one event; `whorl.base.events` lists the kinds. `TypeError` for any other."""
        checked = check_event(kind, fields)
        if self._events is not None:
            head = {"format": FORMAT} if kind == "start" else {}
            self._events.append({"kind": kind, "time": time.time(), **head, **checked}, sync=True)

    def resume(self, step: int, checkpoint: str | Path = "") -> None:
        """The run goes on after `step` steps: metrics past it are superseded, none is removed."""
        if self._metrics is not None:
            self._metrics.append({"restored": int(step), "time": time.time()}, sync=True)
        self.event("resume", step=step, checkpoint=str(checkpoint))

    def close(self) -> None:
        for file in (self._metrics, self._events):
            if file is not None:
                file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def number(value: float) -> float | int | str:
    """A value as JSON can hold it: what is not finite becomes "nan", "inf" or "-inf"."""
    if isinstance(value, bool | int):
        return int(value)
    value = float(value)  # numpy's and torch's scalars too
    return value if math.isfinite(value) else str(value)


@dataclass(frozen=True)
class Metric:
    """The values recorded after `step` optimiser steps; `time` is seconds since the epoch."""

    step: int
    time: float
    values: dict[str, float]


def read_metrics(run: str | Path) -> list[Metric]:
    """A run's live metrics in the order written: what a later resume superseded is left out."""
    path = Path(run) / METRICS
    live: list[Metric] = []
    for number, record in enumerate(read_jsonl(path) if path.exists() else (), start=1):
        live = with_record(live, record, f"{path}:{number}")
    return live


def with_record(live: list[Metric], record: dict[str, Any], where: str) -> list[Metric]:
    """The live metrics after one more record of the file: the same list with it, or what a resume leaves."""
    try:
        if "restored" in record:
            return [metric for metric in live if metric.step <= record["restored"]]
        values = {name: float(value) for name, value in record["values"].items()}
        live.append(Metric(record["step"], record["time"], values))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{where}: not a metric record: {error!r}") from error
    return live


def read_events(run: str | Path) -> list[dict[str, Any]]:
    """A run's events in the order written, each with its `kind` and `time`."""
    path = Path(run) / EVENTS
    events = list(read_jsonl(path)) if path.exists() else []
    for number, event in enumerate(events, start=1):
        check_record(event, f"{path}:{number}")
    return events


def check_record(event: Any, where: str) -> None:
    """DataError unless this line of an events file is an event of a format that is known here."""
    if not isinstance(event, dict) or "kind" not in event or "time" not in event:
        raise DataError(f"{where}: not an event record")
    if event.get("format", FORMAT) > FORMAT:
        raise DataError(f"{where}: written by a newer Whorl (format {event['format']}); upgrade whorl")


def series(metrics: Iterable[Metric], name: str) -> tuple[list[int], list[float]]:
    """One metric's steps and values."""
    points = [(metric.step, metric.values[name]) for metric in metrics if name in metric.values]
    return [step for step, _ in points], [value for _, value in points]
