"""Tools a model may call: schemas, the bounded call loop, the built-in tools."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from whorl.tools.builtin import calculator_tool, clock_tool, lookup_tool, titles
    from whorl.tools.calculator import calculate
    from whorl.tools.definition import Tool, tool
    from whorl.tools.entries import Entry, first_sentence
    from whorl.tools.loop import Outcome, converse
    from whorl.tools.pythondocs import PythonDocs

PUBLIC = {
    "Tool": "definition",
    "tool": "definition",
    "converse": "loop",
    "Outcome": "loop",
    "calculate": "calculator",
    "calculator_tool": "builtin",
    "clock_tool": "builtin",
    "lookup_tool": "builtin",
    "titles": "builtin",
    "Entry": "entries",
    "first_sentence": "entries",
    "PythonDocs": "pythondocs",
}
__all__ = [
    "Entry",
    "Outcome",
    "PythonDocs",
    "Tool",
    "calculate",
    "calculator_tool",
    "clock_tool",
    "converse",
    "first_sentence",
    "lookup_tool",
    "titles",
    "tool",
]


def __getattr__(name: str) -> Any:
    if name not in PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{PUBLIC[name]}"), name)
