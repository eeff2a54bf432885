"""Numbers as people write them in answers: 1,234.50, $18, -3, 72%."""

from __future__ import annotations

import re
from fractions import Fraction

NUMBER = re.compile(
    r"""
    (?<![\w.])                                # not inside a word or behind a decimal point
    (?: (?<![)\d]) (?<![)\d]\s) [-−]\s? )?    # a sign, unless it follows a number: then it subtracts
    (?: \$ [-−]? )?
    (?: \d{1,3}(?:,\d{3})+(?!\d) | \d+ ) (?:\.\d+)?
    | (?<!\w) \.\d+
    """,
    re.VERBOSE,
)


def numbers(text: str) -> list[Fraction]:
    """Every number in `text`, in order, exactly."""
    return [_value(match) for match in NUMBER.findall(text)]


def _value(written: str) -> Fraction:
    plain = written.replace(",", "").replace("$", "").replace("−", "-").replace(" ", "")
    return Fraction(plain)
