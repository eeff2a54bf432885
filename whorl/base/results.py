"""How a measured figure is written and judged: once, for the table in the terminal and for every page."""

from __future__ import annotations

import math
from typing import Any

# Digits after the point, of a value and of its standard error; other units get significant digits.
DIGITS = {
    "%": (1, 1), "points": (0, 0), "votes": (0, 0), "minutes": (2, 3), "GB": (2, 3), "bits/byte": (2, 3),
}  # fmt: skip


def meets(value: float, floor: float, *, lower_is_better: bool) -> bool:
    """Whether a figure is where it should be: at least at its floor, or below it where lower is better."""
    return value < floor if lower_is_better else value >= floor


def written(value: float, unit: str) -> str:
    """`97.5 %`, `1.64 bits/byte`: the value in the digits that its unit deserves."""
    digits, _ = DIGITS.get(unit, (None, None))
    return f"{_rounded(value, digits) if digits is not None else format(value, '.4g')} {unit}".rstrip()


def written_error(error: float, unit: str) -> str:
    """A standard error, without its unit."""
    _, digits = DIGITS.get(unit, (None, None))
    return _rounded(error, digits) if digits is not None else f"{error:.2g}"


def written_floor(floor: float, unit: str, *, lower_is_better: bool) -> str:
    """`≥ 96 %`, `< 10.00 minutes`."""
    digits, _ = DIGITS.get(unit, (None, None))
    number = f"{floor:g}" if digits is None or unit == "%" else _rounded(floor, digits)
    return f"{'<' if lower_is_better else '≥'} {number} {unit}".rstrip()


def _rounded(value: float, digits: int) -> str:
    return f"{round(value, digits) + 0.0:.{digits}f}"  # + 0.0: no minus before a zero


def without_nan(value: Any) -> Any:
    """JSON has no NaN: a figure that nothing is known of is null."""
    if isinstance(value, dict):
        return {key: without_nan(one) for key, one in value.items()}
    if isinstance(value, list):
        return [without_nan(one) for one in value]
    return None if isinstance(value, float) and math.isnan(value) else value
