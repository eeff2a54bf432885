"""The tools that a conversation tells its model of, and what comes of calls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from whorl.base.errors import InputError
from whorl.base.nouns import ToolCall
from whorl.studio.models.tools import all_tools

MOST_CALLS = 8  # that one message may lead to
# What a page says of each; the model reads the tool's own schema.
WORDS = {
    "calculator": "exact arithmetic",
    "clock": "this machine's date and time",
    "lookup": "the Python documentation installed here",
}


def schemas(names: Sequence[str]) -> list[dict[str, Any]]:
    """What is told of these tools to the model; InputError for one that is not here."""
    known = all_tools()
    for name in names:
        if name not in known:
            raise InputError(f"there is no tool {name!r}; choose from {', '.join(known)}")
    return [known[name].schema for name in dict.fromkeys(names)]


def run_call(call: ToolCall) -> str:
    """A call's result. A model that was trained with a tool knows it without being told of it: whether a
    call acts is the person's word, not the prompt's."""
    known = all_tools()
    if call.name not in known:
        return f"error: there is no tool {call.name!r}; there are {', '.join(sorted(known))}"
    return known[call.name].call(call.arguments)


def may_act(call: ToolCall) -> bool:
    """Whether the call would run anything, and so is asked about."""
    return call.name in all_tools()
