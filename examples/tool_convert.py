"""A tool: a function with annotations. Its docstring tells the model what it does, its annotations
what to pass; a raised error becomes an answer the model can read."""

from typing import Annotated

from whorl.tools import tool

METRES = {"m": 1.0, "km": 1000.0, "mi": 1609.344, "ft": 0.3048, "in": 0.0254}


def convert(
    value: float,
    unit: Annotated[str, "the unit it is in: m, km, mi, ft or in"],
    into: Annotated[str, "the unit wanted"],
) -> str:
    """Convert a length."""
    for name in (unit, into):
        if name not in METRES:
            raise ValueError(f"no unit {name!r}; use one of {', '.join(METRES)}")
    return f"{value * METRES[unit] / METRES[into]:g} {into}"


convert_tool = tool(convert)
