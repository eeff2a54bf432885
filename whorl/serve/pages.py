"""The pages of the cache: who holds which, and which prefix each one still remembers. No tensors here."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np


class PageKey(NamedTuple):
    """What a full page holds: its own tokens, and the digest of everything up to and including them."""

    digest: bytes
    tokens: tuple[int, ...]


def page_key(parent: bytes, tokens: Sequence[int], images: Sequence[tuple[int, str, int]] = ()) -> PageKey:
    """The key of a page behind the prefix `parent` (a digest, or the seed of all prefixes).

    `images` are (place in the page, digest of the image, which of its patches) for the places whose
    token only stands for an image's feature.
    """
    made = hashlib.blake2b(parent, digest_size=16)
    made.update(np.asarray(tokens, np.int64).tobytes())
    for place, digest, patch in images:
        made.update(f"{place}:{digest}:{patch};".encode())
    return PageKey(made.digest(), tuple(tokens))


@dataclass
class _Page:
    holders: int = 0
    key: PageKey | None = None


class Pages:
    """`count` pages of `size` tokens. A freed page keeps its key until it is taken for something else,
    the longest freed first, so that a prefix that comes again finds its pages."""

    def __init__(self, count: int, size: int) -> None:
        self.count, self.size = count, size
        self._pages = [_Page() for _ in range(count)]
        self._free: OrderedDict[int, None] = OrderedDict((page, None) for page in range(count))
        self._known: dict[bytes, int] = {}

    @property
    def free(self) -> int:
        return len(self._free)

    def holders(self, page: int) -> int:
        return self._pages[page].holders

    def match(self, keys: Sequence[PageKey]) -> list[int]:
        """The pages that hold the longest known run of `keys`; none of them is held by this."""
        found: list[int] = []
        for key in keys:
            page = self._known.get(key.digest)
            if page is None or self._pages[page].key != key:
                break
            found.append(page)
        return found

    def free_among(self, pages: Sequence[int]) -> int:
        """How many of `pages` nobody holds: holding them takes as many from `free`."""
        return sum(not self._pages[page].holders for page in pages)

    def hold(self, pages: Sequence[int]) -> None:
        """One more holder of each."""
        for page in pages:
            self._free.pop(page, None)
            self._pages[page].holders += 1

    def take(self) -> int:
        """A free page, held once, its old content forgotten. The caller has looked at `free`."""
        page, _ = self._free.popitem(last=False)
        self._forget(page)
        self._pages[page].holders = 1
        return page

    def release(self, pages: Sequence[int]) -> None:
        """One holder less of each. The last pages of a prefix are forgotten first."""
        for page in reversed(pages):
            held = self._pages[page]
            if not held.holders:
                raise ValueError(f"page {page} is released, and nobody holds it")
            held.holders -= 1
            if not held.holders:
                self._free[page] = None
                if held.key is None:
                    self._free.move_to_end(page, last=False)

    def publish(self, page: int, key: PageKey) -> None:
        """`page` is full and holds `key`: later sequences may share it. The first one known stays."""
        if key.digest not in self._known:
            self._known[key.digest] = page
            self._pages[page].key = key

    def _forget(self, page: int) -> None:
        key = self._pages[page].key
        if key is not None:
            del self._known[key.digest]
            self._pages[page].key = None
