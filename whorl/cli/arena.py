"""`whorl arena rank | simulate`: who is better, by people's votes; and votes without people."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from whorl.arena.ratings import Ratings
    from whorl.arena.reading import ReadReport

BAD_SHOWN = 5
ROOM_TO_DRAW = 96  # columns of a terminal that has room for intervals beside the figures


@click.group()
def command() -> None:
    """Who is better: rank models by people's votes, or try it with simulated ones."""


@command.command(context_settings={"max_content_width": 110})
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True,
              help="Print a list of {model, rating, low, high, rank, battles}.")  # fmt: skip
@click.option("--plot", type=click.Path(path_type=Path), help="Draw it into FILE.svg, .html or .png.")
@click.option("--category", metavar="[COLUMN=]VALUE",
              help="Only rows whose column 'category' (or COLUMN) is VALUE: --category coding,"
              " --category language=German.")  # fmt: skip
@click.option("--style", metavar="NAME,…",
              help="Rate at equal style: counts from columns NAME_a and NAME_b (tokens, headers, lists,"
              " bold or your own); 'all' takes those four that are there.")  # fmt: skip
@click.option("--ties", type=click.Choice(["half", "rao-kupper"]), default="half", show_default=True,
              help="A tie is half a win for both, or an outcome with a width of its own.")  # fmt: skip
@click.option("--weights", type=click.Choice(["equal", "propensity"]), default="equal", show_default=True,
              help="propensity: a battle counts 1/probability of its pair (column 'probability', else the"
              " pair's share of the battles).")  # fmt: skip
@click.option("--interval", type=click.Choice(["sandwich", "bootstrap", "simultaneous"]), default="sandwich",
              show_default=True, help="sandwich: fast and robust; bootstrap: by resampling;"
              " simultaneous: wide enough to hold for all models at once.")  # fmt: skip
@click.option("--level", default=0.95, show_default=True, help="How often an interval should hold.")
@click.option("--rounds", default=100, show_default=True, help="Resamples of the bootstrap.")
@click.option("--seed", default=0, show_default=True, help="Of the bootstrap.")
@click.option("--anchor", metavar="MODEL[=RATING]",
              help="Move the scale so that MODEL has RATING (1000); else the mean is 1000.")  # fmt: skip
@click.option("--flips", is_flag=True,
              help="Also: how few votes, left out, put the next model above this one.")  # fmt: skip
@click.option("--keep-repeated", is_flag=True,
              help="Count prompts that were asked far more often than others in full.")  # fmt: skip
def rank(
    file: Path, as_json: bool, plot: Path | None, category: str | None, style: str | None,
    anchor: str | None, flips: bool, keep_repeated: bool, **fit: Any,
) -> None:  # fmt: skip
    """Rank the models in FILE, one vote a row: a csv or jsonl (also .gz), or a JSON array.

    \b
    A row needs three columns:
        model_a,model_b,winner
        llama,qwen,model_a          or the winner's name: llama
        qwen,gemma,tie              or: tie (bothbad)
    Columns that are used where they are there: time, probability, voter, category, prompt.

    A rating is a Bradley–Terry strength: 400 points more are odds of ten to one. Models whose intervals
    overlap may share a rank: 1 + the number of models whose interval lies wholly above.
    """
    from whorl.arena.ratings import fit_bradley_terry
    from whorl.arena.reading import read_battles

    if plot is not None:
        from whorl.arena.plot import check_form

        check_form(plot)
    where, names = parse_category(category), parse_style(style)
    battles, report = read_battles(file, where=where, style=names)
    tell(report)
    fit |= {"style": battles.style_names, "cut_repeated_prompts": not keep_repeated} | parse_anchor(anchor)
    ratings = fit_bradley_terry(battles, **fit)
    needed: dict[str, int | None] | None = None
    if flips:
        from whorl.arena.flips import votes_to_flip

        needed = {flip.above: flip.votes for flip in votes_to_flip(battles, ratings)}
    if plot is not None:
        from whorl.arena.plot import write_plot

        write_plot(ratings, plot, f"Ratings by {file.name}")
    show(ratings, needed, as_json)


def parse_category(text: str | None) -> tuple[str, str] | None:
    if text is None:
        return None
    column, equals, value = text.partition("=")
    return (column, value) if equals else ("category", text)


def parse_style(text: str | None) -> tuple[str, ...] | None:
    """The named counts; None for all there are."""
    if text == "all":
        return None
    return tuple(dict.fromkeys(word.strip() for word in (text or "").split(",") if word.strip()))


def parse_anchor(text: str | None) -> dict[str, Any]:
    """`MODEL` or `MODEL=RATING`; a model's own name may hold an = where no number follows."""
    from whorl.base.errors import InputError

    if text is None:
        return {}
    model, equals, value = text.rpartition("=")
    if not equals:
        return {"anchor": text}
    try:
        return {"anchor": model, "anchor_rating": float(value)}
    except ValueError:
        raise InputError(f"--anchor {text!r}: {value!r} is no number; write MODEL=1000") from None


def tell(report: ReadReport) -> None:
    """Which rows were kept out, and why: the first few, and how many there are."""
    from whorl.base.progress import say

    for line in report.bad[:BAD_SHOWN]:
        say(line)
    if report.bad_count:
        rows = report.good + report.bad_count
        say(f"{report.bad_count:,} of {rows:,} rows are no battles and were kept out")


def show(ratings: Ratings, flips: dict[str, int | None] | None, as_json: bool) -> None:
    from whorl.base.progress import say

    if as_json:
        rows = ratings.rows()
        if flips is not None:
            rows = [{**row, "votes_to_flip": flips.get(row["model"])} for row in rows]
        click.echo(json.dumps(rows, ensure_ascii=False, indent=2))
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
