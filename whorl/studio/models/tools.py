"""The tools that a studio's models may call: they compute, tell the time and look things up."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from types import MappingProxyType

from whorl.tools import Tool, calculator_tool, clock_tool, lookup_tool


@cache
def all_tools() -> Mapping[str, Tool]:
    """By name."""
    made = (calculator_tool(), clock_tool(), lookup_tool())
    return MappingProxyType({tool.name: tool for tool in made})
