"""Gopher's quality and repetition rules (Rae et al. 2021, arXiv:2112.11446, appendix A.1.1).

Definitions and reasons are datatrove's where the paper leaves room, so verdicts can be compared.
What dominates is the sorting of word pairs for the repeated n-grams, then the look-up of each chunk in
the lexicon; rules on lines first ask a bound that one scan of the text answers (see `bench/data.py`).
"""

from __future__ import annotations

from math import inf

import numpy as np

from whorl.data.document import Document
from whorl.data.filters.config import (
    GOPHER_QUALITY,
    GOPHER_REPETITION,
    GopherQualityConfig,
    GopherRepetitionConfig,
)
from whorl.data.filters.english import ALPHA, SYMBOL
from whorl.data.signals.ngrams import repeated_ngrams

_ELLIPSES = ("...", "…")
_BULLETS = ("•", "-")
_ZERO = np.zeros(1, np.int64)


def gopher_quality(document: Document, config: GopherQualityConfig = GOPHER_QUALITY) -> str | None:
    """None, or the first rule that `document` breaks, as `gopher_…`."""
    tokens = document.english_tokens
    kinds = tokens.kinds
    is_word = (kinds & SYMBOL) == 0
    words = int(np.count_nonzero(is_word))
    if config.min_words is not None and words < config.min_words:
        return "gopher_short_doc"
    if config.max_words is not None and words > config.max_words:
        return "gopher_long_doc"
    mean = int(tokens.lengths[is_word].sum()) / max(1, words)
    if config.min_mean_word_length is not None and mean < config.min_mean_word_length:
        return "gopher_below_avg_threshold"
    if config.max_mean_word_length is not None and mean > config.max_mean_word_length:
        return "gopher_above_avg_threshold"

    text = document.text
    count = max(1, len(tokens))  # in a text without words, shares of words are 0
    ellipses = sum(map(text.count, _ELLIPSES))
    if _above(text.count("#") / count, config.max_symbols_per_word):
        return "gopher_too_many_hashes"
    if _above(ellipses / count, config.max_symbols_per_word):
        return "gopher_too_many_ellipsis"
    lines = text.splitlines() or [""]
    # No more lines begin with a bullet than there are bullets: lines are looked at only where it matters.
    bullets = sum(map(text.count, _BULLETS)) / len(lines)
    if _above(bullets, config.max_bullet_lines):
        bullets = sum(line.lstrip().startswith(_BULLETS) for line in lines) / len(lines)
        if _above(bullets, config.max_bullet_lines):
            return "gopher_too_many_bullets"
    if _above(ellipses / len(lines), config.max_ellipsis_lines):
        trailing = sum(line.rstrip().endswith(_ELLIPSES) for line in lines) / len(lines)
        if _above(trailing, config.max_ellipsis_lines):
            return "gopher_too_many_end_ellipsis"

    alphabetic = int(np.count_nonzero(kinds & ALPHA)) / count
    if config.min_alphabetic_words is not None and alphabetic < config.min_alphabetic_words:
        return "gopher_below_alpha_threshold"
    if config.min_stop_words is not None and tokens.count_present(config.stop_words) < config.min_stop_words:
        return "gopher_enough_stop_words"
    return None


def gopher_repetition(document: Document, config: GopherRepetitionConfig = GOPHER_REPETITION) -> str | None:
    """None, or the first rule that `document` breaks: `dup_para_frac`, `dup_para_char_frac`,
    `dup_line_frac`, `dup_line_char_frac`, `top_N_gram`, `duplicated_N_n_grams`, or `empty`."""
    text = document.text
    if not text:
        return "empty"
    # Two newlines or more part paragraphs; of an odd run, one is left before the next.
    paragraphs = [part.lstrip("\n") for part in text.strip().split("\n\n") if part] or [""]
    repeats, characters = duplicates(paragraphs)
    if _above(repeats / len(paragraphs), config.max_duplicate_paragraphs):
        return "dup_para_frac"
    if _above(characters / len(text), config.max_duplicate_paragraph_characters):
        return "dup_para_char_frac"
    lines = [line for line in document.lines if line]  # runs of newlines part lines once
    edges = text.startswith("\n") + text.endswith("\n")  # what stands outside them is an empty line
    repeats, characters = duplicates(lines)
    if _above((repeats + (edges == 2)) / (len(lines) + edges), config.max_duplicate_lines):
        return "dup_line_frac"
    if _above(characters / len(text), config.max_duplicate_line_characters):
        return "dup_line_char_frac"
    return _repeated_words(document, config)


def _repeated_words(document: Document, config: GopherRepetitionConfig) -> str | None:
    tokens = document.english_tokens
    size = len(document.text)
    top, duplicate = dict(config.max_top_ngrams), dict(config.max_duplicate_ngrams)
    last_top = max(top, default=0)
    ends = np.concatenate([_ZERO, tokens.lengths.cumsum()])
    broken: str | None = None
    for found in repeated_ngrams(tokens.ids, min(len(tokens), max((*top, *duplicate), default=0))):
        n = found.n
        if n in top:
            position, count = found.top()
            characters = (int(ends[position + n] - ends[position]) + n - 1) * count  # with the spaces
            if characters / size > top[n]:
                return f"top_{n}_gram"
        if n < last_top and n not in duplicate:
            continue
        # No duplicates of this length or of a longer one can have more characters than this.
        bound = found.characters(ends) / size
        most = duplicate.get(n, inf)
        if not broken and bound > most and found.walk(ends) / size > most:
            broken = f"duplicated_{n}_n_grams"
        if n >= last_top and (
            broken or bound <= min((duplicate[m] for m in duplicate if m > n), default=inf)
        ):
            break  # the rules on top n-grams have had their turn: those come first
    return broken


def duplicates(parts: list[str]) -> tuple[int, int]:
    """How many of `parts` stood before, and their characters."""
    distinct = set(parts)
    if len(distinct) == len(parts):
        return 0, 0
    return len(parts) - len(distinct), sum(map(len, parts)) - sum(map(len, distinct))


def _above(share: float, most: float | None) -> bool:
    return most is not None and share > most
