"""Which tokens are computed in the next step. No tensors, no clock: what it does depends on its calls alone.

One token budget a step is shared by all: sequences that generate take one token each, what is left
goes to prompts, in chunks. A sequence that finds no page for its next token takes those of the one
that came last with the lowest priority, which starts again later; its tokens are kept.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterator
from dataclasses import dataclass

from whorl.base.errors import InputError
from whorl.serve.pages import Pages
from whorl.serve.requests import EngineRequest
from whorl.serve.sequence import Sequence


@dataclass(frozen=True)
class Chunk:
    """Tokens [start, stop) of a sequence. Where they reach its end, a token is sampled after them."""

    sequence: Sequence
    start: int
    stop: int

    @property
    def samples(self) -> bool:
        return self.stop == len(self.sequence.tokens)


class Scheduler:
    """`budget` tokens a step and at most `most` sequences at once, over `pages`; `context` tokens are
    the most a sequence may have."""

    def __init__(self, pages: Pages, *, budget: int, most: int, context: int) -> None:
        if budget < most:
            raise ValueError(f"a budget of {budget} tokens does not give each of {most} sequences one")
        if context > pages.count * pages.size:
            raise ValueError(f"a context of {context} does not fit {pages.count} pages of {pages.size}")
        self.pages, self.budget, self.most, self.context = pages, budget, most, context
        self.running: list[Sequence] = []  # in order
        self.waiting: list[Sequence] = []  # in order
        self.preemptions = 0
        self._arrivals = 0
        self._by_id: dict[str, Sequence] = {}

    def __len__(self) -> int:
        return len(self._by_id)

    def get(self, id: str) -> Sequence | None:
        return self._by_id.get(id)

    def add(self, request: EngineRequest, seed: bytes = b"") -> Sequence:
        """Put a request in line. InputError names the limit where it can never be served."""
        length = len(request.ids)
        if request.id in self._by_id:
            raise InputError(f"request id {request.id!r} is in use")
        if not length:
            raise InputError("the prompt is empty; give at least one token")
        room = 1 if request.kind in ("chat", "text") else 0
        if length + room > self.context:
            raise InputError(
                f"the prompt has {length} tokens and the context is {self.context},"
                " prompt and reply together; shorten the prompt or serve with a larger --context"
            )
        limit = min(self.context, length + (request.params.max_tokens if room else 0))
        self._arrivals += 1
        sequence = Sequence(request, self._arrivals, limit, seed)
        self._by_id[request.id] = sequence
        insort(self.waiting, sequence, key=lambda one: one.order)
        return sequence

    def finish(self, sequence: Sequence) -> None:
        """Done or aborted: its pages are free for others, and keep what they remember."""
        if self._by_id.pop(sequence.id, None) is None:
            return
        (self.running if sequence in self.running else self.waiting).remove(sequence)
        self.pages.release(sequence.pages)
        sequence.pages = []

    def schedule(self) -> list[Chunk]:
        """The chunks of the next step, at most `budget` tokens, each with its pages."""
        chunks: list[Chunk] = []
        left = self.budget
        preempted = self.preemptions
        # Those that generate first: a long prompt never holds up a reply that has begun.
        for sequence in sorted(self.running, key=lambda one: (one.left > 1, one.order)):
            if sequence not in self.running or not left:
                continue
            count = min(sequence.left, left)
            if self._grow(sequence, sequence.computed + count, chunks):
                chunks.append(Chunk(sequence, sequence.computed, sequence.computed + count))
                left = self.budget - sum(chunk.stop - chunk.start for chunk in chunks)
        if self.preemptions == preempted:
            chunks += self._admit(left)
        return chunks

    def computed(self, chunk: Chunk) -> None:
        """The chunk's keys and values are in the cache; full pages may be shared from now on."""
        sequence = chunk.sequence
        sequence.computed = chunk.stop
        full = sequence.computed // self.pages.size
        if full > sequence.published:
            keys = sequence.full_keys(self.pages.size, sequence.computed)
            for number in range(sequence.published, full):
                self.pages.publish(sequence.pages[number], keys[number])
            sequence.published = full

    # -- pages ----------------------------------------------------------------------------------

    def _needed(self, sequence: Sequence, tokens: int) -> int:
        return -(-tokens // self.pages.size) - len(sequence.pages)

    def _grow(self, sequence: Sequence, tokens: int, chunks: list[Chunk]) -> bool:
        """Give `sequence` pages for its first `tokens` tokens, from others if need be; False where it
        is itself the one to wait."""
        needed = self._needed(sequence, tokens)
        while self.pages.free < needed:
            victim = self.running[-1]
            self._preempt(victim)
            chunks[:] = [chunk for chunk in chunks if chunk.sequence is not victim]
            if victim is sequence:
                return False
        sequence.pages += [self.pages.take() for _ in range(needed)]
        return True

    def _preempt(self, victim: Sequence) -> None:
        self.running.remove(victim)
        self.pages.release(victim.pages)
        victim.pages, victim.computed, victim.published = [], 0, 0
        victim.preemptions += 1
        self.preemptions += 1
        insort(self.waiting, victim, key=lambda one: one.order)

    # -- admission ------------------------------------------------------------------------------

    def _admit(self, left: int) -> Iterator[Chunk]:
        """Waiting sequences, in order, while tokens, places and pages last. Where tokens are left, every
        running sequence has had a chunk of all it has, and holds all its pages: the free ones are owed to
        nobody."""
        coming = set(self._coming())
        for sequence in list(self.waiting):
            if not left or len(self.running) >= self.most:
                return
            size = self.pages.size
            keys = sequence.full_keys(size, len(sequence.tokens) - 1) if sequence.shares else []
            known = self.pages.match(keys)
            if len(known) < len(keys) and keys[len(known)].digest in coming:
                continue  # another sequence is about to compute this very page
            start = len(known) * size
            whole = -(-len(sequence.tokens) // size) - len(known)
            if self.pages.free - self.pages.free_among(known) < whole:
                return  # nobody overtakes: a long prompt would wait for ever
            self.waiting.remove(sequence)
            insort(self.running, sequence, key=lambda one: one.order)
            self.pages.hold(known)
            sequence.pages, sequence.computed, sequence.published = list(known), start, len(known)
            if not sequence.started:
                sequence.started, sequence.cached = True, start
            stop = min(len(sequence.tokens), start + left)
            sequence.pages += [self.pages.take() for _ in range(self._needed(sequence, stop))]
            coming |= {key.digest for key in keys[len(known) :]}
            left -= stop - start
            yield Chunk(sequence, start, stop)

    def _coming(self) -> Iterator[bytes]:
        """Digests of prompt pages that running sequences have still to compute."""
        for sequence in self.running:
            if sequence.shares and sequence.left > 1:
                keys = sequence.full_keys(self.pages.size, sequence.prompt_length)
                yield from (key.digest for key in keys[sequence.published :])
