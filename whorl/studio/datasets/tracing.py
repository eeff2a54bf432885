"""From a weight version back to runs, tokens and documents. The hashes of all inputs are followed, which
may mean reading them: it is done once for many who ask, and a page does not wait for it."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from pathlib import Path
from typing import Any
from urllib.parse import quote

from starlette.concurrency import run_in_threadpool

from whorl.base.lineage import SHORT, Origin, trace_back
from whorl.studio.datasets.finding import Datasets

PATIENCE = 0.8  # seconds that a page waits for
KEPT = 32
LISTED = 12  # inputs of one thing; the rest is folded away


class Tracer:
    def __init__(self, workspace: Path, datasets: Datasets) -> None:
        self._root, self._datasets = workspace, datasets
        self._tasks: OrderedDict[str, asyncio.Task[Origin]] = OrderedDict()
        self._one = asyncio.Semaphore(1)

    async def find(self, version: str, patience: float | None = PATIENCE) -> Origin | None:
        """The origin; None where it is still being looked for. Raises what `trace_back` raises."""
        task = self._tasks.get(version)
        if task is None:
            task = self._tasks[version] = asyncio.create_task(self._look(version))
            while len(self._tasks) > KEPT:
                self._tasks.popitem(last=False)
        done, _ = await asyncio.wait([task], timeout=patience)
        if not done:
            return None
        # Files change: whoever comes next looks anew.
        self._tasks.pop(version, None)
        return task.result()

    async def _look(self, version: str) -> Origin:
        async with self._one:
            return await run_in_threadpool(trace_back, version, self._root)

    def node(self, origin: Origin) -> dict[str, Any]:
        """An origin as the template draws it, with the page that tells more of it."""
        inner = [self.node(one) for one in origin.origins]
        return {
            "kind": origin.kind, "name": origin.name, "hash": origin.hash, "short": origin.hash[:SHORT],
            "path": origin.path, "note": origin.note, "href": self.href(origin),
            "first": inner[:LISTED], "rest": inner[LISTED:],
        }  # fmt: skip

    def href(self, origin: Origin) -> str:
        if origin.kind == "run" and (way := self._run_way(origin.path)):
            return f"/runs/{quote(way)}"
        if origin.kind in ("tokens", "dataset") and (way := self._datasets.way_of(origin.path)):
            return f"/data/{quote(way)}"
        return ""

    def _run_way(self, path: str) -> str:
        root = (self._root / "runs").resolve()
        resolved = Path(path).resolve()
        return resolved.relative_to(root).as_posix() if path and resolved.is_relative_to(root) else ""
