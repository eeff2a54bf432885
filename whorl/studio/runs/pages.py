"""The runs' pages: the list, one run, several beside each other, and their streams."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response

from whorl.base.errors import InputError, WhorlError
from whorl.base.logbook import CONFIG
from whorl.base.progress import duration
from whorl.base.report import offset, provenance_rows, render_report, stage_bars, tiles, when
from whorl.base.runs import Record
from whorl.base.timeline import event_line, result_row
from whorl.studio.datasets.finding import Datasets
from whorl.studio.runs.curves import charts, compared
from whorl.studio.runs.feed import ENDED, follow, write_places
from whorl.studio.runs.reading import Listed, Runs, is_run
from whorl.studio.studio import Studio
from whorl.studio.web.streams import send_events

COMPARED = 8  # runs at once
EVENTS_SHOWN, SAMPLES_SHOWN = 400, 40  # the newest
BADGES = {"going": "accent", "done": "good", "fault": "bad", "left": "warn", "stopped": "warn"}
DATA = "data "  # how provenance names an input; its path follows
# The report has its script inside. Here it runs as a page of no origin: it reaches neither cookie nor studio.
REPORT_POLICY = (
    "sandbox allow-scripts; default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline';"
    " img-src data:; frame-ancestors 'none'"
)


def add_runs(made: FastAPI, studio: Studio) -> None:
    runs = Runs(studio.workspace)

    @made.get("/runs")
    async def page(request: Request) -> Response:
        person = studio.person(request)
        lines = rows(await run_in_threadpool(runs.listed))
        return studio.pages.page(request, "runs.html", person, runs=lines, root_folder=runs.root)

    @made.get("/api/runs")
    async def listed(request: Request) -> Response:
        studio.person(request)
        return JSONResponse({"runs": rows(await run_in_threadpool(runs.listed))})

    @made.get("/api/runs/curves")
    async def curves(request: Request) -> Response:
        """Curves and the rest of the page of `run`, or of several runs the curves alone."""
        studio.person(request)
        ways = chosen(request)
        if len(ways) > 1:
            return JSONResponse(await run_in_threadpool(comparison, runs, ways))
        return JSONResponse(await run_in_threadpool(whole, studio, runs, ways[0]))

    @made.get("/api/runs/pieces")
    async def changing(request: Request) -> Response:
        """What changes on the page of `run` as it goes on, without the curves."""
        studio.person(request)

        def read() -> dict[str, Any]:
            way = chosen(request)[0]
            record, places = runs.record(way)
            return {"runs": len(places), "pieces": rendered(studio, record)}

        return JSONResponse(await run_in_threadpool(read))

    @made.get("/api/runs/stream")
    async def stream(request: Request) -> Response:
        studio.person(request)
        ways = chosen(request)
        for way in ways:
            await run_in_threadpool(runs.folder, way)
        after = request.headers.get("last-event-id") or request.query_params.get("after", "")
        return send_events(follow(runs, ways, after), studio.config.limits.keep_alive_seconds)

    @made.get("/runs/{way:path}")
    async def run(request: Request, way: str) -> Response:
        person = studio.person(request)
        if way in ("compare", "report") and "run" in request.query_params:
            if way == "report":
                return await run_in_threadpool(report, runs, chosen(request)[0])
            ways = chosen(request)
            values = await run_in_threadpool(comparison, runs, ways)
            return studio.pages.page(request, "compare.html", person, ways=ways, values=values)
        folder = await run_in_threadpool(runs.folder, way)
        try:
            values = await run_in_threadpool(whole, studio, runs, way)
        except WhorlError as error:
            return studio.pages.page(
                request, "run_damaged.html", person, way=way, message=str(error), folder=folder
            )
        return studio.pages.page(request, "run.html", person, values=values, **values["facts"])


def chosen(request: Request) -> list[str]:
    """The runs that the address names, each once."""
    ways = list(dict.fromkeys(request.query_params.getlist("run")))
    if not ways:
        raise InputError("name a run: ?run=…")
    if len(ways) > COMPARED:
        raise InputError(f"{len(ways)} runs are too many; compare at most {COMPARED} runs")
    return ways


def rows(listed: list[Listed]) -> list[dict[str, Any]]:
    ways = {one.way for one in listed}
    return [line(one, above if (above := one.way.rpartition("/")[0]) in ways else "") for one in listed]


def line(one: Listed, above: str) -> dict[str, Any]:
    """A run's row in the list; `above` is the run it is inside of."""
    row = {"way": one.way, "above": above, "trouble": one.trouble, "state": "damaged", "badge": "bad"}
    row |= dict.fromkeys(("started", "lasted", "steps", "loss"), "")
    if one.run is None:
        return row
    loss = one.run.last.get("loss")
    return row | {
        "state": one.run.state, "badge": BADGES.get(one.run.state, ""), "started": when(one.run.started),
        "lasted": duration(one.run.seconds), "steps": f"{one.run.steps:,}" if one.run.steps else "",
        "loss": "" if loss is None else f"{loss:.4g}",
    }  # fmt: skip


def whole(studio: Studio, runs: Runs, way: str) -> dict[str, Any]:
    """What the page of a run shows: facts, curves, and the parts of the page that change as it goes on."""
    record, places = runs.record(way)
    shown = [(way, record), *((f"{way}/{part.name}", part) for part in record.parts)]
    sections = [
        {"way": one, "name": "" if part is record else part.name, "plots": charts(part)}
        for one, part in shown
    ]
    return {
        "facts": facts(record, way, Datasets(studio.workspace)),
        "ways": [one for one, _ in shown],
        "sections": sections,
        "after": write_places(places),
        "live": record.run.state not in ENDED,
        "pieces": rendered(studio, record),
    }


def rendered(studio: Studio, record: Record) -> dict[str, str]:
    return {name: studio.pages.part(f"run_{name}.html", **values) for name, values in pieces(record).items()}


def comparison(runs: Runs, ways: list[str]) -> dict[str, Any]:
    records, places = [], {}
    for way in ways:
        record, read = runs.record(way)
        records.append((way, record))
        places[way] = read[way]
    return {
        "ways": ways,
        "sections": [{"way": "", "name": "", "plots": compared(records)}],
        "after": write_places(places),
        "live": any(record.run.state not in ENDED for _, record in records),
        "states": {way: record.run.state for way, record in records},
        "badges": {way: BADGES.get(record.run.state, "") for way, record in records},
        "configs": differences(records),
    }


def differences(records: list[tuple[str, Record]]) -> list[tuple[str, list[str]]]:
    """Settings that are not the same in all the runs: (name, its value in each)."""
    flat = [_flat(record.config) for _, record in records]
    names = sorted({name for one in flat for name in one})
    rows = [(name, [one.get(name, "–") for one in flat]) for name in names]
    return [(name, values) for name, values in rows if len(set(values)) > 1]


def _flat(config: dict[str, Any], before: str = "") -> dict[str, str]:
    found: dict[str, str] = {}
    for key, value in config.items():
        if isinstance(value, dict):
            found |= _flat(value, f"{before}{key}.")
        else:
            found[before + key] = str(value)
    return found


def facts(record: Record, way: str, datasets: Datasets) -> dict[str, Any]:
    """What stays as it is while a page is open."""
    folder = Path(record.run.path)
    recipe = folder / CONFIG
    above = way.rpartition("/")[0] if is_run(folder.parent) else ""
    return {
        "way": way, "name": record.name, "above": above, "state": record.run.state,
        "badge": BADGES.get(record.run.state, ""), "started": when(record.run.started),
        "starts": record.run.starts, "folder": str(folder),
        "config": recipe.read_text(encoding="utf-8", errors="replace") if recipe.is_file() else "",
        "provenance": [
            (label, text, datasets.way_of(label[len(DATA) :]) if label.startswith(DATA) else "")
            for label, text in provenance_rows(record)
        ],
        "versions": (record.of_kind("start") or [{}])[-1].get("versions", {}),
        "report": f"/runs/report?{urlencode({'run': way})}",
    }  # fmt: skip


def pieces(record: Record) -> dict[str, dict[str, Any]]:
    """Values for the templates `run_….html`."""
    events = [("", event) for event in record.events]
    events += [(part.name, event) for part in record.parts for event in part.events]
    events.sort(key=lambda one: one[1]["time"])
    samples = [(part, event) for part, event in events if event["kind"] == "sample"]
    return {
        "tiles": {"tiles": tiles(record)},
        "results": {"results": [result_row(event) for event in record.of_kind("result")]},
        "stages": {"stages": stage_bars(record)},
        "weights": {"weights": [(part, event) for part, event in events if event["kind"] == "exported"]},
        "samples": {"samples": samples[: -SAMPLES_SHOWN - 1 : -1], "all": len(samples)},
        "timeline": {
            "events": [
                (offset(record, event), part, event["kind"], event_line(event))
                for part, event in events[: -EVENTS_SHOWN - 1 : -1]
            ],
            "parts": bool(record.parts), "all": len(events),
        },
    }  # fmt: skip


def report(runs: Runs, way: str) -> Response:
    """As `whorl runs report` writes it, of the run as it is now."""
    headers = {"Content-Security-Policy": REPORT_POLICY, "Cache-Control": "no-store"}
    return HTMLResponse(render_report(runs.record(way)[0]), headers=headers)
