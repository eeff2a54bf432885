"""The leaderboard's page, its pieces as votes come in, and its files."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, get_args
from urllib.parse import urlencode

from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from whorl.arena.config import Interval
from whorl.arena.style import STYLES
from whorl.base.errors import InputError
from whorl.studio.battles.live_board import LiveBoard, Snapshot
from whorl.studio.board.figures import Figures, View, as_csv, as_json
from whorl.studio.studio import Studio
from whorl.studio.web.streams import Event, send_events

PAUSE = 2.0  # seconds between two tellings of a board that keeps moving
INTERVALS = get_args(Interval)


def add_board(made: FastAPI, studio: Studio) -> None:
    live = studio.battles.board
    figures = Figures(live)

    @made.get("/board")
    async def page(request: Request) -> Response:
        person = studio.person(request)
        view = read_view(request)
        values = await run_in_threadpool(at_once, studio, figures, view)
        return studio.pages.page(request, "board.html", person, view=view, intervals=INTERVALS, **values)

    @made.get("/api/board")
    async def board(request: Request) -> Response:
        """What moves on the page as votes come in."""
        studio.person(request)
        return JSONResponse(await run_in_threadpool(shown, studio, figures, read_view(request)))

    @made.get("/api/board/more")
    async def more(request: Request) -> Response:
        """What takes a moment: ratings over time, and the votes that decide places."""
        studio.person(request)
        return JSONResponse(await run_in_threadpool(slower, studio, figures, read_view(request)))

    @made.get("/api/board/stream")
    async def stream(request: Request, after: str = "0") -> Response:
        studio.person(request)
        seen = request.headers.get("last-event-id") or after
        news = follow(live, int(seen) if seen.isdecimal() else 0)
        return send_events(news, studio.config.limits.keep_alive_seconds)

    @made.get("/board.{form}")
    async def export(request: Request, form: str) -> Response:
        """The board as a file, with every vote in it that is on disk."""
        studio.person(request)
        if form not in ("json", "csv"):
            raise InputError(f"the board is available as json or csv, not {form}")
        view = read_view(request)

        def made_file() -> str:
            rows = figures.board(figures.snapshot(fresh=True), view)
            return as_json(rows) if form == "json" else as_csv(rows)

        kind = "application/json" if form == "json" else "text/csv; charset=utf-8"
        name = f'attachment; filename="whorl-board.{form}"'
        headers = {"Content-Disposition": name, "Cache-Control": "no-store"}
        return Response(await run_in_threadpool(made_file), media_type=kind, headers=headers)


def read_view(request: Request) -> View:
    asked = request.query_params
    interval = asked.get("interval", "sandwich")
    if interval not in INTERVALS:
        raise InputError(f"interval {interval} is not one of {', '.join(INTERVALS)}")
    return View(asked.get("category", ""), asked.get("style", "") == "on", interval)  # type: ignore[arg-type]


def at_once(studio: Studio, figures: Figures, view: View) -> dict[str, Any]:
    """The page's values; while a long log is still being read, none: the page asks for them then."""
    if figures.live.is_read():
        return shown(studio, figures, view)
    return {
        "seq": 0, "reading": True, "cast": 0, "categories": [view.category] if view.category else [],
        "styles": STYLES, "query": query_of(view), "rows": [], "pieces": {}, "counted": 0,
    }  # fmt: skip


def query_of(view: View) -> str:
    asked = {
        "category": view.category, "style": "on" if view.style else "",
        "interval": "" if view.interval == "sandwich" else view.interval,
    }  # fmt: skip
    return urlencode({name: value for name, value in asked.items() if value})


def shown(studio: Studio, figures: Figures, view: View) -> dict[str, Any]:
    """The page's values; `board` is None while no vote counts."""
    snapshot = figures.snapshot()
    values: dict[str, Any] = {
        "seq": snapshot.seq, "cast": snapshot.votes, "categories": list(snapshot.battles.category.names),
        "styles": list(snapshot.battles.style_names), "query": query_of(view), "reading": False,
        "rows": [], "pieces": {}, "counted": 0,
    }  # fmt: skip
    if snapshot.board is None:
        return values
    board = figures.board(snapshot, view)
    return values | {
        "counted": board.votes, "rows": list(board.rows),
        "pieces": {
            "table": studio.pages.part("board_table.html", board=board, cast=_cast(snapshot, view)),
            "matrix": studio.pages.part("board_matrix.html", **figures.matrix(snapshot, view)),
        },
    }  # fmt: skip


def _cast(snapshot: Snapshot, view: View) -> int:
    """All votes that were cast, where that is what the board is of."""
    return snapshot.votes if not view.category else 0


def slower(studio: Studio, figures: Figures, view: View) -> dict[str, Any]:
    snapshot = figures.snapshot()
    if snapshot.board is None:
        return {"seq": snapshot.seq, "timeline": {"moments": 0, "series": []}, "flips": ""}
    flips = figures.flips(snapshot, view)
    return {
        "seq": snapshot.seq, "timeline": figures.timeline(snapshot, view),
        "flips": studio.pages.part("board_flips.html", flips=flips, styled=view.style),
    }  # fmt: skip


async def follow(live: LiveBoard, after: int) -> AsyncIterator[tuple[int, Event]]:
    """An event for each board newer than the log's row `after`, however many votes it has more."""
    loop, moved = asyncio.get_running_loop(), asyncio.Event()

    def tell(_: Snapshot) -> None:
        loop.call_soon_threadsafe(moved.set)

    end = live.listen(tell)
    try:
        while True:
            moved.clear()
            now = live.snapshot
            if now.seq > after:
                after = now.seq
                yield now.seq, Event("board", {"seq": now.seq, "votes": now.votes})
                await asyncio.sleep(PAUSE)
            else:
                await moved.wait()
    finally:
        end()
