"""Duplicates: the same text (exact), nearly the same text (MinHash), and clusters of them."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from whorl.data.dedup.clusters import Clusters as Clusters
    from whorl.data.dedup.exact import content_key as content_key
    from whorl.data.dedup.exact import same_content as same_content
    from whorl.data.dedup.minhash import Sketch as Sketch
    from whorl.data.dedup.minhash import shingles as shingles
    from whorl.data.dedup.similar import bands_for as bands_for
    from whorl.data.dedup.similar import join_similar as join_similar

_WHERE = {
    "Clusters": "clusters",
    "Sketch": "minhash",
    "bands_for": "similar",
    "content_key": "exact",
    "join_similar": "similar",
    "same_content": "exact",
    "shingles": "minhash",
}
__all__ = ["Clusters", "Sketch", "bands_for", "content_key", "join_similar", "same_content", "shingles"]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_WHERE[name]}"), name)
