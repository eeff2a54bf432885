"""Replies that give their model away: kept, but no blind vote can rest on them."""

from __future__ import annotations

import re
from collections.abc import Iterable

# A reply speaks of itself with one of these before the name ("I'm Base, a model by …").
_SELF = r"(?:\bI\s+am|\bI['’]m|\bmy\s+name\s+is|\bthis\s+is|\bcalled|\bas)\s+(?:an?\s+|the\s+)?[\"'*_`“]*"


def names_itself(text: str, names: Iterable[str]) -> str:
    """The first of `names` that `text` gives away, "" for none.

    A name with a digit or a separator ("qwen2-7b", "Acme Chat") counts wherever it stands, in any case
    and with any separators. One that is a plain word ("chat", "base") would stand in many an innocent
    reply and counts only where the reply speaks of itself ("I am Base").
    """
    for name in names:
        words = re.findall(r"[^\W_]+", name)
        if not words:
            continue
        # Letters and digits may be written apart as well: "qwen2-7b" is "Qwen 2 7B".
        pieces = [piece for word in words for piece in re.findall(r"\d+|[^\W\d]+", word)]
        pattern = r"[\W_]*".join(map(re.escape, pieces))
        plain = len(pieces) == 1
        lead = _SELF if plain else ""
        if re.search(rf"{lead}(?<![^\W_]){pattern}(?![^\W_])", text, re.IGNORECASE):
            return name
    return ""
