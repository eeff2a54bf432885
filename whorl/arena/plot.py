"""Ratings with intervals as one picture: svg, a page with hover (html), or png.

Every form is drawn from the same few shapes; none needs a network, a browser or a plotting library.
"""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from whorl.arena.ratings import Ratings
from whorl.arena.table import end, span
from whorl.base.errors import InputError
from whorl.base.files import atomic_write
from whorl.base.plot import label, round_ticks
from whorl.base.progress import printable

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw as Pen

ROW, TOP, BOTTOM, WIDTH, GAP = 24, 46, 34, 820, 16
LETTER = 7.2  # about the width of a letter at 13 px
LONGEST_NAME = 40
PNG_SCALE = 2
PAPER, INK, SOFT, GRID = "#ffffff", "#1d1d1b", "#6a6963", "#eeece6"
COLOURS = ("#2a62c9", "#c8561b", "#2d8a5f", "#8552b3")  # by group, as the run reports have them
FORMS = (".svg", ".html", ".png")

Kind = Literal["grid", "mark", "open"]
Anchor = Literal["start", "middle", "end"]


@dataclass(frozen=True)
class Line:
    kind: Kind
    x0: float
    y0: float
    x1: float
    y1: float
    group: int = 0


@dataclass(frozen=True)
class Dot:
    x: float
    y: float
    group: int
    title: str


@dataclass(frozen=True)
class Words:
    x: float
    y: float
    anchor: Anchor
    text: str
    soft: bool = False
    bold: bool = False


Shape = Line | Dot | Words


def write_plot(ratings: Ratings, path: str | Path, title: str = "Ratings") -> Path:
    """Write the picture in the form that the file's ending asks for; another one is an InputError."""
    path = Path(path)
    check_form(path)
    shapes, height = layout(ratings, title)
    if path.suffix == ".png":
        with atomic_write(path, "wb") as file:
            png(shapes, height).save(file, "PNG")
        return path
    picture = svg(shapes, height, title)
    with atomic_write(path) as file:
        file.write(picture if path.suffix == ".svg" else page(picture, title, ratings))
    return path


def check_form(path: Path) -> None:
    if path.suffix not in FORMS:
        raise InputError(f"--plot {path} must end in {', '.join(FORMS)}")


def layout(ratings: Ratings, title: str) -> tuple[list[Shape], int]:
    """The shapes, and the height of the picture in pixels; a row a model, best first."""
    order = ratings.order
    names = [_short(ratings.models[place]) for place in order]
    left = 60 + LETTER * max(map(len, names))
    right = WIDTH - 64
    low, high = span(ratings)
    ticks = round_ticks(low, high, 6)
    low, high = min(low, ticks[0]), max(high, ticks[-1])
    groups = np.array([ratings.group[place] for place in order])
    breaks = np.concatenate([[0], np.cumsum(groups[1:] != groups[:-1])]) * GAP
    height = int(TOP + ROW * len(order) + breaks[-1] + BOTTOM)

    def x(value: float) -> float:
        return float(left + (np.clip(value, low, high) - low) / (high - low) * (right - left))

    shapes: list[Shape] = [Words(16, 24, "start", title, bold=True)]
    for tick in ticks:
        shapes.append(Line("grid", x(tick), TOP - 8, x(tick), height - BOTTOM + 4))
        shapes.append(Words(x(tick), height - 12, "middle", label(tick), soft=True))
    for row, place in enumerate(order):
        y = TOP + ROW * (row + 0.5) + breaks[row]
        group = int(ratings.group[place]) % len(COLOURS)
        rating, lower, upper = ratings.rating[place], ratings.low[place], ratings.high[place]
        shapes.append(Words(34, y + 4.5, "end", str(ratings.rank[place]), soft=True))
        shapes.append(Words(44, y + 4.5, "start", names[row]))
        for one_end in (lower, upper):
            kind: Kind = "mark" if np.isfinite(one_end) else "open"
            shapes.append(Line(kind, x(rating), y, x(one_end), y, group))
        about = (
            f"{printable(ratings.models[place])}: {rating:.1f}, {100 * ratings.level:g} % from {end(lower)}"
            f" to {end(upper)}, rank {ratings.rank[place]}, {ratings.battles[place]:,} battles"
        )
        shapes.append(Dot(x(rating), y, group, about))
        shapes.append(Words(WIDTH - 16, y + 4.5, "end", f"{rating:.0f}"))
    return shapes, height


def _short(name: str) -> str:
    name = printable(name)
    return name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1] + "…"


STYLE = f"""
.arena {{ --paper: {PAPER}; --ink: {INK}; --soft: {SOFT}; --grid: {GRID}; {
    " ".join(f"--group-{number}: {colour};" for number, colour in enumerate(COLOURS))
} }}
@media (prefers-color-scheme: dark) {{ .arena {{ --paper: #1f1f1d; --ink: #ecebe6; --soft: #9d9b93;
  --grid: #33322f; --group-0: #7aa7f7; --group-1: #f0955c; --group-2: #6cc79b; --group-3: #c29be8; }} }}
.arena text {{ font: 13px system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; fill: var(--ink);
  font-variant-numeric: tabular-nums }}
.arena .soft {{ fill: var(--soft) }} .arena .bold {{ font-weight: 600; font-size: 15px }}
.arena .grid {{ stroke: var(--grid) }} .arena .mark {{ stroke-width: 2; stroke-linecap: round }}
.arena .open {{ stroke-width: 2; stroke-dasharray: 2 5 }} .arena .dot:hover {{ stroke-width: 4 }}
"""


def svg(shapes: list[Shape], height: int, title: str) -> str:
    """The picture as a whole `<svg>`, light and dark; a dot's title says what it is."""
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" class="arena" viewBox="0 0 {WIDTH} {height}"'
        f' width="{WIDTH}" height="{height}" role="img" aria-label="{escape(title)}">',
        f"<style>{STYLE}</style>",
        f'<rect width="{WIDTH}" height="{height}" fill="var(--paper)"/>',
    ]
    for shape in shapes:
        if isinstance(shape, Line):
            ends = f'x1="{shape.x0:.1f}" y1="{shape.y0:.1f}" x2="{shape.x1:.1f}" y2="{shape.y1:.1f}"'
            stroke = "" if shape.kind == "grid" else f' stroke="var(--group-{shape.group})"'
            parts.append(f'<line class="{shape.kind}" {ends}{stroke}/>')
        elif isinstance(shape, Dot):
            colour = f"var(--group-{shape.group})"
            parts.append(
                f'<circle class="dot" cx="{shape.x:.1f}" cy="{shape.y:.1f}" r="4.5" fill="{colour}"'
                f' stroke="{colour}" stroke-width="0"><title>{escape(shape.title)}</title></circle>'
            )
        else:
            look = ("soft" if shape.soft else "") + ("bold" if shape.bold else "")
            parts.append(
                f'<text class="{look}" x="{shape.x:.1f}" y="{shape.y:.1f}" text-anchor="{shape.anchor}">'
                f"{escape(shape.text)}</text>"
            )
    return "".join(parts) + "</svg>\n"


def page(picture: str, title: str, ratings: Ratings) -> str:
    """The picture on a page of its own, what should be known about it below."""
    notes = "".join(f"<li>{escape(printable(note))}</li>" for note in ratings.notes)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><title>{escape(title)}</title>'
        "<style>:root { color-scheme: light dark } body { margin: 24px auto; max-width: 860px;"
        " padding: 0 16px; font: 15px/1.5 system-ui, sans-serif } svg { max-width: 100%; height: auto }"
        f"</style></head><body>{picture}<p>{ratings.votes:,} battles, {len(ratings.models)} models;"
        f" {100 * ratings.level:g} % intervals. A rank counts the models whose interval lies entirely above."
        f"</p><ul>{notes}</ul></body></html>\n"
    )


def png(shapes: list[Shape], height: int) -> Image:
    """The picture as a Pillow image at twice the size."""
    from PIL import Image as Images
    from PIL import ImageDraw, ImageFont

    image = Images.new("RGB", (WIDTH * PNG_SCALE, height * PNG_SCALE), PAPER)
    draw = ImageDraw.Draw(image)
    fonts = {bold: ImageFont.load_default(size=(15 if bold else 13) * PNG_SCALE) for bold in (False, True)}
    anchors = {"start": "ls", "middle": "ms", "end": "rs"}
    for shape in shapes:
        if isinstance(shape, Line):
            colour = GRID if shape.kind == "grid" else COLOURS[shape.group]
            ends = sorted(
                (x * PNG_SCALE, y * PNG_SCALE) for x, y in ((shape.x0, shape.y0), (shape.x1, shape.y1))
            )
            if shape.kind == "open":
                _dashed(draw, ends, colour)
            else:
                draw.line(ends, fill=colour, width=PNG_SCALE if shape.kind == "grid" else 2 * PNG_SCALE)
        elif isinstance(shape, Dot):
            x, y, radius = shape.x * PNG_SCALE, shape.y * PNG_SCALE, 4.5 * PNG_SCALE
            draw.ellipse([x - radius, y - radius, x + radius, y + radius], fill=COLOURS[shape.group])
        else:
            draw.text(
                (shape.x * PNG_SCALE, shape.y * PNG_SCALE),
                shape.text,
                fill=SOFT if shape.soft else INK,
                font=fonts[shape.bold],
                anchor=anchors[shape.anchor],
            )
    return image


def _dashed(draw: Pen, ends: list[tuple[float, float]], colour: str) -> None:
    (x0, y), (x1, _) = ends
    while x0 < x1:
        draw.line([(x0, y), (min(x0 + 2 * PNG_SCALE, x1), y)], fill=colour, width=2 * PNG_SCALE)
        x0 += 7 * PNG_SCALE
