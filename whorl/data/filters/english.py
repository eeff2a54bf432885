"""English words as the web-text filters count them, at memory speed.

Gopher's rules speak of words; the figures everyone compares with come from spaCy's English rules
(punctuation apart, "don't" as "do" + "n't", abbreviations whole), so this splitter agrees with
those. A token never crosses white space, which makes the split of a *chunk* (what stands between
white space) a pure function of the chunk; by Zipf's law nearly every chunk has been seen before. So
a `Lexicon` remembers chunk → token numbers, and a document costs one `str.split` and one dictionary
look-up a chunk; the rules below run only for chunks never seen. Everything later is numpy on numbers.
"""

from __future__ import annotations

import string
import threading
import unicodedata
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from whorl.data.filters.english_rules import (
    EMOTICON,
    INFIX,
    MAYBE_EMOTICON,
    MAYBE_INFIX,
    TERMINATORS,
    URL,
    is_special,
    prefix,
    special,
    suffix,
)

MAX_CHUNKS = 1 << 18  # what one process remembers (about 60 MB); then it begins again
MAX_REMEMBERED = 48  # characters; longer chunks hardly come twice
LONGEST_SPECIAL = 16  # characters
_COMMON_ENDS = ",.;:!?)"

ALPHA, SYMBOL, TERMINATOR, PUNCTUATION = 1, 2, 4, 8  # what a token is, as bits

# What Gopher's word count passes over: a set of characters, not a category of them ("$" and "^" are
# signs, "→" and "±" are words), so that counts are the ones others report.
_SYMBOLS = TERMINATORS.union(
    string.punctuation,
    map(chr, (*range(9), *range(11, 32), *range(127, 160))),
    "—–“”„’´…«»►∶━％１（、【「」，】；～《？：》）",
)


def _is_word_and_mark(chunk: str) -> bool:
    """ "word," is the common case of all that is not a word alone."""
    body, last = chunk[:-1], chunk[-1]
    if last not in _COMMON_ENDS or not body.isalpha() or (last == "." and not "a" <= body[-1] <= "z"):
        return False
    return not is_special(chunk) and not is_special(body)


def split_chunk(chunk: str) -> list[str]:
    """The tokens of one chunk (no white space in it); joined, they are the chunk.

    Affixes come off from the outside in; what is left is a whole word, an address, or is cut at infixes.
    """
    if chunk.isalpha() and not is_special(chunk):
        return [chunk]
    if _is_word_and_mark(chunk):
        return [chunk[:-1], chunk[-1]]
    head: list[str] = []
    tail: list[str] = []
    start, end = 0, len(chunk)
    while start < end:
        short = end - start <= LONGEST_SPECIAL
        if short and is_special(chunk[start:end]):
            break
        leading = 0 if chunk[start].isalnum() else prefix(chunk, start, end)
        trailing = suffix(chunk, start, end)
        if leading and not (trailing and short and is_special(chunk[start : end - trailing])):
            head.append(chunk[start : start + leading])
            start += leading
        elif trailing:
            tail.append(chunk[end - trailing : end])
            end -= trailing
        else:
            break
    tail.reverse()
    tokens = [*head, *_split_middle(chunk[start:end]), *tail]
    return _join_emoticons(tokens) if MAYBE_EMOTICON.search(chunk) else tokens


def _join_emoticons(tokens: list[str]) -> list[str]:
    """ "f(x):" ends in "):", which is one token, and two apostrophes side by side are one too."""
    joined: list[str] = []
    for token in tokens:
        if joined and len(token) == 1 == len(joined[-1]) and EMOTICON.fullmatch(joined[-1] + token):
            joined[-1] += token
        else:
            joined.append(token)
    return joined


def _split_middle(middle: str) -> list[str]:
    if not middle:
        return []
    if is_special(middle):
        return special(middle)
    if not MAYBE_INFIX.search(middle) or ("." in middle and URL.fullmatch(middle)):
        return [middle]
    pieces: list[str] = []
    start = 0
    for match in INFIX.finditer(middle):
        if match.start() > start:
            pieces.append(middle[start : match.start()])
        pieces.append(match.group())
        start = match.end()
    if start < len(middle):
        pieces.append(middle[start:])
    return pieces


def _kind(token: str) -> int:
    kind = 0
    if any(map(str.isalpha, token)):
        kind |= ALPHA
    elif _SYMBOLS.issuperset(token):
        kind |= SYMBOL
    if token in TERMINATORS:
        kind |= TERMINATOR
    if not kind & ALPHA and all(unicodedata.category(char)[0] == "P" for char in token):
        kind |= PUNCTUATION
    return kind


class Lexicon(dict[str, tuple[int, ...]]):
    """chunk → the numbers of its tokens, filled as chunks are met; numbers count from 0."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers: dict[str, int] = {}
        self._lengths = np.zeros(1024, np.int64)
        self._kinds = np.zeros(1024, np.uint8)
        self._new: list[str] = []  # tokens whose length and kind are not yet in the tables

    def __missing__(self, chunk: str) -> tuple[int, ...]:
        numbers = self.numbers
        found = []
        for token in split_chunk(chunk):
            number = numbers.get(token)
            if number is None:
                number = numbers[token] = len(numbers)
                self._new.append(token)
            found.append(number)
        result = tuple(found)
        if len(chunk) <= MAX_REMEMBERED:
            self[chunk] = result
        return result

    def tables(self) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
        """Characters, and what it is (ALPHA | SYMBOL | …), of each token by number."""
        if self._new:
            last = len(self.numbers)
            first = last - len(self._new)
            while last > len(self._lengths):
                self._lengths = np.concatenate([self._lengths, np.zeros_like(self._lengths)])
                self._kinds = np.concatenate([self._kinds, np.zeros_like(self._kinds)])
            self._lengths[first:last] = list(map(len, self._new))
            self._kinds[first:last] = list(map(_kind, self._new))
            self._new = []
        return self._lengths, self._kinds


@dataclass(frozen=True)
class Tokens:
    """A text's English tokens, in order, as numbers of its lexicon: `ids` int64 [N]."""

    ids: NDArray[np.int64]
    lengths: NDArray[np.int64]
    """Characters of each token, [N]."""
    kinds: NDArray[np.uint8]
    """ALPHA | SYMBOL | TERMINATOR | PUNCTUATION of each token, [N]."""
    lexicon: Lexicon = field(repr=False)

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def distinct(self) -> frozenset[int]:
        return frozenset(self.ids.tolist())

    def count_present(self, words: frozenset[str]) -> int:
        """How many of `words` occur as a token, as written."""
        numbers = self.lexicon.numbers
        return sum(numbers.get(word, -1) in self.distinct for word in words)

    @cached_property
    def words(self) -> tuple[str, ...]:
        """The tokens as written; for looking at, not for speed."""
        names = list(self.lexicon.numbers)
        return tuple(names[number] for number in self.ids.tolist())


_lock = threading.Lock()
_lexicon = Lexicon()


def tokenize(text: str) -> Tokens:
    """Split `text` with this process's lexicon. A pure function but for its speed."""
    global _lexicon
    with _lock:
        if len(_lexicon) > MAX_CHUNKS or len(_lexicon.numbers) > MAX_CHUNKS:
            _lexicon = Lexicon()  # a new one: tokens made before keep theirs
        lexicon = _lexicon
        numbers = chain.from_iterable(map(lexicon.__getitem__, text.split()))
        ids = np.fromiter(numbers, np.int64)
        lengths, kinds = lexicon.tables()
        return Tokens(ids, lengths[ids], kinds[ids], lexicon)


def forget() -> None:
    """Begin with an empty lexicon (benchmarks measure from there)."""
    global _lexicon
    with _lock:
        _lexicon = Lexicon()
