"""What a bench claims, what it found, and whether that is met: printed a line each, and the exit code."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from rich.console import Console
from rich.table import Table

Outcome = Literal["met", "missed", "not measured", "left out"]
FAILURES = ("missed", "not measured")


class Verdict(NamedTuple):
    """`left out` is what the options asked not to run, `not measured` what this machine could not."""

    claim: str
    found: str
    outcome: Outcome


def judged(claim: str, found: str, met: bool) -> Verdict:
    return Verdict(claim, found, "met" if met else "missed")


def tell(verdicts: Sequence[Verdict], console: Console) -> int:
    """Print them; 1 where a claim is missed or could not be measured."""
    table = Table("claim", "found", "")
    for one in verdicts:
        style = {"met": "green", "left out": "dim"}.get(one.outcome, "bold red")
        table.add_row(one.claim, one.found, f"[{style}]{one.outcome}[/{style}]")
    console.print(table)
    return int(any(one.outcome in FAILURES for one in verdicts))
