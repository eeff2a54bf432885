"""Runs as they lie on disk, read once and then only what was added.

A run's two files are append-only, so a reader keeps its place in each. A file that has become shorter, or
is another one, is read from its beginning.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from whorl.base.config import read_toml
from whorl.base.errors import DataError, WhorlError
from whorl.base.logbook import CONFIG, EVENTS, METRICS, Metric, check_record, with_record
from whorl.base.runs import SILENT_AFTER, Record, Run, sum_up
from whorl.serve.api.errors import ApiError

DEPTH = 6  # folders below runs/
# Folders of a run that hold no runs, and may hold very many files.
INSIDE = {"checkpoints", "model", "adapter", "base", "data", "tokens", "documents", "signals", "images"}
HELD = 24  # runs kept in memory in full; the others' lines in the list are kept without


class Tail:
    """What is added to a file of JSON lines; `place` is where reading goes on."""

    def __init__(self, path: Path, place: int = 0) -> None:
        self.path, self.place = path, place
        self._line: int | None = None if place else 0  # its number is unknown where one begins in the midst
        self._inode = 0

    def is_replaced(self) -> bool:
        """Whether this is no longer the file that was read, or a part of it has gone."""
        try:
            status = os.stat(self.path)
        except FileNotFoundError:
            return self.place > 0
        return status.st_size < self.place or (self._inode not in (0, status.st_ino))

    def records(self) -> Iterator[tuple[str, Any]]:
        """(where, record) of each whole line that is new; DataError for a broken one."""
        try:
            file = open(self.path, "rb")
        except FileNotFoundError:
            return
        with file:
            self._inode = os.fstat(file.fileno()).st_ino
            file.seek(self.place)
            for line in file:
                if not line.endswith(b"\n"):
                    return  # being written at this moment
                at = f" at byte {self.place:,}" if self._line is None else f":{self._line + 1}"
                where = f"{self.path}{at}"
                try:
                    record = json.loads(line)
                except (json.JSONDecodeError, UnicodeDecodeError) as error:
                    raise DataError(f"{where}: not valid JSON: {error}") from error
                self.place += len(line)
                if self._line is not None:
                    self._line += 1
                yield where, record


@dataclass
class OpenRun:
    """A run that is read on as it grows."""

    folder: Path
    metrics: list[Metric] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self.metrics, self.events = [], []
        self.tails = (Tail(self.folder / METRICS), Tail(self.folder / EVENTS))

    def read_on(self) -> None:
        """Take in what is new. DataError for a line that is damaged, and again each time until it is not."""
        if any(tail.is_replaced() for tail in self.tails):
            self._begin()
        metrics, events = self.tails
        try:
            for where, record in metrics.records():
                self.metrics = with_record(self.metrics, record, where)
            for where, record in events.records():
                check_record(record, where)
                self.events.append(record)
        except DataError:
            self._begin()
            raise

    @property
    def places(self) -> tuple[int, int]:
        """Up to where its metrics and its events have been read."""
        return self.tails[0].place, self.tails[1].place


@dataclass(frozen=True)
class Listed:
    """A run's line in the list; `trouble` says why it cannot be read, `run` is None then."""

    way: str
    run: Run | None
    trouble: str = ""


class Runs:
    """The runs of a workspace, by their way below `runs/`. Its methods may wait for the disk: call them in
    a thread."""

    def __init__(self, workspace: Path) -> None:
        self.root = workspace / "runs"
        self._open: OrderedDict[Path, OpenRun] = OrderedDict()
        self._lines: dict[Path, tuple[Any, Listed]] = {}
        self._lock = threading.Lock()

    def ways(self) -> list[str]:
        return [folder.relative_to(self.root).as_posix() for folder in _walk(self.root, DEPTH, False)]

    def folder(self, way: str) -> Path:
        """The folder of a run; ApiError 404 for whatever is no run of this workspace."""
        parts = Path(way).parts
        folder = self.root / way
        inside = parts and not Path(way).is_absolute() and ".." not in parts and "\0" not in way
        if inside and is_run(folder) and folder.resolve().is_relative_to(self.root.resolve()):
            return folder
        raise ApiError(404, f"There is no run {way} in {self.root}.")

    def listed(self) -> list[Listed]:
        """Every run in a line, the newest first and what is inside a run right after it."""
        lines = [self._listed(way) for way in self.ways()]
        began = {line.way: line.run.started if line.run else 0.0 for line in lines}
        tops = {line.way: _top(line.way, began) for line in lines}
        return sorted(lines, key=lambda line: (-began[tops[line.way]], tops[line.way], *_nested(line, began)))

    def record(self, way: str) -> tuple[Record, dict[str, tuple[int, int]]]:
        """A run in full with the runs inside it, and up to where each was read. DataError where its files
        are damaged."""
        folder = self.folder(way)
        whole, place = self._read(folder)
        places = {way: place}
        parts = []
        for part in sorted(one for one in _children(folder) if is_run(one)):
            inner, places[f"{way}/{part.name}"] = self._read(part)
            parts.append(replace(inner, run=self._settled(part, inner.run)))
        parts.sort(key=lambda part: part.run.started)
        run = self._settled(folder, whole.run)
        if run.state == "stopped" and any(part.run.state == "going" for part in parts):
            run = replace(run, state="going")
        return replace(whole, run=run, parts=parts), places

    def _settled(self, folder: Path, run: Run) -> Run:
        """A run that says nothing of its end has ended when the one it is inside of has."""
        if run.state not in ("going", "stopped") or not is_run(folder.parent):
            return run
        above = self._read(folder.parent)[0].run
        over = above.state not in ("going", "stopped") and above.ended >= run.ended
        return replace(run, state=above.state) if over else run

    def _read(self, folder: Path) -> tuple[Record, tuple[int, int]]:
        held = self._held(folder)
        with held.lock:
            held.read_on()
            run = sum_up(folder, held.metrics, held.events)
            config = read_toml(folder / CONFIG) if (folder / CONFIG).is_file() else {}
            record = Record(run=run, config=config, metrics=list(held.metrics), events=list(held.events))
            return record, held.places

    def _held(self, folder: Path) -> OpenRun:
        with self._lock:
            held = self._open.setdefault(folder, OpenRun(folder))
            self._open.move_to_end(folder)
            while len(self._open) > HELD:
                self._open.popitem(last=False)
            return held

    def _listed(self, way: str) -> Listed:
        folder = self.root / way
        state = tuple(_state(folder / name) for name in (METRICS, EVENTS))
        known = self._lines.get(folder)
        if known is None or known[0] != state:
            try:
                known = (state, Listed(way, self._read(folder)[0].run))
            except (WhorlError, OSError) as error:
                known = (state, Listed(way, None, str(error)))
            self._lines[folder] = known
        run = known[1].run
        if run is None:
            return known[1]
        if run.state == "going" and time.time() - run.ended >= SILENT_AFTER:
            run = replace(run, state="stopped")
        try:
            return Listed(way, self._settled(folder, run))
        except (WhorlError, OSError):  # the one above is damaged, which its own line says
            return Listed(way, run)


def is_run(folder: Path) -> bool:
    return any((folder / name).is_file() for name in (METRICS, EVENTS))


def _walk(folder: Path, depth: int, within: bool) -> Iterator[Path]:
    """Run folders below this one, without those that a run keeps its results in."""
    for child in sorted(_children(folder)):
        if child.name.startswith(".") or (within and child.name in INSIDE):
            continue
        here = is_run(child)
        if here:
            yield child
        if depth > 1:
            yield from _walk(child, depth - 1, within or here)


def _children(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            return [folder / entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return []


def _state(file: Path) -> tuple[int, int, int] | None:
    try:
        status = os.stat(file)
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns


def _top(way: str, began: dict[str, float]) -> str:
    """The outermost run that this one is inside of."""
    parts = way.split("/")
    return next(above for n in range(1, len(parts) + 1) if (above := "/".join(parts[:n])) in began)


def _nested(line: Listed, began: dict[str, float]) -> tuple[Any, ...]:
    return (line.way != _top(line.way, began), began[line.way], line.way)
