"""The data's pages: the datasets of the workspace, one in full, and the way back from weights."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from whorl.base.errors import DataError, InputError
from whorl.base.lineage import Origin
from whorl.studio.datasets.figures import funnel, histograms
from whorl.studio.datasets.finding import Datasets, Found
from whorl.studio.datasets.samples import PAGE, kept, rejects
from whorl.studio.datasets.tracing import Tracer
from whorl.studio.studio import Studio

FIRST_PLOTS = 6  # signals that are drawn at once; the others are folded away
INPUTS_SHOWN = 50


def add_datasets(made: FastAPI, studio: Studio) -> None:
    datasets = Datasets(studio.workspace)
    tracer = Tracer(studio.workspace, datasets)
    spreads = Spreads()

    def tree(request: Request, origin: Origin) -> str:
        root = str(request.scope.get("root_path") or "")
        return studio.pages.part("trace_tree.html", node=tracer.node(origin), root=root)

    @made.get("/data")
    async def page(request: Request) -> Response:
        person = studio.person(request)
        found = [row(one) for one in await run_in_threadpool(datasets.all)]
        return studio.pages.page(request, "data.html", person, datasets=found)

    @made.get("/data/trace/{version}")
    async def trace(request: Request, version: str) -> Response:
        person = studio.person(request)
        values: dict[str, Any] = {"weights": version, "tree": "", "message": ""}
        try:
            origin = await tracer.find(version)
            if origin is not None:
                values["tree"] = tree(request, origin)
        except (InputError, DataError) as error:
            values["message"] = str(error)
        status = 404 if values["message"] else 200
        return studio.pages.page(request, "trace.html", person, status=status, **values)

    @made.get("/api/data/trace/{version}")
    async def traced(request: Request, version: str) -> Response:
        """The same once it is found, however long that takes."""
        studio.person(request)
        origin = await tracer.find(version, patience=None)
        assert origin is not None  # it was waited for
        return JSONResponse({"tree": tree(request, origin), "origin": origin.to_json()})

    @made.get("/api/data/signals")
    async def signals(request: Request, data: str) -> Response:
        """Histograms, which the page does not wait for: they are made of up to 50,000 documents."""
        studio.person(request)
        found = await run_in_threadpool(datasets.find, data)
        if found.documents is None:
            raise InputError(f"{data} has no documents")
        drawn = await run_in_threadpool(spreads.of, found.folder, found.documents)
        html = studio.pages.part("dataset_signals.html", first_plots=FIRST_PLOTS, **drawn)
        return JSONResponse({"html": html, **drawn})

    @made.get("/data/{way:path}")
    async def dataset(request: Request, way: str) -> Response:
        person = studio.person(request)
        found = await run_in_threadpool(datasets.find, way)
        try:
            values = await run_in_threadpool(whole, found, request)
        except (DataError, FileNotFoundError) as error:
            found, values = replace(found, trouble=str(error)), {}
        return studio.pages.page(request, "dataset.html", person, found=found, **(EMPTY | values))


# Of a folder with tokens alone.
EMPTY: dict[str, Any] = {
    "stages": [], "signals": [], "first_plots": FIRST_PLOTS, "kept": [],
    "rejects": None, "reasons": {}, "step": "", "reason": "", "after": "", "page": 1, "pages": 1,
    "inputs": [], "more_inputs": 0, "steps": [], "link": lambda **_: "",
}  # fmt: skip


class Spreads:
    """Histograms by manifest: they are read from many files, and a finished dataset does not change."""

    def __init__(self) -> None:
        self._known: dict[tuple[Path, str], dict[str, Any]] = {}
        self._lock = threading.Lock()

    def of(self, folder: Path, manifest: dict[str, Any]) -> dict[str, Any]:
        key = (folder, str(manifest.get("fingerprint")))
        with self._lock:  # who asks meanwhile waits and has it then
            if key not in self._known:
                self._known[key] = histograms(folder, manifest)
            return self._known[key]


def row(found: Found) -> dict[str, Any]:
    """A dataset's card in the list."""
    manifest = found.documents or {}
    read, documents = manifest.get("read", 0), manifest.get("documents", 0)
    return {
        "way": found.way, "trouble": found.trouble, "unfinished": found.unfinished,
        "has_documents": bool(manifest), "read": read, "documents": documents,
        "share": 100 * documents / read if read else 0.0,
        "tokens": sum(split["tokens"] for split in found.splits.values()),
        "splits": {name: count for name, count in manifest.get("splits", {}).items() if name},
    }  # fmt: skip


def whole(found: Found, request: Request) -> dict[str, Any]:
    """The values of a dataset's page."""
    if found.documents is None:
        return {}
    manifest, asked = found.documents, request.query_params
    number = asked.get("page", "1")
    pages = max(-(-manifest["documents"] // PAGE), 1)
    page = min(max(int(number), 1), pages) if number.isdecimal() else 1
    step, reason = asked.get("step", ""), asked.get("reason", "")
    after = asked.get("after", "")
    inputs = manifest.get("inputs", [])

    def link(**changed: str | int) -> str:
        """The address of this page with one thing changed."""
        now = {"page": page if page > 1 else "", "step": step, "reason": reason, "after": after} | changed
        return "?" + urlencode({name: value for name, value in now.items() if value})

    return {
        "stages": funnel(manifest),
        "signals": [one["name"] for one in manifest.get("steps", []) if one.get("kind") == "Annotate"],
        "kept": kept(found.folder, manifest, page), "page": page, "pages": pages,
        "rejects": rejects(found.folder, manifest, step, reason, after), "after": after,
        "reasons": manifest["reasons"], "step": step, "reason": reason,
        "inputs": inputs[:INPUTS_SHOWN], "more_inputs": max(len(inputs) - INPUTS_SHOWN, 0),
        "steps": [one for one in manifest.get("steps", []) if one.get("kind") != "Annotate"],
        "link": link,
    }  # fmt: skip
