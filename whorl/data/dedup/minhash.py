"""MinHash sketches of documents' word n-grams (Broder 1997; C-MinHash, Li & Li 2022, by rensa)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import xxhash

from whorl.data.document import Document

# Scripts written without spaces: each of their characters counts as a word of its own.
_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\U00020000-\U0003ffff]"
)
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
NO_SKETCH = np.uint64(2**64 - 1)  # in every place of a document that has no words


@dataclass(frozen=True, kw_only=True)
class Sketch:
    """How sketches are made; only equal ones can be compared."""

    ngram: int = 5
    hashes: int = 112
    seed: int = 1

    def __call__(self, documents: Sequence[Document]) -> np.ndarray:
        """uint64 [documents, hashes]; the share of equal places in two rows estimates the Jaccard
        similarity of their `shingles`. Rows without words, or with images, are all `NO_SKETCH`:
        a caption in common makes two pictures no duplicates."""
        from rensa import CMinHash

        sets = [shingles(() if document.images else document.words, self.ngram) for document in documents]
        rows = CMinHash.digests64_from_token_hash_sets(sets, self.hashes, self.seed)
        return np.array(rows, dtype=np.uint64).reshape(len(documents), self.hashes)


def shingles(words: Sequence[str], ngram: int) -> np.ndarray:
    """uint64 [n]: the hashes of all runs of `ngram` words (of all words, where there are fewer)."""
    words = split_unspaced(words)
    hashed = np.array([xxhash.xxh3_64_intdigest(word.encode()) for word in words], dtype=np.uint64)
    size = min(ngram, len(words))
    if not size:
        return hashed
    count = len(words) - size + 1
    total = np.full(count, size, dtype=np.uint64)
    for place in range(size):  # arithmetic wraps modulo 2^64
        total = (total ^ hashed[place : place + count]) * _MULTIPLIER
        total ^= total >> np.uint64(29)
    return total


def split_unspaced(words: Sequence[str]) -> Sequence[str]:
    """`words` with every character of Chinese, Japanese, Thai, … as a word."""
    if all(map(str.isascii, words)):
        return words
    found: list[str] = []
    for word in words:
        if word.isascii() or not _UNSPACED.search(word):
            found.append(word)
        else:
            found.extend(part for part in re.split(f"({_UNSPACED.pattern})", word) if part)
    return found
