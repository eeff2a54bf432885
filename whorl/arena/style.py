"""What a reply looks like rather than says: counts of it, and their part in who wins.

Style control adds f·β to the log-odds of a battle (arena.ai's "style control", 2024): f = (a − b) / (a + b)
of each count, z-scored, so that a rating says how a model fares at equal length and markup; β is per
standard deviation of f. Each battle is scored both ways round: then the mean is 0 and only the spread is
divided out. A mean over the sides as they were shown would put a model's style into its rating wherever
it always stood on the same side.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from whorl.arena.battles import Battles
from whorl.base.errors import InputError
from whorl.base.fields import nearest

STYLES = ("tokens", "headers", "lists", "bold")
CODE = re.compile(r"^ {0,3}(```|~~~).*?(?:^ {0,3}\1[ \t]*$|\Z)", re.MULTILINE | re.DOTALL)
HEADER = re.compile(r"^ {0,3}#{1,6}[ \t]+\S", re.MULTILINE)
ITEM = re.compile(r"^[ \t]*(?:[-*+]|\d{1,9}[.)])[ \t]+\S", re.MULTILINE)
# Bounded: a line of openings that nothing closes would cost the square of its length.
BOLD = re.compile(r"(\*\*|__)(?=\S)[^\n]{0,200}?\S\1")


def style_counts(text: str, tokens: int | None = None) -> dict[str, int]:
    """Tokens (words where no count is given), headers, list items and bold spans of a markdown reply.

    Code blocks do not count but for their tokens: a `# comment` is no header.
    """
    prose = CODE.sub("", text)
    return {
        "tokens": len(text.split()) if tokens is None else tokens,
        "headers": len(HEADER.findall(prose)),
        "lists": len(ITEM.findall(prose)),
        "bold": len(BOLD.findall(prose)),
    }


def style_features(battles: Battles, names: Sequence[str]) -> NDArray[np.float64]:
    """[N, F] (a − b)/(a + b) of the named counts, z-scored; 0 where neither reply has any.

    A count that never differs gives a column of zeros: it explains nothing.
    """
    for name in names:
        if name not in battles.style_names:
            there = nearest(name, battles.style_names) if battles.style_names else "; the battles have none"
            raise InputError(f"style {name!r} is not among the battles' counts{there}")
    places = [battles.style_names.index(name) for name in names]
    in_a, in_b = battles.style[:, places, 0], battles.style[:, places, 1]
    total = in_a + in_b
    f = np.divide(in_a - in_b, total, out=np.zeros_like(total), where=total > 0)
    spread = np.sqrt(np.mean(f**2, axis=0))
    scored: NDArray[np.float64] = np.divide(f, spread, out=np.zeros_like(f), where=spread > 1e-12)
    return scored
