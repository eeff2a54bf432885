"""The tools a conversation may offer its model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from whorl.base.errors import InputError
from whorl.base.nouns import ToolCall
from whorl.studio.models.tools import all_tools

MOST_CALLS = 8  # that one message may lead to
# What a page says of each; the model reads the tool's own schema.
WORDS = {
    "calculator": "exact arithmetic",
    "clock": "the date and time of this machine",
    "lookup": "Python's documentation, as it is installed here",
}


def schemas(names: Sequence[str]) -> list[dict[str, Any]]:
    """What is told of these tools to the model; InputError for one that is not here."""
    known = all_tools()
    for name in names:
        if name not in known:
            raise InputError(f"there is no tool {name!r}; there are {', '.join(known)}")
    return [known[name].schema for name in dict.fromkeys(names)]


def run_call(call: ToolCall, offered: Sequence[Mapping[str, Any]]) -> str:
    """A call's result. A tool that was not offered is not there for the model."""
    names = {str(one.get("function", {}).get("name")) for one in offered} & set(all_tools())
    if call.name not in names:
        return f"error: there is no tool {call.name!r}; there are {', '.join(sorted(names)) or 'none'}"
    return all_tools()[call.name].call(call.arguments)


def may_act(call: ToolCall, offered: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the call would run anything, and so is asked about."""
    names = {str(one.get("function", {}).get("name")) for one in offered}
    return call.name in names and call.name in all_tools()
