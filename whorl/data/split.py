"""Which documents are held out for validation: whole clusters, by a hash of what they say.

The decision hangs on content, not on order, place or the number of files: the same document stays
on its side when files move or more are added, unless a similar one joins its cluster.
"""

from __future__ import annotations

import math

import numpy as np
import xxhash

from whorl.data.config import SplitConfig
from whorl.data.dedup.clusters import Clusters
from whorl.data.dedup.exact import groups
from whorl.data.dedup.similar import bands_for, join_similar

SIGMAS = 4  # how far below the threshold an estimate may lie and still hold a pair together


def join_for_split(clusters: Clusters, sketches: np.ndarray, images: np.ndarray, threshold: float) -> None:
    """Join all documents of Jaccard similarity `threshold` and over, and all that share an image.

    `sketches` is uint64 [N, hashes]; `images` uint64 [M, 2]: pairs of (document, image digest).
    Bands are chosen so that a pair at the threshold is missed once in 100,000 times, and the
    verification allows for the estimate's error: joining too much costs nothing here.
    """
    hashes = sketches.shape[1]
    bands, rows = bands_for(threshold, hashes)
    deviation = math.sqrt(threshold * (1 - threshold) / hashes)
    verify = max(threshold - SIGMAS * deviation, 1 / hashes)
    join_similar(clusters, sketches, bands=bands, rows=rows, verify=verify)
    for group in groups(np.ascontiguousarray(images[:, 1])):
        clusters.join_all(images[group, 0].astype(np.int64))


def held_out(roots: np.ndarray, keys: np.ndarray, config: SplitConfig) -> np.ndarray:
    """bool [N]: True for the documents of validation.

    `roots` [N] names each document's cluster and `keys` (uint64 [N, 2]) its content. A cluster is
    held out when the hash of its smallest key falls below `config.validation`; never one larger than
    half of what is to be held out (and than one document), so that boilerplate cannot fill it. Where
    chance holds nothing out, the cluster of the lowest hash is, if there are two or more.
    """
    chosen = np.zeros(len(roots), dtype=bool)
    if not len(roots) or not config.validation:
        return chosen
    order = np.lexsort((keys[:, 1], keys[:, 0], roots))
    names, firsts, sizes = np.unique(roots[order], return_index=True, return_counts=True)
    smallest = keys[order][firsts]
    draws = np.array([_draw(key.tobytes(), config.seed) for key in smallest], dtype=np.float64)
    allowed = sizes <= max(1, len(roots) * config.validation / 2)
    taken = allowed & (draws < config.validation)
    if not taken.any() and allowed.any() and len(names) > 1:
        taken[np.argmin(np.where(allowed, draws, 2.0))] = True
    return np.isin(roots, names[taken])


def _draw(key: bytes, seed: int) -> float:
    """A number in [0, 1) that a cluster's key alone decides."""
    return float(xxhash.xxh3_64_intdigest(key, seed=seed) / 2**64)
