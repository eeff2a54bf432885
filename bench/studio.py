"""The studio's claim: every page paints within 300 ms on loopback, with thirty models and many votes.

    python bench/studio.py [--votes 20000] [--models 30] [--rounds 7] [--page /board …] [--keep DIR]

Needs: pip install -e '.[bench]' and a Chromium. A real studio over a workspace as a team's is after a year
(`_studio_workspace.py`), and a real browser on the same two cores. Of each page the first contentful paint
as the browser itself measures it, from the navigation on: `new` in a browser that has never been here (no
cache, signed in), `again` in one that has. The median of the rounds counts, the slowest is shown beside it.

The limit is the paint of a page without a server or a script, in the same browser.

The first board after a start is taken apart: it must paint as fast, asked for as soon as the studio says that
it is open. How long that takes, with the log to be read, and when the board is filled in are shown beside it.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from _arena_store import two_cores
from _record import keep
from _studio_workspace import build
from rich.console import Console
from rich.table import Table

MOST_MS = 300.0
PAGES = (
    "/chat", "/arena", "/arena/me", "/board", "/board?category=coding", "/runs", "/runs/run-00",
    "/runs/compare?run=run-00&run=run-01", "/data", "/data/data/texts", "/models", "/people",
)  # fmt: skip
EMPTY = "data:text/html,<p>Nothing is asked for this.</p>"
VIEWPORT = {"width": 1240, "height": 900}
PAINT = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? null"
BUILD_SECONDS = 300.0  # as many votes as this allows
PAINT_SECONDS = 60.0


@contextmanager
def studio(workspace: Path) -> Iterator[str]:
    """The entrance of a studio over the workspace, which ends with SIGTERM."""
    command = [sys.executable, "-m", "whorl", "studio", "--workspace", str(workspace), "--port", "0"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        entrance = next(
            (found[1] for line in process.stderr if (found := re.search(r"open (http://\S+)", line))), ""
        )
        if not entrance:
            raise SystemExit("bench/studio.py: the studio did not start")
        yield entrance
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


@contextmanager
def chromium() -> Iterator[Any]:
    path = next((found for name in ("chromium", "google-chrome") if (found := shutil.which(name))), None)
    if path is None:
        raise SystemExit("bench/studio.py needs Chromium; apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as running:
        browser = running.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@contextmanager
def visitor(browser: Any, entrance: str) -> Iterator[Any]:
    """A page of a browser that has never been here, signed in without having loaded a thing."""
    context = browser.new_context(viewport=VIEWPORT)
    address, _, key = entrance.partition("/enter?")
    context.request.get(f"{address}/enter?{key}", max_redirects=0)
    yield context.new_page()
    context.close()


def paint(page: Any, address: str) -> float:
    """Milliseconds until something stands there."""
    answer = page.goto(address)
    if answer is not None and answer.status != 200:
        raise SystemExit(f"bench/studio.py: {address} answered {answer.status}")
    end = time.monotonic() + PAINT_SECONDS
    while time.monotonic() < end:
        if (found := page.evaluate(PAINT)) is not None:
            return float(found)
        time.sleep(0.01)
    raise SystemExit(f"bench/studio.py: {address} never painted")


def pages(browser: Any, entrance: str, ways: list[str], rounds: int) -> dict[str, dict[str, list[float]]]:
    """Way → `new` and `again` → milliseconds of each round; pages take turns."""
    root = entrance.partition("/enter?")[0]
    found: dict[str, dict[str, list[float]]] = {way: {"new": [], "again": []} for way in ways}
    for _ in range(rounds):
        for way in ways:
            with visitor(browser, entrance) as page:
                found[way]["new"].append(paint(page, root + way))
                page.wait_for_load_state("load")
                found[way]["again"].append(paint(page, root + way))
    return found


def limit(browser: Any, rounds: int) -> float:
    context = browser.new_context(viewport=VIEWPORT)
    took = [paint(context.new_page(), EMPTY) for _ in range(rounds)]
    context.close()
    return statistics.median(took)


def first_boards(browser: Any, workspace: Path, rounds: int) -> dict[str, list[float]]:
    """Of fresh studios: when they are open, when the board paints, and when the ratings are there."""
    found: dict[str, list[float]] = {"open": [], "paint": [], "filled": []}
    for _ in range(rounds):
        started = time.perf_counter()
        with studio(workspace) as entrance, visitor(browser, entrance) as page:
            found["open"].append(1000 * (time.perf_counter() - started))
            began = time.perf_counter()
            found["paint"].append(paint(page, entrance.partition("/enter?")[0] + "/board"))
            page.locator("table.ratings").wait_for(timeout=1000 * PAINT_SECONDS)
            found["filled"].append(1000 * (time.perf_counter() - began))
    return found


def show(console: Console, found: dict[str, dict[str, list[float]]], first: dict[str, list[float]]) -> str:
    """The slowest median of all, in words, where it is too slow; "" where all are fast."""
    table = Table("page", "new, ms", "slowest", "again, ms", "slowest", f"< {MOST_MS:g} ms")
    medians = {}
    for way, kinds in found.items():
        new, again = (statistics.median(kinds[kind]) for kind in ("new", "again"))
        medians[way] = max(new, again)
        verdict = "yes" if medians[way] < MOST_MS else "[bold red]no"
        slowest = [f"{max(kinds[kind]):.0f}" for kind in ("new", "again")]
        table.add_row(way, f"{new:.0f}", slowest[0], f"{again:.0f}", slowest[1], verdict)
    medians["/board, the first after a start"] = middle = statistics.median(first["paint"])
    verdict = "yes" if middle < MOST_MS else "[bold red]no"
    table.add_row("/board, at the start", f"{middle:.0f}", f"{max(first['paint']):.0f}", "", "", verdict)
    console.print(table)
    opened, filled = (statistics.median(first[kind]) for kind in ("open", "filled"))
    console.print(f"a studio is open after {opened:.0f} ms, its first board filled in after {filled:.0f} ms")
    way = max(medians, key=medians.__getitem__)
    return f"{way} paints after {medians[way]:.0f} ms, {MOST_MS:g} at most" if medians[way] >= MOST_MS else ""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--votes", type=int, default=20_000)
    parser.add_argument("--models", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--starts", type=int, default=3, help="studios started for the first board")
    parser.add_argument("--page", action="append", help="only this one; may be given again")
    parser.add_argument("--keep", help="build the workspace here, or take the one that is here")
    options = parser.parse_args()
    console = Console()
    workspace = Path(options.keep or tempfile.mkdtemp(prefix="whorl-studio-"))
    try:
        votes = options.votes
        if not (workspace / "arena").is_dir():
            began = time.monotonic()
            votes = build(workspace, options.models, options.votes, BUILD_SECONDS)
            console.print(
                f"{votes:,} votes on {options.models} models, made in {time.monotonic() - began:.0f} s"
            )
        load = os.getloadavg()[0]
        with two_cores(), chromium() as browser:
            least = limit(browser, options.rounds)
            first = first_boards(browser, workspace, options.starts)
            with studio(workspace) as entrance:
                with visitor(browser, entrance) as page:  # the board has been read: this is no start
                    page.goto(entrance.partition("/enter?")[0] + "/board")
                    page.locator("table.ratings").wait_for(timeout=1000 * PAINT_SECONDS)
                found = pages(browser, entrance, options.page or list(PAGES), options.rounds)
            version = browser.version
    finally:
        if not options.keep:
            shutil.rmtree(workspace, ignore_errors=True)
    failed = show(console, found, first)
    console.print(
        f"the limit, an empty page: {least:.0f} ms; Chromium {version}; load {load:.1f} at the start"
    )
    medians = {
        way: {kind: statistics.median(took) for kind, took in kinds.items()} for way, kinds in found.items()
    }
    keep("studio", {
        "what": "first contentful paint", "votes": votes, "models": options.models, "median_ms": medians,
        "rounds_ms": found, "first_board_ms": first, "limit_ms": least, "browser": version, "load": load,
    }, ("fastapi", "uvicorn", "playwright"))  # fmt: skip
    if failed:
        sys.exit(failed)


if __name__ == "__main__":
    main()
