"""`whorl arena board | replay | voters`: the store's board, now or of any time; voters to look at."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from whorl.cli.rating import fit_options, parse_anchor, parse_style, show
from whorl.cli.votes import STORE

if TYPE_CHECKING:
    from whorl.arena.config import RatingConfig

AT = click.option(
    "--at",
    metavar="TIME",
    help="The board as of this time: ISO 8601 (UTC if no zone is given), or seconds since 1970.",
)


@click.command(context_settings={"max_content_width": 110})
@STORE
@AT
@click.option(
    "--out", type=click.Path(path_type=Path), help="Write the board to a file that replay can reproduce."
)
@click.option("--json", "as_json", is_flag=True, help="Print the board as --out would write it.")
@click.option("--category", help="Only battles of this category.")
@fit_options
def board(
    store: str | None, at: str | None, out: Path | None, as_json: bool, style: str | None,
    anchor: str | None, **fit: Any,
) -> None:  # fmt: skip
    """Rate the models by the store's votes that count.

    \b
        whorl arena board --at 2026-05-01 --out may.json
        whorl arena replay may.json                        the same bytes, whatever has come since

    A past board uses the consents given at that time; withdrawing consent affects only later boards.
    """
    from whorl.arena.battles import Battles
    from whorl.arena.board import make_board, rate
    from whorl.arena.store import Store
    from whorl.arena.store.store import default_store
    from whorl.base.errors import InputError
    from whorl.base.progress import say

    with Store.open(store or default_store(), create=False) as votes:
        moment = votes.last_change()
        moment = moment if at is None else min(moment, parse_time(at))
        battles = Battles.from_rows(votes.battles(at=moment))
        name = str(votes.database)
    if not len(battles):
        raise InputError(f"{name} has no vote that counts{f' at {at}' if at else ''}")
    names = parse_style(style)
    fit |= {"style": battles.style_names if names is None else names} | parse_anchor(anchor)
    settings = settings_of(fit)
    made = make_board(battles, settings, at=moment)
    if out is not None:
        made.save(out)
    if as_json:
        click.echo(made.to_bytes().decode("utf-8"), nl=False)
    else:
        show(rate(battles, settings), None, as_json=False)
    if out is not None:
        say(f"{out}: {made.votes:,} votes; to reproduce it: whorl arena replay {out}")


@click.command(context_settings={"max_content_width": 110})
@click.argument("file", type=click.Path(path_type=Path))
@STORE
@AT
@click.option("--json", "as_json", is_flag=True, help="Print {same, votes, digest} or {same, difference}.")
def replay(file: Path, store: str | None, at: str | None, as_json: bool) -> None:
    """Recompute the board in FILE from the log of votes, byte for byte.

    If it differs, says where and exits with 1. The log is cut at the point FILE records; use --at for a board
    that records none.
    """
    from whorl.arena.battles import Battles
    from whorl.arena.board import OtherBoardError, read_board
    from whorl.arena.board import replay as make_again
    from whorl.arena.store import Store
    from whorl.arena.store.store import default_store
    from whorl.base.errors import InputError
    from whorl.base.progress import say

    try:
        held = file.read_bytes()
    except (FileNotFoundError, IsADirectoryError) as error:
        raise InputError(f"{file} is not a file; give a board written by whorl arena board --out") from error
    known = read_board(held, str(file))
    moment = parse_time(at) if at is not None else known.get("at")
    with Store.open(store or default_store(), create=False) as votes:
        battles = Battles.from_rows(votes.battles(at=moment))
    try:
        made = make_again(held, battles, str(file))
    except OtherBoardError as error:
        if as_json:
            click.echo(json.dumps({"same": False, "difference": str(error)}, ensure_ascii=False, indent=2))
        say(str(error))
        raise click.exceptions.Exit(1) from error
    if as_json:
        click.echo(json.dumps({"same": True, "votes": made.votes, "digest": made.digest}, indent=2))
    else:
        click.echo(f"{file}: {made.votes:,} votes give the same {len(held):,} bytes, {made.digest}")


@click.command(context_settings={"max_content_width": 110})
@STORE
@click.option("--alpha", default=0.1, show_default=True,
              help="How often an ordinary voter may be flagged by chance.")  # fmt: skip
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0),
              help="Seed of the moments that are checked; a secret, if voters could exploit it.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True,
              help="Print a list of {voter, name, votes, after, statistic, threshold}.")  # fmt: skip
def voters(store: str | None, alpha: float, seed: int, as_json: bool) -> None:
    """List voters whose votes differ from everyone else's, most striking first.

    Nothing happens to them or their votes. Voters with fewer than 5 counted votes cannot be judged, and one
    in ten ordinary voters may be flagged (--alpha).
    """
    from whorl.arena.battles import Battles
    from whorl.arena.store import Store
    from whorl.arena.store.store import default_store
    from whorl.arena.voters import odd_voters

    with Store.open(store or default_store(), create=False) as votes:
        battles = Battles.from_rows(votes.battles())
        names = {str(person.id): person.name for person in votes.people()}
    found = odd_voters(battles, alpha=alpha, seed=seed)
    rows = [
        {"voter": int(odd.voter), "name": names[odd.voter], "votes": odd.votes, "after": odd.after,
         "statistic": round(odd.statistic, 2), "threshold": round(odd.threshold, 2)}
        for odd in found
    ]  # fmt: skip
    if as_json:
        click.echo(json.dumps(rows, ensure_ascii=False, indent=2))
    else:
        show_voters(rows, len(battles.voter.names))


def show_voters(rows: list[dict[str, Any]], many: int) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from whorl.base.progress import printable, say

    if rows:
        table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
        table.add_column("name", overflow="fold")
        for name in ("number", "votes", "odd after", "statistic", "threshold"):
            table.add_column(name, justify="right", no_wrap=True)
        for row in rows:
            figures = (row["voter"], f"{row['votes']:,}", row["after"], row["statistic"], row["threshold"])
            table.add_row(escape(printable(row["name"])), *map(str, figures))
        Console().print(table)
    say(f"{len(rows)} of {many} voters to review; their votes count as before")


def settings_of(fit: dict[str, Any]) -> RatingConfig:
    from pydantic import ValidationError

    from whorl.arena.config import RatingConfig
    from whorl.base.errors import InputError

    try:
        return RatingConfig(**fit)
    except ValidationError as error:
        [first, *_] = error.errors()
        raise InputError(f"--{'.'.join(map(str, first['loc']))}: {first['msg']}") from error


def parse_time(text: str) -> float:
    from whorl.arena.cells import BadRowError, seconds
    from whorl.base.errors import InputError

    try:
        return seconds(text)
    except BadRowError as error:
        raise InputError(f"--at: {error}") from error
