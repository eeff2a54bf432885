"""Signals of repetition within a document (RedPajama-V2's definitions).

Numerator and denominator are characters of `Document.words`, spaces left out: the thresholds of the
Gopher filters, whose denominator is the whole text, do not transfer.
"""

from __future__ import annotations

from functools import partial
from itertools import accumulate

import numpy as np

from whorl.data.document import Document
from whorl.data.signals.natural import PRECISION
from whorl.data.signals.ngrams import Repeated

TOP = (2, 3, 4)
DUPLICATE = (5, 6, 7, 8, 9, 10)


def frac_chars_top_ngram(document: Document, n: int) -> float:
    """Characters of the word n-gram that stands most often (of several, the first), all its occurrences
    counted, per character of all words; 0 where none stands twice."""
    found = _repeated(document, n)
    if found is None or not len(found.positions):
        return 0.0
    position, count = found.top()
    characters = sum(map(len, document.words[position : position + n])) * count
    return round(characters / sum(map(len, document.words)), PRECISION)


def frac_chars_dupe_ngrams(document: Document, n: int) -> float:
    """Characters of words that are part of any word n-gram standing more than once, each counted once,
    per character of all words."""
    found = _repeated(document, n)
    if found is None:
        return 0.0
    ends = np.array([0, *accumulate(map(len, document.words))])
    return round(found.characters(ends) / int(ends[-1]), PRECISION)


def _repeated(document: Document, n: int) -> Repeated | None:
    return next((found for found in document.repeated_ngrams if found.n == n), None)


rps_doc_frac_chars_top_2gram = partial(frac_chars_top_ngram, n=2)
rps_doc_frac_chars_top_3gram = partial(frac_chars_top_ngram, n=3)
rps_doc_frac_chars_top_4gram = partial(frac_chars_top_ngram, n=4)
rps_doc_frac_chars_dupe_5grams = partial(frac_chars_dupe_ngrams, n=5)
rps_doc_frac_chars_dupe_6grams = partial(frac_chars_dupe_ngrams, n=6)
rps_doc_frac_chars_dupe_7grams = partial(frac_chars_dupe_ngrams, n=7)
rps_doc_frac_chars_dupe_8grams = partial(frac_chars_dupe_ngrams, n=8)
rps_doc_frac_chars_dupe_9grams = partial(frac_chars_dupe_ngrams, n=9)
rps_doc_frac_chars_dupe_10grams = partial(frac_chars_dupe_ngrams, n=10)
