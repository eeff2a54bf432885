"""Stages that are done once: their seconds and memory are kept, and what is done is not done again."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from whorl.base.files import read_json, write_json
from whorl.base.logbook import Logbook
from whorl.base.posix import tree_memory
from whorl.base.progress import duration, say

FILE = "stages.json"
FORMAT = 1


class MemoryWatch:
    """The peak memory of the process tree, looked at every second by a thread."""

    def __init__(self, seconds: float = 1.0) -> None:
        self.peak = tree_memory()
        self._seconds, self._stop = seconds, threading.Event()
        self._thread = threading.Thread(target=self._watch, name="whorl-memory", daemon=True)

    def _watch(self) -> None:
        while not self._stop.wait(self._seconds):
            self.peak = max(self.peak, tree_memory())

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self.peak = max(self.peak, tree_memory())


class Stages:
    """The stages of the run in `directory`, remembered in `stages.json`."""

    def __init__(self, directory: Path, logbook: Logbook, memory: MemoryWatch) -> None:
        self.path, self.logbook, self.memory = directory / FILE, logbook, memory
        self.known: dict[str, dict[str, Any]] = read_json(self.path)["stages"] if self.path.exists() else {}

    def done(self, name: str) -> bool:
        return self.known.get(name, {}).get("done", False)

    def value(self, name: str) -> Any:
        """What the stage was told to keep."""
        return self.known[name]["value"]

    @contextmanager
    def stage(self, name: str, budget: float = 0.0) -> Iterator[dict[str, Any]]:
        """Time a stage; what is put into the dictionary as "value" is kept with it. One that was asked to
        leave puts that in as "left", and is not done. An earlier, broken attempt's seconds count too."""
        before = self.known.get(name, {}).get("seconds", 0.0)
        say(f"── {name}" + (f" (budget {duration(budget)})" if budget else ""))
        self.logbook.event("stage", name=name, state="begin", budget=budget)
        started = time.perf_counter()
        kept: dict[str, Any] = {"value": None, "left": ""}
        finished = False
        try:
            yield kept
            finished = not kept["left"]
        finally:
            seconds = before + time.perf_counter() - started
            self.known[name] = {
                "done": finished, "seconds": seconds, "budget": budget, "memory": self.memory.peak,
                "value": kept["value"],
            }  # fmt: skip
            write_json(self.path, {"format": FORMAT, "stages": self.known})
        self.logbook.event("stage", name=name, seconds=seconds, budget=budget, memory=self.memory.peak)

    def seconds(self, *without: str) -> float:
        """Of all stages but these."""
        return sum(stage["seconds"] for name, stage in self.known.items() if name not in without)

    @property
    def peak(self) -> int:
        return max((stage["memory"] for stage in self.known.values()), default=0)
