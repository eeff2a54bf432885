"""What of a reply's dress may sway a vote: counts of it, for the ratings' style control."""

from __future__ import annotations

import re

_CODE = re.compile(r"^ {0,3}(```|~~~).*?(?:^ {0,3}\1[ \t]*$|\Z)", re.MULTILINE | re.DOTALL)
_HEADER = re.compile(r"^ {0,3}#{1,6}[ \t]+\S", re.MULTILINE)
_ITEM = re.compile(r"^[ \t]*(?:[-*+]|\d{1,9}[.)])[ \t]+\S", re.MULTILINE)
# Bounded: a line of openings that nothing closes would cost the square of its length.
_BOLD = re.compile(r"(\*\*|__)(?=\S)[^\n]{0,200}?\S\1")


def style_counts(text: str, tokens: int | None = None) -> dict[str, int]:
    """{tokens, headers, lists, bold} of a markdown reply; words where no number of tokens is given.
    What stands in code blocks is no markdown."""
    prose = _CODE.sub("", text)
    return {
        "tokens": len(text.split()) if tokens is None else tokens,
        "headers": len(_HEADER.findall(prose)),
        "lists": len(_ITEM.findall(prose)),
        "bold": len(_BOLD.findall(prose)),
    }
