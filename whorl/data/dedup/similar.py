"""Similar documents from their sketches: locality-sensitive hashing by sorting bands.

A band is a few neighbouring places of a sketch; two documents that agree in a whole band are
candidates. Bands are compared by sorting one column of N keys at a time, so memory is a few dozen
bytes a document, whatever the texts' sizes; sketches stay on disk (a memory map).
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from whorl.data.dedup.clusters import Clusters
from whorl.data.dedup.exact import groups
from whorl.data.dedup.minhash import NO_SKETCH

ROWS_AT_ONCE = 1 << 15
PAIRWISE_LIMIT = 2048  # members of a bucket compared each with each; larger ones are divided first
_MULTIPLIER = np.uint64(0xD6E8FEB86659FD93)


def bands_for(threshold: float, hashes: int, miss: float = 1e-5) -> tuple[int, int]:
    """(bands, rows): the most rows a band with which two documents of similarity `threshold` share
    none with probability `miss` at most, 1 - (1 - t^rows)^bands being that of sharing one."""
    for rows in range(8, 1, -1):
        bands = hashes // rows
        if bands and (1 - threshold**rows) ** bands <= miss:
            return bands, rows
    return hashes, 1


def join_similar(
    clusters: Clusters, sketches: np.ndarray, *, bands: int, rows: int, verify: float | None
) -> None:
    """Join in `clusters` the documents whose `sketches` (uint64 [N, hashes]) share a band.

    With `verify`, only those whose estimated Jaccard similarity is at least that. To keep the number
    of comparisons linear, a bucket of more than `PAIRWISE_LIMIT` documents is first divided by further
    bands: there a pair must share two bands or more, so that of pairs at the threshold some are missed
    (at 56 x 2 and similarity 0.5, 3 in 100 after one division). Sketches that agree in every band,
    and more than that many, are joined as they are.
    """
    keys = _band_keys(sketches, 0, sketches.shape[1])
    present = np.flatnonzero(sketches[:, 0] != NO_SKETCH)
    for group in groups(keys[present]):  # equal sketches first: only one of each goes on
        clusters.join_all(present[group])
    _, firsts = np.unique(keys[present], return_index=True)
    distinct = present[np.sort(firsts)]
    for band in range(bands):
        column = _band_keys(sketches, band * rows, (band + 1) * rows)[distinct]
        for group in groups(column):
            members = distinct[group]
            if verify is None:
                clusters.join_all(members)
                continue
            for bucket in _divide(sketches, members, band, bands, rows):
                _join_verified(clusters, sketches, bucket, verify)


def _band_keys(sketches: np.ndarray, start: int, end: int) -> np.ndarray:
    """uint64 [N]: one hash of the places [start, end) of every sketch."""
    keys = np.zeros(len(sketches), dtype=np.uint64)
    for at in range(0, len(sketches), ROWS_AT_ONCE):
        part, key = sketches[at : at + ROWS_AT_ONCE, start:end], keys[at : at + ROWS_AT_ONCE]
        for place in range(part.shape[1]):
            key ^= part[:, place]
            key *= _MULTIPLIER
            key ^= key >> np.uint64(32)
    return keys


def _divide(
    sketches: np.ndarray, members: np.ndarray, band: int, bands: int, rows: int, depth: int = 1
) -> Iterator[np.ndarray]:
    """Buckets small enough to be compared each with each: `members` share `band`, and where they are
    too many, those that also share the next one, and so on round."""
    if len(members) <= PAIRWISE_LIMIT or depth == bands:
        yield members
        return
    following = (band + depth) % bands
    keys = _band_keys(sketches[members], following * rows, (following + 1) * rows)
    for group in groups(keys):
        yield from _divide(sketches, members[group], band, bands, rows, depth + 1)


def _join_verified(clusters: Clusters, sketches: np.ndarray, members: np.ndarray, verify: float) -> None:
    if len(members) > PAIRWISE_LIMIT:
        clusters.join_all(members)
        return
    roots = np.array([clusters.find(int(member)) for member in members])
    if (roots == roots[0]).all():
        return
    table = sketches[members]
    least = math.ceil(verify * table.shape[1] - 1e-9)
    for at in range(len(members) - 1):
        others = np.flatnonzero(roots[at + 1 :] != roots[at]) + at + 1
        near = others[(table[others] == table[at]).sum(axis=1) >= least]
        for other in near:
            clusters.join(int(members[at]), int(members[other]))
            roots[roots == roots[other]] = roots[at]
