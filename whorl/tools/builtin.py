"""The tools that come with Whorl: calculator, clock, look-ups in documentation and in documents."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from difflib import get_close_matches

from whorl.tools.calculator import calculate, calculator_text
from whorl.tools.definition import Tool, tool
from whorl.tools.entries import MAX_WORDS, Entry
from whorl.tools.pythondocs import PythonDocs

Find = Callable[[str], Entry | None]


def calculator_tool() -> Tool:
    """`calculator(expression)`: exact arithmetic; see `whorl.tools.calculator`."""

    def calculator(expression: str) -> str:
        """Exact arithmetic."""
        return calculator_text(calculate(expression))

    return tool(calculator)


def clock_tool(now: Callable[[], datetime] = lambda: datetime.now().astimezone()) -> Tool:
    """`clock()`: the date and time with its zone. `now` is what a test or a replay puts in."""

    def clock() -> str:
        """Tell the current date and time."""
        return now().strftime("%A, %d %B %Y, %H:%M:%S %Z").strip().rstrip(",")

    return tool(clock)


def lookup_tool(*sources: Find, max_words: int = MAX_WORDS) -> Tool:
    """`lookup(name)`: the first entry any of `sources` has, its first sentence on the first line.

    `PythonDocs().find` and `titles(...)` are sources; with no source it asks Python's documentation.
    """
    finds = sources or (PythonDocs().find,)

    def lookup(name: str) -> str:
        """Find a name in the documentation."""
        for find in finds:
            if (entry := find(name)) is not None:
                return entry.text(max_words)
        return f"error: nothing is documented under {name!r}"

    return tool(lookup)


def titles(entries: Mapping[str, Entry]) -> Find:
    """Look-up by title over the user's own documents: exact, else ignoring case and spacing, else
    the closest title where one is close."""
    folded = {_fold(title): entry for title, entry in reversed(list(entries.items()))}

    def find(name: str) -> Entry | None:
        if name in entries:
            return entries[name]
        if (entry := folded.get(_fold(name))) is not None:
            return entry
        close = get_close_matches(_fold(name), folded, n=1, cutoff=0.85)
        return folded[close[0]] if close else None

    return find


def _fold(title: str) -> str:
    return " ".join(title.casefold().split())
