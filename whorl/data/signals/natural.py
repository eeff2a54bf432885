"""Signals of a whole document: how much it reads like natural language (RedPajama-V2's definitions).

*Words* are `Document.words` (the normal form: no ASCII punctuation, lower case, NFD); *raw words* are
`Document.raw_tokens` (runs of word characters or of other signs, as written). Fractions are rounded to
eight places as in the published set; None where there is nothing to take a fraction of.
"""

from __future__ import annotations

import re
from collections import Counter
from math import log

from whorl.data.document import Document
from whorl.data.signals.stop_words import ENGLISH

PRECISION = 8
_SENTENCE = re.compile(r"\b[^.!?]+[.!?]*")
_LETTER = re.compile(r"[a-zA-Z]")
_ELLIPSES = ("...", "…")
_SYMBOLS = ("#", *_ELLIPSES)


def ccnet_length(document: Document) -> float:
    """Characters."""
    return float(len(document.text))


def ccnet_nlines(document: Document) -> float:
    """Lines, empty ones too."""
    return float(document.text.count("\n") + 1)


def rps_doc_curly_bracket(document: Document) -> float:
    """Curly brackets, of either hand, per character."""
    text = document.text
    return round((text.count("{") + text.count("}")) / len(text), PRECISION) if text else 0.0


def rps_doc_frac_all_caps_words(document: Document) -> float | None:
    """Raw words whose letters are all capital, per raw word."""
    return _per(sum(map(str.isupper, document.raw_tokens)), document.raw_tokens)


def rps_doc_frac_lines_end_with_ellipsis(document: Document) -> float | None:
    """Lines that end with "..." or "…", per line."""
    lines = document.ended_lines
    if not any(map(document.text.count, _ELLIPSES)):
        return _per(0, lines)
    return _per(sum(line.rstrip().endswith(_ELLIPSES) for line in lines), lines)


def rps_doc_frac_no_alph_words(document: Document) -> float | None:
    """Raw words without a letter of a to z, per raw word."""
    words = document.raw_tokens
    if not words:
        return None
    lettered = sum(map(bool, map(_LETTER.search, words)))
    return round(1.0 - lettered / len(words), PRECISION)


def rps_doc_lorem_ipsum(document: Document) -> float:
    """ "lorem ipsum" in the normal form, per character of that."""
    text = document.normalized
    return round(text.count("lorem ipsum") / len(text), PRECISION) if text else 0.0


def rps_doc_mean_word_length(document: Document) -> float | None:
    """Characters per word."""
    return _per(sum(map(len, document.words)), document.words)


def rps_doc_num_sentences(document: Document) -> float:
    r"""Matches of `\b[^.!?]+[.!?]*`."""
    return float(len(_SENTENCE.findall(document.text)))


def rps_doc_stop_word_fraction(document: Document, stop_words: frozenset[str] = ENGLISH) -> float | None:
    """Raw words that are stop words, per raw word. The list is Whorl's own (see `stop_words`)."""
    return _per(sum(map(stop_words.__contains__, document.raw_tokens)), document.raw_tokens)


def rps_doc_symbol_to_word_ratio(document: Document) -> float | None:
    """ "#", "..." and "…" per raw word."""
    return _per(sum(map(document.text.count, _SYMBOLS)), document.raw_tokens)


def rps_doc_frac_unique_words(document: Document) -> float | None:
    """Different words per word."""
    return _per(len(set(document.words)), document.words)


def rps_doc_unigram_entropy(document: Document) -> float | None:
    """Entropy of the distribution of words, in nats."""
    total = len(document.words)
    if not total:
        return None
    counts = Counter(document.words).values()
    return round(sum(-count / total * log(count / total) for count in counts), PRECISION)


def rps_doc_word_count(document: Document) -> float:
    """Words."""
    return float(len(document.words))


def _per(count: int, of: tuple[str, ...]) -> float | None:
    return round(count / len(of), PRECISION) if of else None
