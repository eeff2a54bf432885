"""Signals of each line, as spans (RedPajama-V2's definitions).

A span covers its line with the newline that ends it; a text that ends in a newline has no empty line
after it. Where a definition speaks of the normal form, it is that of the line alone.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Iterable

from whorl.data.document import Document, Span
from whorl.data.signals.natural import PRECISION

_TERMINAL = (".", "!", "?", "”")
_BULLETS = ("•", "‣", "▶", "◀", "◦", "■", "□", "▪", "▫", "–")  # the dash too
_CAPITALS = string.ascii_uppercase.encode()
_DIGITS = string.digits.encode()


def rps_lines_ending_with_terminal_punctution_mark(document: Document) -> list[Span]:  # RedPajama's spelling
    """1 where the line ends with ".", "!", "?" or "”", else 0."""
    return _spans(document, (line.rstrip().endswith(_TERMINAL) for line in document.ended_lines))


def rps_lines_javascript_counts(document: Document) -> list[Span]:
    """How often "javascript" is a word of the line's normal form."""
    if "javascript" not in document.normalized:
        return _spans(document, (0 for _ in document.ended_lines))
    return _spans(document, (line.split().count("javascript") for line in document.normalized_lines))


def rps_lines_num_words(document: Document) -> list[Span]:
    """Words of the line's normal form."""
    return _spans(document, (len(line.split()) for line in document.normalized_lines))


def rps_lines_numerical_chars_fraction(document: Document) -> list[Span]:
    """Numeric characters (digits, ½, Ⅷ …) per character of the line's normal form; 0 if that is empty."""
    return _spans(document, (_fraction(line, _DIGITS, str.isnumeric) for line in document.normalized_lines))


def rps_lines_start_with_bulletpoint(document: Document) -> list[Span]:
    """1 where the line begins with one of ten bullets (a hyphen is none), else 0."""
    return _spans(document, (line.lstrip().startswith(_BULLETS) for line in document.ended_lines))


def rps_lines_uppercase_letter_fraction(document: Document) -> list[Span]:
    """Capital letters per character of the line as written, its newline included."""
    return _spans(document, (_fraction(line, _CAPITALS, str.isupper) for line in document.ended_lines))


def _spans(document: Document, scores: Iterable[float]) -> list[Span]:
    spans, start = [], 0
    # `normalized_lines` has one more, empty, line where the text ends in a newline; it is passed over.
    for line, score in zip(document.ended_lines, scores, strict=False):
        spans.append(Span(start, start + len(line), float(score)))
        start += len(line)
    return spans


def _fraction(line: str, ascii_members: bytes, is_member: Callable[[str], bool]) -> float:
    """Members per character; a line of ASCII, which most are, is counted by deletion, in C."""
    if not line:
        return 0.0
    if line.isascii():
        count = len(line) - len(line.encode().translate(None, ascii_members))
    else:
        count = sum(map(is_member, line))
    return round(count / len(line), PRECISION)
