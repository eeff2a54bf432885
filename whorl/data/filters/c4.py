"""C4's rules (Raffel et al. 2020, arXiv:1910.10683, section 2.2; details as in its released code).

C4 works on lines: some go, and the document goes when too few sentences are left or when a line that
would stay holds placeholder text or a curly bracket.
"""

from __future__ import annotations

import re

from whorl.data.document import Document
from whorl.data.filters.config import C4, C4Config
from whorl.data.filters.english import PUNCTUATION, TERMINATOR, tokenize

_CITATION = re.compile(r"\[\d*\]|\[edit\]|\[citation needed\]")
_LINE_ENDS = (".", "?", "!", '"', "'")
_LOREM = "lorem ipsum"
_JAVASCRIPT = "javascript"


def c4_quality(document: Document, config: C4Config = C4) -> str | None:
    """None, or `too_few_sentences`, `lorem_ipsum` or `curly_bracket`. Lines that C4 would take out count
    as out; `c4_clean` gives the text without them."""
    return c4_clean(document.text, config)[1]


def c4_clean(text: str, config: C4Config = C4) -> tuple[str, str | None]:
    """(the text that C4's line rules leave, the reason to drop the document or None)."""
    lower = text.lower()  # one search of the whole text tells which rules can matter on any line
    lorem = config.lorem_ipsum and _LOREM in lower
    javascript = config.javascript and _JAVASCRIPT in lower
    bracket = config.curly_bracket and "{" in text
    phrases = tuple(phrase for phrase in config.policy_phrases if config.policy and phrase in lower)
    citations = config.citations and "[" in text
    kept: list[str] = []
    for line in map(str.strip, text.splitlines()):
        if _has_long_word(line, config.max_word_length):
            continue
        words = line.split(None, config.min_line_words)
        if citations:
            line = _CITATION.sub("", line)
        if config.terminal_punctuation and (not line.endswith(_LINE_ENDS) or line.endswith("...")):
            continue
        if len(words) < config.min_line_words:
            continue
        if lorem or javascript or phrases:
            small = line.lower()
            if lorem and _LOREM in small:
                return "\n".join(kept), "lorem_ipsum"
            if javascript and _JAVASCRIPT in small:
                continue
        if bracket and "{" in line:
            return "\n".join(kept), "curly_bracket"
        if phrases and any(phrase in small for phrase in phrases):
            continue
        kept.append(line)
    enough = config.min_sentences is None or _has_sentences(kept, config.min_sentences)
    return "\n".join(kept).strip(), None if enough else "too_few_sentences"


def _has_long_word(line: str, longest: int | None) -> bool:
    return longest is not None and len(line) > longest and any(len(word) > longest for word in line.split())


def _has_sentences(lines: list[str], least: int) -> bool:
    """Whether `lines` hold `least` sentences; none spans two lines, so each line is one at least."""
    if len(lines) >= least:
        return True
    return sum(map(count_sentences, lines)) >= least


def count_sentences(line: str) -> int:
    """Sentences of one line: the next begins with the first word after a terminator ("!", "?", ".", …)
    and its closing punctuation. A full stop that belongs to an abbreviation ends none."""
    sentences, ended = 1, False
    for kind in tokenize(line).kinds.tolist():
        if ended and not kind & (TERMINATOR | PUNCTUATION):
            sentences, ended = sentences + 1, False
        elif kind & TERMINATOR:
            ended = True
    return sentences
