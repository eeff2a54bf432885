"""`whorl arena …`: who is better, by people's votes; the votes themselves, and the people."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from whorl.cli.board import board, replay, voters
from whorl.cli.people import people
from whorl.cli.rating import fit_options, parse_anchor, parse_style, show
from whorl.cli.simulate import simulate
from whorl.cli.votes import erase, export, verify

if TYPE_CHECKING:
    from whorl.arena.reading import ReadReport

BAD_SHOWN = 5


@click.group()
def command() -> None:
    """Rank models by people's votes or by simulated battles, and maintain the votes."""


command.add_command(simulate)
command.add_command(board)
command.add_command(replay)
command.add_command(voters)
command.add_command(verify)
command.add_command(export)
command.add_command(erase)
command.add_command(people)


@command.command(context_settings={"max_content_width": 110})
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True,
              help="Print a list of {model, rating, low, high, rank, battles}.")  # fmt: skip
@click.option(
    "--plot", type=click.Path(path_type=Path), help="Draw the ratings into FILE.svg, .html or .png."
)
@click.option("--category", metavar="[COLUMN=]VALUE",
              help="Only rows whose column 'category' (or COLUMN) is VALUE: --category coding,"
              " --category language=German.")  # fmt: skip
@fit_options
@click.option("--flips", is_flag=True,
              help="Also show how few votes, if removed, would swap a model with the next one.")  # fmt: skip
@click.option("--keep-repeated", is_flag=True,
              help="Count every vote on prompts asked far more often than others, instead of"
                  " down-weighting them.")  # fmt: skip
def rank(
    file: Path, as_json: bool, plot: Path | None, category: str | None, style: str | None,
    anchor: str | None, flips: bool, keep_repeated: bool, **fit: Any,
) -> None:  # fmt: skip
    """Rank the models in FILE, one vote per row: a csv or jsonl file (also .gz), or a JSON array.

    \b
    A row needs three columns:
        model_a,model_b,winner
        llama,qwen,model_a          or the winner's name: llama
        qwen,gemma,tie              or: tie (bothbad)
    Optional columns: time, probability, voter, category, prompt.

    A rating is a Bradley–Terry strength: a 400-point lead means 10:1 odds. Models whose intervals overlap may
    share a rank: 1 + the number of models whose interval lies entirely above.
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


def tell(report: ReadReport) -> None:
    """Which rows were kept out, and why: the first few, and how many there are."""
    from whorl.base.progress import say

    for line in report.bad[:BAD_SHOWN]:
        say(line)
    if report.bad_count:
        rows = report.good + report.bad_count
        say(f"{report.bad_count:,} of {rows:,} rows are not battles and were left out")
    if report.named:
        say(f"note: {report.named:,} votes left out: their voters saw the models' names (anony is false)")
