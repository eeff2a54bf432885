"""What the commands of the arena share: how ratings are made, and how they are shown."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from whorl.arena.ratings import Ratings

ROOM_TO_DRAW = 96  # columns of a terminal that has room for intervals beside the figures
CONTROLS = {code: f"\\u{code:04x}" for code in range(127, 160)}  # that JSON leaves as they are
Command = Callable[..., Any]

OPTIONS = (
    click.option("--style", metavar="NAME,…",
                 help="Control for style: counts from columns NAME_a and NAME_b (tokens, headers, lists,"
                 " bold or your own); 'all' uses whichever of those four are present."),
    click.option("--ties", type=click.Choice(["half", "rao-kupper"]), default="half", show_default=True,
                 help="Count a tie as half a win for both, or as an outcome with its own width (Rao and"
                     " Kupper)."),
    click.option("--weights", type=click.Choice(["equal", "propensity"]), default="equal", show_default=True,
                 help="propensity: weight each battle by 1/probability of its pair (column"
                     " 'probability', else the pair's share of the battles)."),
    click.option("--interval", type=click.Choice(["sandwich", "bootstrap", "simultaneous"]),
                 default="sandwich", show_default=True,
                 help="sandwich: fast and robust; bootstrap: by resampling; simultaneous: wide enough to"
                     " cover all models at once."),
    click.option("--level", default=0.95, show_default=True, help="Confidence level of the intervals."),
    click.option("--rounds", default=1000, show_default=True, help="Number of bootstrap resamples."),
    click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0),
                 help="Seed of the bootstrap."),
    click.option("--anchor", metavar="MODEL[=RATING]",
                 help="Shift the scale so that MODEL has RATING (1000); without this, the mean is 1000."),
)  # fmt: skip


def fit_options(command: Command) -> Command:
    """The options of a fit, as `fit_bradley_terry` names its arguments."""
    for option in reversed(OPTIONS):
        command = option(command)
    return command


def parse_style(text: str | None) -> tuple[str, ...] | None:
    """The named counts; None for all there are."""
    if text == "all":
        return None
    return tuple(dict.fromkeys(word.strip() for word in (text or "").split(",") if word.strip()))


def parse_anchor(text: str | None) -> dict[str, Any]:
    """`MODEL` or `MODEL=RATING`; a model whose name holds an = is written with its rating."""
    import math

    from whorl.base.errors import InputError

    if text is None:
        return {}
    model, equals, value = text.rpartition("=")
    if not equals:
        return {"anchor": text}
    try:
        rating = float(value)
    except ValueError:
        rating = math.nan
    if not math.isfinite(rating):
        raise InputError(f"--anchor {text!r}: {value!r} is not a number; write MODEL=1000")
    return {"anchor": model, "anchor_rating": rating}


def show(ratings: Ratings, flips: dict[str, int | None] | None, as_json: bool) -> None:
    from whorl.base.progress import say

    if as_json:
        rows = ratings.rows()
        if flips is not None:
            rows = [{**row, "votes_to_flip": flips.get(row["model"])} for row in rows]
        click.echo(json.dumps(rows, ensure_ascii=False, indent=2).translate(CONTROLS))
    else:
        from rich.console import Console

        from whorl.arena.table import ratings_table

        console = Console()
        console.print(ratings_table(ratings, flips, draw=console.width >= ROOM_TO_DRAW))
        for name, (effect, low, high) in ratings.style.items():
            about = f"{effect:+.3f} log-odds ({low:+.3f} to {high:+.3f})"
            say(f"style: one standard deviation more {name} is {about}")
        if ratings.tie_width:
            say(f"width of a tie (Rao and Kupper's η): {ratings.tie_width:.3f}")
    for note in ratings.notes:
        say(f"note: {note}")
