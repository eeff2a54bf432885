"""`whorl arena …`: who is better, by people's votes; the votes themselves, and the people."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from whorl.cli.people import people
from whorl.cli.simulate import simulate
from whorl.cli.votes import erase, export, verify

if TYPE_CHECKING:
    from whorl.arena.battles import Battles
    from whorl.arena.ratings import Ratings
    from whorl.arena.reading import ReadReport
    from whorl.arena.simulation import Judge, Recovery

BAD_SHOWN = 5
ROOM_TO_DRAW = 96  # columns of a terminal that has room for intervals beside the figures


@click.group()
def command() -> None:
    """Who is better: rank models by people's votes, or let them meet without; keep the votes in order."""


command.add_command(simulate)
command.add_command(verify)
command.add_command(export)
command.add_command(erase)
command.add_command(people)


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
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0), help="Of the bootstrap.")
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
        raise InputError(f"--anchor {text!r}: {value!r} is no number; write MODEL=1000")
    return {"anchor": model, "anchor_rating": rating}


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


@click.command("simulate", context_settings={"max_content_width": 110})
@click.option("--synthetic", is_flag=True, required=True, expose_value=False,
              help="Make up the models: nothing is loaded, nobody is asked.")  # fmt: skip
@click.option("--models", default=12, show_default=True, type=click.IntRange(min=2), help="How many models.")
@click.option("--spread", default=150.0, show_default=True, type=click.FloatRange(min=0),
              help="Standard deviation of their true ratings, in points.")  # fmt: skip
@click.option(
    "--battles", default=20_000, show_default=True, type=click.IntRange(min=1), help="How many votes."
)
@click.option("--judges", default=50, show_default=True, type=click.IntRange(min=1), help="How many judges.")
@click.option("--ties", "tie_width", default=0.3, show_default=True, type=click.FloatRange(min=0),
              help="Width of a tie in log-odds; 0: the judges never call one.")  # fmt: skip
@click.option("--left", default=0.0, show_default=True,
              help="The judges' liking for the answer on the left, in log-odds.")  # fmt: skip
@click.option(
    "--noise",
    default=0.0,
    show_default=True,
    type=click.FloatRange(0, 1),
    help="Share of votes cast by a coin.",
)
@click.option("--active", is_flag=True, help="Draw pairs where a vote tells most, instead of all alike.")
@click.option("--repeat", default=0, show_default=True, type=click.IntRange(min=0),
              help="Also: simulate so many times more, and say how often the intervals held.")  # fmt: skip
@click.option(
    "--seed",
    default=0,
    show_default=True,
    type=click.IntRange(min=0),
    help="The same seed gives the same votes.",
)
@click.option("--out", type=click.Path(path_type=Path), help="Write the votes as a csv that rank reads.")
@click.option("--json", "as_json", is_flag=True, help="Print {rows, tau, held} as JSON.")
def synthetic(
    models: int, spread: float, battles: int, judges: int, tie_width: float, left: float,
    noise: float, active: bool, repeat: int, seed: int, out: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Votes by scripted judges on made-up models: do the ratings find what is known to be true?

    \b
        whorl arena simulate --synthetic --out votes.csv
        whorl arena rank votes.csv

    'limit' is the rating that endless votes of these judges would give: a judge who tosses a coin now and
    then draws all models together. An interval should hold it.
    """
    from whorl.arena.simulation import Judge, coverage, simulate_actively, simulate_battles
    from whorl.arena.simulation import synthetic_strengths as strengths_of

    strengths = strengths_of(models, spread, seed)
    bench = [Judge(left=left, noise=noise, tie_width=tie_width)] * judges
    votes = (simulate_actively if active else simulate_battles)(strengths, bench, battles, seed=seed)
    if out is not None:
        from whorl.arena.writing import write_battles

        write_battles(votes, out)
    over = coverage(strengths, bench, battles, repeats=repeat, seed=seed) if repeat else None
    show_recovery(compare(votes, strengths, bench), over, as_json)


def compare(votes: Battles, strengths: dict[str, float], bench: list[Judge]) -> list[dict[str, Any]]:
    """Rows of what is true and what was found, best first."""
    from whorl.arena.ratings import fit_bradley_terry
    from whorl.arena.simulation import limit_of

    ratings = fit_bradley_terry(votes, weights="propensity")
    limits = limit_of(strengths, bench)
    places = {
        name: place for place, name in enumerate(sorted(strengths, key=lambda name: -strengths[name]), 1)
    }
    return [
        {
            **row,
            "place": place,
            "true_place": places[row["model"]],
            "true_rating": round(strengths[row["model"]], 2),
            "limit": round(limits[row["model"]], 2),
        }
        for place, row in enumerate(ratings.rows(), start=1)
    ]


def show_recovery(rows: list[dict[str, Any]], over: Recovery | None, as_json: bool) -> None:
    from scipy.stats import kendalltau

    tau = float(kendalltau([row["place"] for row in rows], [row["true_place"] for row in rows]).statistic)
    held = [holds(row) for row in rows]
    if as_json:
        found = {"rows": rows, "tau": tau, "held": sum(held)}
        if over is not None:
            found["repeated"] = {"coverage": over.coverage, "intervals": over.intervals, "tau": over.tau}
        click.echo(json.dumps(found, indent=2))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("model")
    for name in ("place", "true place", "rating", "95 % interval", "limit", "held", "battles"):
        table.add_column(name, justify="right", no_wrap=True)
    for row, inside in zip(rows, held, strict=True):
        low, high = (f"{row[end]:.0f}" if row[end] is not None else "∞" for end in ("low", "high"))
        table.add_row(
            row["model"], str(row["place"]), str(row["true_place"]), f"{row['rating']:.0f}",
            f"{low} – {high}", f"{row['limit']:.0f}", "yes" if inside else "no", f"{row['battles']:,}",
        )  # fmt: skip
    Console().print(table)
    click.echo(f"{sum(held)} of {len(held)} intervals hold the limit; Kendall's τ of the order: {tau:.3f}")
    if over is not None:
        click.echo(
            f"over the repeats: {100 * over.coverage:.1f} % of {over.intervals:,} intervals hold it,"
            f" mean τ {over.tau:.3f}"
        )


def holds(row: dict[str, Any]) -> bool:
    low, high = row["low"], row["high"]
    return (low is None or low <= row["limit"]) and (high is None or row["limit"] <= high)
