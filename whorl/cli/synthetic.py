"""`whorl arena simulate --synthetic`: made-up models and judges; do the ratings find the truth?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from whorl.arena.battles import Battles
    from whorl.arena.simulation import Judge, Recovery


@click.command("simulate", context_settings={"max_content_width": 110})
@click.option("--synthetic", is_flag=True, required=True, expose_value=False,
              help="Use made-up models; nothing is loaded or served.")  # fmt: skip
@click.option("--models", default=12, show_default=True, type=click.IntRange(min=2), help="Number of models.")
@click.option("--spread", default=150.0, show_default=True, type=click.FloatRange(min=0),
              help="Standard deviation of their true ratings, in points.")  # fmt: skip
@click.option(
    "--battles", default=20_000, show_default=True, type=click.IntRange(min=1), help="Number of votes."
)
@click.option("--judges", default=50, show_default=True, type=click.IntRange(min=1), help="Number of judges.")
@click.option("--ties", "tie_width", default=0.3, show_default=True, type=click.FloatRange(min=0),
              help="Width of a tie in log-odds; 0: judges never declare a tie.")  # fmt: skip
@click.option("--left", default=0.0, show_default=True,
              help="The judges' bias towards the left answer, in log-odds.")  # fmt: skip
@click.option(
    "--noise",
    default=0.0,
    show_default=True,
    type=click.FloatRange(0, 1),
    help="Share of votes decided by a coin toss.",
)
@click.option(
    "--active", is_flag=True, help="Draw the pairs where a vote is most informative, instead of uniformly."
)
@click.option("--repeat", default=0, show_default=True, type=click.IntRange(min=0),
              help="Also simulate this many more times and report how often the intervals held.")  # fmt: skip
@click.option(
    "--seed",
    default=0,
    show_default=True,
    type=click.IntRange(min=0),
    help="The same seed gives the same votes.",
)
@click.option(
    "--out", type=click.Path(path_type=Path), help="Write the votes as a CSV file for whorl arena rank."
)
@click.option("--json", "as_json", is_flag=True, help="Print {rows, tau, held} as JSON.")
def synthetic(
    models: int, spread: float, battles: int, judges: int, tie_width: float, left: float,
    noise: float, active: bool, repeat: int, seed: int, out: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Votes by scripted judges on made-up models: do the ratings recover the known truth?

    \b
        whorl arena simulate --synthetic --out votes.csv
        whorl arena rank votes.csv

    'limit' is the rating these judges would give with infinitely many votes: judges who sometimes toss a coin
    pull all models together. An interval should contain it.
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
    click.echo(f"{sum(held)} of {len(held)} intervals contain the limit; Kendall's τ of the order: {tau:.3f}")
    if over is not None:
        click.echo(
            f"over the repeats: {100 * over.coverage:.1f} % of {over.intervals:,} intervals contain"
            f" it, mean τ {over.tau:.3f}"
        )


def holds(row: dict[str, Any]) -> bool:
    low, high = row["low"], row["high"]
    return (low is None or low <= row["limit"]) and (high is None or row["limit"] <= high)
