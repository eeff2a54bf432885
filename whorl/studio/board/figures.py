"""What the leaderboard shows, from the live board's votes: each thing computed once for a state of the log.

A plain board is the live board's own. Others (a category, style control, other intervals), the ratings over
time and the votes that decide a place are fits of their own: they are made when they are asked for, in the
asker's thread, and kept while no vote comes.
"""

from __future__ import annotations

import csv
import io
import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from whorl.arena.battles import Battles
from whorl.arena.board import Board, make_board
from whorl.arena.config import Interval, RatingConfig
from whorl.arena.flips import Flip, votes_to_flip
from whorl.arena.style import STYLES
from whorl.arena.views import ratings_over_time, win_matrix
from whorl.base.errors import InputError
from whorl.serve.api.errors import ApiError
from whorl.studio.battles.live_board import LiveBoard, Snapshot

KEPT = 48  # results
MOST_IN_MATRIX = 30  # models; a larger table is for the export
MOST_FLIPS = 15  # places from the top
MOMENTS = 14  # of the ratings over time
DRAWN = 6  # curves over time that are shown at first
COLUMNS = ("model", "rating", "low", "high", "rank", "battles")

T = TypeVar("T")


@dataclass(frozen=True)
class View:
    """Which board: of one category or all, at equal style or not, with which intervals."""

    category: str = ""
    style: bool = False
    interval: Interval = "sandwich"

    @property
    def is_plain(self) -> bool:
        return self == View()

    def settings(self, battles: Battles) -> RatingConfig:
        style = tuple(name for name in STYLES if name in battles.style_names) if self.style else ()
        return RatingConfig(category=self.category or None, style=style, interval=self.interval)

    def chosen(self, battles: Battles) -> Battles:
        return battles.of_category(self.category) if self.category else battles


class Figures:
    """Its methods may take seconds: call them in a thread."""

    def __init__(self, live: LiveBoard) -> None:
        self.live = live
        self._kept: OrderedDict[Hashable, Any] = OrderedDict()
        self._busy: dict[Hashable, threading.Lock] = {}
        self._lock = threading.Lock()

    def snapshot(self, fresh: bool = False) -> Snapshot:
        """The newest board; `fresh`, and at the studio's start, with every vote in it that is on disk."""
        return self.live.refresh() if fresh or not self.live.is_read() else self.live.snapshot

    def board(self, snapshot: Snapshot, view: View) -> Board:
        """Raises ApiError 404 for a category that nobody voted in."""
        if view.category and view.category not in snapshot.battles.category.names:
            raise ApiError(404, f"There are no votes in category {view.category}.")
        if snapshot.board is None:
            raise ApiError(404, "There are no votes yet.")
        if view.is_plain:
            return snapshot.board
        settings = view.settings(snapshot.battles)
        return self._once((snapshot.seq, "board", view), lambda: make_board(snapshot.battles, settings))

    def matrix(self, snapshot: Snapshot, view: View) -> dict[str, Any]:
        """Rows and columns in the board's order: share of points, battles, a shade from 0 to 10."""
        board = self.board(snapshot, view)
        return self._once((snapshot.seq, "matrix", view), lambda: matrix(snapshot, view, board))

    def timeline(self, snapshot: Snapshot, view: View) -> dict[str, Any]:
        """The plot's data; empty where there are too few moments to draw a line."""
        board = self.board(snapshot, view)
        return self._once((snapshot.seq, "timeline", view), lambda: timeline(snapshot, view, board))

    def flips(self, snapshot: Snapshot, view: View) -> list[Flip]:
        self.board(snapshot, view)
        key = (snapshot.seq, "flips", view.category)  # they are judged by plain ratings
        return self._once(key, lambda: votes_to_flip(view.chosen(snapshot.battles), top=MOST_FLIPS))

    def _once(self, key: Hashable, work: Callable[[], T]) -> T:
        """What is kept under `key`, or `work()`: two who ask at once wait for one of them to have done it."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
            busy = self._busy.setdefault(key, threading.Lock())
        with busy:
            if key not in self._kept:
                done = work()
                with self._lock:
                    self._kept[key] = done
                    self._busy.pop(key, None)
                    while len(self._kept) > KEPT:
                        self._kept.popitem(last=False)
                return done
            return self._kept[key]


def matrix(snapshot: Snapshot, view: View, board: Board) -> dict[str, Any]:
    won = win_matrix(view.chosen(snapshot.battles).compact())
    names = [row["model"] for row in board.rows]
    shown = names[:MOST_IN_MATRIX]
    places = [won.models.index(name) for name in shown]
    share = won.share[np.ix_(places, places)]
    met = won.battles[np.ix_(places, places)]

    def cell(row: int, column: int) -> dict[str, Any]:
        if row == column or not met[row, column]:
            return {"share": None}
        won_here = float(share[row, column])
        return {
            "share": f"{100 * won_here:.0f}", "battles": int(met[row, column]), "shade": round(10 * won_here),
        }  # fmt: skip

    cells = [[cell(row, column) for column in range(len(shown))] for row in range(len(shown))]
    return {"models": shown, "cells": cells, "all": len(names)}


def timeline(snapshot: Snapshot, view: View, board: Board) -> dict[str, Any]:
    settings = view.settings(snapshot.battles).model_dump(exclude={"category"})
    try:
        found = ratings_over_time(view.chosen(snapshot.battles), MOMENTS, **settings)
    except InputError:  # e.g. the first votes all tie: there was no scale then
        return {"moments": 0, "series": []}
    series = []
    for place, row in enumerate(board.rows):
        column = found.models.index(row["model"])
        there = np.isfinite(found.rating[:, column])
        series.append({
            "name": row["model"], "x": [float(time) for time in found.times[there]],
            "y": _numbers(found.rating[there, column]), "low": _numbers(found.low[there, column]),
            "high": _numbers(found.high[there, column]), "hidden": place >= DRAWN,
        })  # fmt: skip
    return {"moments": len(found.times), "series": series}


def _numbers(values: np.ndarray) -> list[float | None]:
    return [round(float(value), 1) if np.isfinite(value) else None for value in values]


def as_json(board: Board) -> str:
    """As `whorl arena rank --json` prints it."""
    return json.dumps(list(board.rows), ensure_ascii=False, indent=2) + "\n"


def as_csv(board: Board) -> str:
    """An open end of an interval is left empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(board.rows)
    return text.getvalue()
