"""The arena's claims: ratings beside evalica's in one run, and a hundred people at once, on one store and
through the studio.

    python bench/arena.py [--only ratings|store|people] [--rounds 5] [--votes 2000000] [--people 100] …

Needs: pip install -e '.[bench]'. The store's part is in `_arena_store.py`, the studio's in
`_arena_people.py`. Ratings: seconds from votes to ratings with intervals, beside evalica's ratings alone.

The same simulated votes (a fifth ties) for both sides, alternating; the median of the rounds counts. Two
pieces of work: from whole numbers in arrays, as votes lie in a store, and from lists of names, as they come
from a file. Whorl's figure includes the sandwich intervals and ranks; evalica has ratings alone, by its
compiled core at its own tolerance. That both find the same is asked of evalica at a tolerance of 1e-12
too, off the clock.

The limit is one counting of the votes (`numpy.bincount` over one column): who has not read each vote once
cannot rate. What dominates in whole numbers is telling apart pairs and outcomes, in lists it is looking up
four million names.

Coverage: how many 95 % intervals hold what endless votes would show, over plain and over biased judges; of
the bootstrap over fewer sets of votes, and of Rao and Kupper's model over judges that are as it has them.

Every claim gets its verdict at the end; the exit code is 1 where one is missed or could not be measured, as
without PostgreSQL. A hundred people who all vote in one moment are measured too, and claimed nothing of.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from _arena_people import at_the_studio
from _arena_store import at_the_store
from _record import keep
from _verdicts import Verdict, judged, tell
from rich.console import Console
from rich.table import Table

from whorl.arena import Battles, Judge, Ratings, fit_bradley_terry, simulate_battles
from whorl.arena.ratings import CENTRE, SCALE
from whorl.arena.simulation import Recovery, coverage, synthetic_strengths

SPREAD, TIE_WIDTH = 200.0, 0.55  # points; a fifth of the votes are ties
MOST_POINTS_APART = 0.01  # what equal ratings means
MOST_SECONDS = 0.5  # from whole numbers to ratings with intervals
MOST_MS_FOR_A_VOTE = 100
COVERED = (0.94, 0.96)
BOOTSTRAP_SHARE = 4  # of the repeats of the other intervals, one in so many
DATABASES = ("sqlite", "postgresql")
COVERAGE = {
    "plain": [Judge()],
    "biased": [Judge(noise=0.2, left=0.4, tie_width=0.3), Judge(sharpness=1.5)],
}


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    made = work()
    return time.perf_counter() - start, made


def whorl_works(battles: Battles) -> dict[str, Callable[[], Ratings]]:
    names_a, names_b, codes = columns_of(battles)
    return {
        "numbers": lambda: fit_bradley_terry(battles),
        "names": lambda: fit_bradley_terry(Battles.from_columns(names_a, names_b, codes)),
    }


def columns_of(battles: Battles) -> tuple[list[str], list[str], list[int]]:
    return (
        [battles.models[place] for place in battles.a],
        [battles.models[place] for place in battles.b],
        battles.winner.tolist(),
    )


def evalica_works(battles: Battles, **more: Any) -> dict[str, Callable[[], Any]]:
    import evalica
    import pandas

    by_code = [evalica.Winner.X, evalica.Winner.Y, evalica.Winner.Draw, evalica.Winner.Draw]
    names_a, names_b, codes = columns_of(battles)
    winners = [by_code[code] for code in codes]
    index = pandas.RangeIndex(len(battles.models))
    return {
        "numbers": lambda: evalica.bradley_terry(battles.a, battles.b, winners, index=index, **more),
        "names": lambda: evalica.bradley_terry(names_a, names_b, winners, **more),
    }


def points_apart(ratings: Ratings, scores: Any) -> float:
    """The largest difference of two ratings of a model, both centred at 1000."""
    strengths = np.log(np.array([scores[name] for name in ratings.models]))
    theirs = CENTRE + SCALE * (strengths - strengths.mean())
    return float(np.abs(ratings.rating - theirs).max())


def race(battles: Battles, rounds: int, console: Console) -> dict[str, Any]:
    """Seconds of each side and work, and how far apart the ratings are."""
    sides = {"whorl": whorl_works(battles), "evalica": evalica_works(battles)}
    seconds: dict[str, dict[str, list[float]]] = {side: {"numbers": [], "names": []} for side in sides}
    ratings = sides["whorl"]["numbers"]()  # imports and first use are not the work
    for number in range(rounds):
        for work in ("numbers", "names"):
            for side, works in sides.items():
                seconds[side][work].append(timed(works[work])[0])
        console.print(f"round {number + 1} of {rounds} done", style="dim")
    exact = evalica_works(battles, tolerance=1e-12, limit=10_000)["names"]().scores
    bound = min(timed(lambda: np.bincount(battles.a * 3, minlength=3))[0] for _ in range(5))
    return {
        "seconds": seconds,
        "median": {
            side: {work: statistics.median(took) for work, took in of.items()} for side, of in seconds.items()
        },
        "limit_s": bound,
        "points_apart": points_apart(ratings, exact),
        "points_apart_at_its_tolerance": points_apart(ratings, sides["evalica"]["names"]().scores),
    }


def ratings_half(options: argparse.Namespace, console: Console) -> list[Verdict]:
    try:
        import evalica  # noqa: F401
    except ImportError as error:
        sys.exit(f"bench/arena.py compares with evalica: {error}; pip install -e '.[bench]'")
    strengths = synthetic_strengths(options.models, SPREAD)
    battles = simulate_battles(strengths, [Judge(tie_width=TIE_WIDTH)], options.votes)
    ties = float(np.mean(battles.points == 0.5))
    console.print(f"{options.votes:,} votes, {options.models} models, {ties:.0%} ties")
    found = race(battles, options.rounds, console)
    table = Table("work", "Whorl, intervals too", "evalica, ratings alone", "ratio", "of the limit")
    for work, name in (("numbers", "from whole numbers"), ("names", "from lists of names")):
        ours, theirs = (found["median"][side][work] for side in ("whorl", "evalica"))
        table.add_row(
            name,
            f"{ours:.3f} s",
            f"{theirs:.3f} s",
            f"{theirs / ours:.1f}×",
            f"{found['limit_s'] / ours:.1%}",
        )
    console.print(table)
    apart = found["points_apart"]
    console.print(
        f"ratings equal within {apart:.1e} points (evalica at 1e-12;"
        f" {found['points_apart_at_its_tolerance']:.1e} at its own tolerance)"
    )
    covered = coverages(options.repeats)
    for name, (one, _) in covered.items():
        console.print(f"coverage, {name}: {one.coverage:.2%} of {one.intervals:,} intervals of 95 %")
    found |= {
        "what": "ratings", "votes": options.votes, "models": options.models, "ties": ties,
        "rounds": options.rounds, "coverage": {name: one.coverage for name, (one, _) in covered.items()},
        "load": os.getloadavg()[0],
    }  # fmt: skip
    keep("arena", found, ("numpy", "scipy", "evalica"))
    took = found["median"]["whorl"]["numbers"]
    work = f"{options.votes:,} votes, {options.models} models: ratings and intervals in < {MOST_SECONDS} s"
    return [
        judged(work, f"{took:.3f} s", took < MOST_SECONDS),
        judged(f"ratings equal evalica's within {MOST_POINTS_APART} points", f"{apart:.1e}",
               apart <= MOST_POINTS_APART),
        *(
            judged(f"95 % intervals hold {COVERED[0]:.0%} to {COVERED[1]:.0%}: {name}", f"{one.coverage:.2%}",
                   COVERED[0] <= one.coverage <= COVERED[1])
            for name, (one, claimed) in covered.items()
            if claimed
        ),
    ]  # fmt: skip


def coverages(repeats: int) -> dict[str, tuple[Recovery, bool]]:
    """By whose votes and how; and whether it is claimed: few repeats of the bootstrap only show it."""
    models = synthetic_strengths(20, seed=1)
    found = {
        f"{name} judges": (coverage(models, judges, 10_000, repeats=repeats), True)
        for name, judges in COVERAGE.items()
    }
    apart = coverage(
        models, [Judge(tie_width=TIE_WIDTH)], 10_000, repeats=repeats, truth=models, ties="rao-kupper"
    )
    few = max(1, repeats // BOOTSTRAP_SHARE)
    drawn = coverage(models, COVERAGE["biased"], 10_000, repeats=few, interval="bootstrap", rounds=200)
    return found | {"Rao and Kupper": (apart, True), "bootstrap, biased judges": (drawn, False)}


def store_half(options: argparse.Namespace, console: Console) -> list[Verdict]:
    load = os.getloadavg()[0]
    found = at_the_store(options.people, options.seconds, options.pace)
    who = f"{options.people} people at once, a battle every {options.pace:g} s each"
    console.print(
        f"{who}; ms of half, 95 % and 99 % of the calls; load {load:.1f} at the start", soft_wrap=True
    )
    for name, one in found.items():
        shares = [one[share] for share in ("p50_ms", "p95_ms", "p99_ms")]
        calls = (
            f"{what} {' / '.join(f'{share[what]:.1f}' for share in shares)}"
            for what in ("vote", "answer", "start")
        )
        console.print(
            f"{name}: {one['votes_per_s']:.0f} votes/s; {', '.join(calls)}; {one['cpu_ms_per_battle']:.1f} ms"
            f" of this process a battle; lost {one['lost']} of {one['votes']:,}",
            soft_wrap=True,
        )
    keep("arena", {"what": "store", "stores": found, "load": load}, ("sqlalchemy", "psycopg", "pgserver"))
    return votes_in_time(found, f"{options.people} people on the store")


def people_half(options: argparse.Namespace, console: Console) -> list[Verdict]:
    load = os.getloadavg()[0]
    found = at_the_studio(options.people, options.seconds, options.pace)
    table = Table("", "votes/s", "vote p50", "p95", "p99", "begin p95", "all at once p95", "lost")
    for name, one in found.items():
        vote = (f"{one[share]['vote']:.1f}" for share in ("p50_ms", "p95_ms", "p99_ms"))
        others = (f"{one['p95_ms'][what]:.1f}" for what in ("begin", "vote of all at once"))
        table.add_row(name, f"{one['votes_per_s']:.0f}", *vote, *others, f"{one['lost']} of {one['votes']:,}")
    console.print(
        f"{options.people} people in the studio, each reads {options.pace:g} s, mock models, two cores"
    )
    console.print(table)
    keep("arena", {"what": "people", "stores": found, "load": load}, ("fastapi", "uvicorn", "sqlalchemy"))
    return votes_in_time(found, f"{options.people} people in the studio")


def votes_in_time(found: dict[str, Any], who: str) -> list[Verdict]:
    made = []
    for name in DATABASES:
        claim = f"{who}, {name}: p95 of a vote < {MOST_MS_FOR_A_VOTE} ms"
        if name not in found:
            made.append(Verdict(claim, "it does not run here", "not measured"))
            continue
        took = found[name]["p95_ms"]
        burst = took.get("vote of all at once")
        told = f"{took['vote']:.0f} ms" + (f"; all in one moment: {burst:.0f} ms" if burst else "")
        made.append(judged(claim, told, took["vote"] < MOST_MS_FOR_A_VOTE))
    lost, votes = (sum(one[what] for one in found.values()) for what in ("lost", "votes"))
    return [*made, judged(f"{who}: no vote lost", f"{lost} of {votes:,}", lost == 0)]


HALVES = {"ratings": ratings_half, "store": store_half, "people": people_half}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=[*HALVES], help="one part of it")
    parser.add_argument("--rounds", type=int, default=5, help="how often each side runs, alternating")
    parser.add_argument("--votes", type=int, default=2_000_000)
    parser.add_argument("--models", type=int, default=150)
    parser.add_argument("--repeats", type=int, default=500, help="simulations for the coverage")
    parser.add_argument("--people", type=int, default=100, help="how many are there at once")
    parser.add_argument("--seconds", type=float, default=20.0, help="how long they stay, on each database")
    parser.add_argument("--pace", type=float, default=3.0, help="seconds from a person's battle to the next")
    options = parser.parse_args()
    console = Console()
    names = [options.only] if options.only else [*HALVES]
    verdicts = [verdict for name in names for verdict in HALVES[name](options, console)]
    sys.exit(tell(verdicts, console))


if __name__ == "__main__":
    main()
