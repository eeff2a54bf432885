"""Documents that say the same thing character for character, white space aside."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator

import numpy as np
import xxhash

from whorl.data.dedup.clusters import Clusters
from whorl.data.document import Document


def content_key(document: Document) -> bytes:
    """16 bytes of XXH3-128 over the text (Unicode NFC, runs of white space as one space) and the
    images' digests. Case and punctuation count: `a + b` is not `a - b`."""
    text = " ".join(document.text.split())
    if not text.isascii():
        text = unicodedata.normalize("NFC", text)
    digest = xxhash.xxh3_128(text.encode("utf-8"))
    for image in document.images:
        digest.update(b"\0" + image.digest.encode())
    return digest.digest()


def groups(keys: np.ndarray) -> Iterator[np.ndarray]:
    """Positions of equal values in `keys` [N], a group at a time, rising within a group; only
    groups of two or more."""
    if not len(keys):
        return
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    starts = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1])))
    ends = np.append(starts[1:], len(keys))
    for start, end in zip(starts, ends, strict=True):
        if end - start > 1:
            yield order[start:end]


def same_content(keys: np.ndarray) -> Clusters:
    """Clusters of equal content keys; `keys` is uint64 [N, 2], the two halves of `content_key`."""
    clusters = Clusters(len(keys))
    for first_half in groups(np.ascontiguousarray(keys[:, 0])):
        for group in groups(keys[first_half, 1]):
            clusters.join_all(first_half[group])
    return clusters
