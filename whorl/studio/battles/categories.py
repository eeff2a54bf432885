"""What a prompt is about, by plain rules on its first message: the board's categories.

Rules and no model: the same prompt is always of the same category, and anyone can see why.
"""

from __future__ import annotations

import re

from whorl.base.nouns import Message

CATEGORIES = ("images", "code", "mathematics", "long", "general")
LONG = 1500  # characters from which on a prompt is mostly material to be read

_CODE = re.compile(
    r"```|\b(?:def|class|import|return|function|const|SELECT|#include|stack ?trace|traceback|regex|python|"
    r"javascript|typescript|rust|golang|c\+\+|sql|bash|html|css|compile|debug|refactor|unit test)\b"
    r"|[{};]\s*\n|=>|::",
    re.IGNORECASE,
)
_MATHEMATICS = re.compile(
    r"\d\s*[-+*/^×÷=<>]\s*\(*\d|\$[^$]+\$|\\(?:frac|sum|int|sqrt)\b|\b(?:equations?|integral|derivative|prove|"
    r"theorem|probability|percent|how many|how much|sum of|square root|average|algebra|geometry)\b",
    re.IGNORECASE,
)


def category_of(message: Message) -> str:
    """The first that fits, in the order of `CATEGORIES`."""
    if message.images:
        return "images"
    text = message.text
    if _CODE.search(text):
        return "code"
    if _MATHEMATICS.search(text):
        return "mathematics"
    return "long" if len(text) >= LONG else "general"
