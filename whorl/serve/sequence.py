"""One sequence in the engine: its tokens, its pages, how far it has been computed."""

from __future__ import annotations

from collections.abc import Sequence as Many
from dataclasses import dataclass, field

from whorl.serve.pages import PageKey, page_key
from whorl.serve.requests import EngineRequest


@dataclass(eq=False)
class Sequence:
    """`tokens` are the prompt and what was sampled after it; the first `computed` of them have their
    keys and values in `pages`. `limit` is how many tokens it may grow to, `arrival` its place in line."""

    request: EngineRequest
    arrival: int
    limit: int
    seed: bytes  # of its prefix keys: the versions of the weights and of the adapter
    tokens: list[int] = field(default_factory=list)
    pages: list[int] = field(default_factory=list)
    keys: list[PageKey] = field(default_factory=list)  # of its full pages, as far as they were needed
    computed: int = 0
    published: int = 0
    cached: int = 0  # prompt tokens found in the cache when it first ran
    started: bool = False
    preemptions: int = 0

    def __post_init__(self) -> None:
        self.tokens = list(self.request.ids)

    @property
    def id(self) -> str:
        return self.request.id

    @property
    def order(self) -> tuple[int, int]:
        """Lower goes first."""
        return self.request.priority, self.arrival

    @property
    def prompt_length(self) -> int:
        return len(self.request.ids)

    @property
    def reply(self) -> Many[int]:
        return self.tokens[self.prompt_length :]

    @property
    def left(self) -> int:
        """Tokens whose keys and values are still to be computed."""
        return len(self.tokens) - self.computed

    @property
    def shares(self) -> bool:
        """Whether cached prefixes serve it: not where every prompt token's own output is asked for."""
        return self.request.kind in ("chat", "text") and not self.request.prompt_logprobs

    def full_keys(self, size: int, tokens: int) -> list[PageKey]:
        """The keys of the full pages among its first `tokens` tokens."""
        while len(self.keys) < tokens // size:
            start = len(self.keys) * size
            parent = self.keys[-1].digest if self.keys else self.seed
            inside = self._images_in(start, start + size)
            self.keys.append(page_key(parent, self.tokens[start : start + size], inside))
        return self.keys[: tokens // size]

    def _images_in(self, start: int, stop: int) -> list[tuple[int, str, int]]:
        found, at = [], 0
        for image, digest in zip(self.request.images, self.request.image_digests, strict=True):
            patches = image.grid[0] * image.grid[1]
            for patch, position in enumerate(self.request.image_positions[at : at + patches]):
                if start <= position < stop:
                    found.append((position - start, digest, patch))
            at += patches
        return found
