"""Ratings as a table for the terminal."""

from __future__ import annotations

import numpy as np
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from whorl.arena.ratings import Ratings
from whorl.base.progress import printable

BAR = 30  # characters of the drawn interval
LINE, DOT = "─", "●"


def ratings_table(
    ratings: Ratings, flips: dict[str, int | None] | None = None, *, draw: bool = True
) -> Table:
    """A row a model, best first; `flips` says how many votes, dropped, put the next one above it."""
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    grouped = ratings.group.max() > 0
    if grouped:
        table.add_column("group", justify="right")
    table.add_column("rank", justify="right")
    table.add_column("model", overflow="fold")
    table.add_column("rating", justify="right")
    table.add_column(f"{100 * ratings.level:g} % interval", justify="right", no_wrap=True)
    table.add_column("battles", justify="right")
    if flips is not None:
        table.add_column("votes to flip", justify="right")
    if draw:
        table.add_column("", no_wrap=True)
    left, right = span(ratings)
    for place in ratings.order:
        low, high = ratings.low[place], ratings.high[place]
        cells: list[str | Text] = [
            str(ratings.rank[place]),
            escape(printable(ratings.models[place])),
            f"{ratings.rating[place]:.0f}",
            f"{end(low)} – {end(high)}",
            f"{ratings.battles[place]:,}",
        ]
        if grouped:
            cells.insert(0, str(ratings.group[place] + 1))
        if flips is not None:
            needed = flips.get(ratings.models[place])
            cells.append("" if needed is None else f"{needed:,}")
        if draw:
            cells.append(_bar(ratings.rating[place], low, high, left, right))
        table.add_row(*cells)
    return table


def end(value: float) -> str:
    """An end of an interval: `1,012`, or ∞ where the votes set none."""
    return f"{value:.0f}" if np.isfinite(value) else ("∞" if value > 0 else "−∞")


def span(ratings: Ratings) -> tuple[float, float]:
    """The lowest and highest finite point of any rating or interval."""
    points = np.concatenate([ratings.rating, ratings.low, ratings.high])
    points = points[np.isfinite(points)]
    left, right = float(points.min()), float(points.max())
    return (left, right) if right > left else (left - 1, right + 1)


def _bar(rating: float, low: float, high: float, left: float, right: float) -> Text:
    def at(value: float) -> int:
        return round((np.clip(value, left, right) - left) / (right - left) * (BAR - 1))

    start, stop, dot = at(low), at(high), at(rating)
    text = Text(" " * start + LINE * (dot - start), style="dim")
    text.append(DOT, style="not dim cyan")
    return text.append(LINE * (stop - dot))
