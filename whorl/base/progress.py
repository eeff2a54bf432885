"""Progress a person can read: a bar on a terminal, plain lines elsewhere, nothing on stdout.

In a process group only rank 0 speaks (`RANK`, as torchrun sets it).
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.console import Console

FIRST_LINE = 2.0  # seconds before the first plain line; the gap doubles from there …
CONTROLS = {code: f"\\x{code:02x}" for code in (*range(9), *range(11, 32), *range(127, 160))}
LONGEST_GAP = 60.0  # … up to this


class Progress(Protocol):
    def advance(self, n: float = 1, **shown: object) -> None:
        """`n` more units are done; `shown` values (`loss=2.31`) stand beside the bar."""


@cache
def console() -> Console:
    """The one console on stderr: what is said while a bar runs appears above the bar."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, soft_wrap=True)


def speaks() -> bool:
    """Whether this process is the one that talks to the person."""
    return os.environ.get("RANK", "0") == "0"


def say(text: str) -> None:
    """One line for people, on stderr."""
    if speaks():
        console().print(printable(text), markup=False)


def printable(text: str) -> str:
    """The text with its control characters spelt out (\\x1b), so that a name from a file moves no cursor."""
    return text.translate(CONTROLS)


@contextmanager
def progress(total: float | None, label: str, unit: str = "", *, done: float = 0) -> Iterator[Progress]:
    """Show `label` going from `done` to `total` units (None: no end known).

    `done` is what an earlier run had finished: it fills the bar and does not count for the rate.
    """
    if not speaks():
        yield _Silent()
    elif sys.stderr.isatty():
        with _bar(total, label, unit, done) as bar:
            yield bar
    else:
        lines = _Lines(total, label, unit, done)
        yield lines
        lines.finish()


class _Silent:
    def advance(self, n: float = 1, **shown: object) -> None:
        """Another rank speaks."""


@contextmanager
def _bar(total: float | None, label: str, unit: str, done: float) -> Iterator[Progress]:
    from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as RichProgress

    columns = [
        TextColumn("{task.description}"),
        BarColumn(bar_width=28),
        TextColumn("{task.fields[count]}"),
        TextColumn("{task.fields[rate]}", style="progress.data.speed"),
        TimeRemainingColumn(compact=True),
        TextColumn("{task.fields[shown]}", style="cyan", markup=False),
    ]
    with RichProgress(*columns, console=console(), refresh_per_second=5) as bars:
        meter = _Meter(total, unit, done)
        count = meter.count()
        task = bars.add_task(label, total=total, count=count, rate="", shown="")
        bars.update(task, completed=done)

        class Bar:
            def advance(self, n: float = 1, **shown: object) -> None:
                meter.add(n)
                bars.update(task, advance=n, count=meter.count(), rate=meter.rate_text())
                if shown:
                    bars.update(task, shown=show(shown))

        yield Bar()


class _Meter:
    """Counts units against the clock."""

    def __init__(
        self, total: float | None, unit: str, done: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.total, self.unit, self.at_start, self.done, self.clock = total, unit, done, done, clock
        self.started = clock()

    def add(self, n: float) -> None:
        self.done += n

    @property
    def seconds(self) -> float:
        return self.clock() - self.started

    @property
    def rate(self) -> float:
        """Units a second since the start; 0 before there is anything to divide."""
        return (self.done - self.at_start) / self.seconds if self.seconds > 0 else 0.0

    def count(self) -> str:
        unit = f" {self.unit}" if self.unit else ""
        return f"{figure(self.done)}{f'/{figure(self.total)}' if self.total is not None else ''}{unit}"

    def rate_text(self) -> str:
        return f"{figure(self.rate)}/s" if self.rate else ""

    def left(self) -> str:
        if self.total is None or not self.rate or self.done >= self.total:
            return ""
        return f"{duration((self.total - self.done) / self.rate)} left"


class _Lines:
    """A plain line after 2 s, 4 s, 8 s … and then every minute, and one at the end."""

    def __init__(
        self,
        total: float | None,
        label: str,
        unit: str,
        done: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.label, self.meter, self.shown = label, _Meter(total, unit, done, clock), ""
        self.gap, self.due = FIRST_LINE, self.meter.started + FIRST_LINE

    def advance(self, n: float = 1, **shown: object) -> None:
        self.meter.add(n)
        self.shown = show(shown) or self.shown
        now = self.meter.clock()
        if now >= self.due:
            self.gap = min(self.gap * 2, LONGEST_GAP)
            self.due = now + self.gap
            self.write(self.meter.left())

    def finish(self) -> None:
        self.write(f"done in {duration(self.meter.seconds)}")

    def write(self, last: str) -> None:
        share = f"{100 * self.meter.done / self.meter.total:.0f} %" if self.meter.total else ""
        parts = [share, self.meter.count(), self.meter.rate_text(), self.shown, last]
        say(f"{self.label}: " + ", ".join(part for part in parts if part))


def show(values: dict[str, object]) -> str:
    """`loss 2.31  lr 0.0003`."""
    return "  ".join(
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in values.items()
    )


def figure(value: float) -> str:
    """A count in three or four digits: 950, 12.3k, 4.56M."""
    size = abs(value)
    for limit, mark in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e4, "k")):
        if size >= limit:
            return f"{value / (1e3 if mark == 'k' else limit):.3g}{mark}"
    return f"{value:,.0f}" if value == int(value) or size >= 100 else f"{value:.3g}"


def duration(seconds: float) -> str:
    """8 s, 3 min 20 s, 2 h 5 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min"
