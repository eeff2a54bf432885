"""Pages and scheduler, driven at random: whatever comes, every page is accounted for after every step."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from whorl.base.errors import InputError
from whorl.base.nouns import SamplingParams
from whorl.serve.pages import Pages, page_key
from whorl.serve.requests import EngineRequest
from whorl.serve.scheduler import Chunk, Scheduler
from whorl.serve.sequence import Sequence


def request(id: str, ids: list[int], max_tokens: int = 4, **fields: Any) -> EngineRequest:
    params = SamplingParams(max_tokens=max_tokens)
    return EngineRequest(id=id, ids=tuple(ids), params=params, **fields)


def next_token(sequence: Sequence) -> int:
    """The reply is a function of what stands before it, as a model's is."""
    return sum(sequence.tokens) % 5


def finish_step(scheduler: Scheduler, chunks: list[Chunk]) -> list[Sequence]:
    """What the engine does after a step; returns the sequences that ended."""
    done = []
    for chunk in chunks:
        scheduler.computed(chunk)
        if chunk.stop == len(chunk.sequence.tokens):
            if len(chunk.sequence.tokens) < chunk.sequence.limit:
                chunk.sequence.tokens.append(next_token(chunk.sequence))
            if len(chunk.sequence.tokens) >= chunk.sequence.limit:
                scheduler.finish(chunk.sequence)
                done.append(chunk.sequence)
    return done


class Serving(RuleBasedStateMachine):
    """Arrivals, aborts and steps in any order. A shadow of the cache remembers what was written into
    every slot, so that a sequence that reads another's tokens is caught."""

    @initialize(
        count=st.integers(3, 12),
        size=st.sampled_from([1, 2, 4]),
        most=st.integers(1, 5),
        spare=st.integers(0, 9),
    )
    def begin(self, count: int, size: int, most: int, spare: int) -> None:
        self.pages = Pages(count, size)
        self.scheduler = Scheduler(self.pages, budget=most + spare, most=most, context=count * size)
        self.slots: dict[tuple[int, int], tuple[int, ...]] = {}
        self.arrived = 0
        self.open: dict[str, Sequence] = {}

    @rule(
        ids=st.lists(st.integers(0, 2), min_size=1, max_size=20),
        max_tokens=st.integers(1, 12),
        priority=st.integers(-1, 1),
        kind=st.sampled_from(["text", "text", "text", "score"]),
        seed=st.sampled_from([b"a", b"a", b"b"]),
    )
    def arrive(self, ids: list[int], max_tokens: int, priority: int, kind: Any, seed: bytes) -> None:
        self.arrived += 1
        made = request(str(self.arrived), ids, max_tokens, priority=priority, kind=kind)
        room = kind == "text"
        if len(ids) + room > self.scheduler.context:
            with pytest.raises(InputError, match=f"context is {self.scheduler.context}"):
                self.scheduler.add(made, seed)
        else:
            self.open[made.id] = self.scheduler.add(made, seed)

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def abort(self, data: st.DataObject) -> None:
        id = data.draw(st.sampled_from(sorted(self.open)))
        self.scheduler.finish(self.open.pop(id))

    @rule()
    def step(self) -> None:
        chunks = self.scheduler.schedule()
        assert sum(chunk.stop - chunk.start for chunk in chunks) <= self.scheduler.budget
        assert len({chunk.sequence.id for chunk in chunks}) == len(chunks)
        assert bool(chunks) == bool(self.open), "work is done whenever there is any"
        for chunk in chunks:
            self.write(chunk)
        for chunk in chunks:
            self.read(chunk)
        for sequence in finish_step(self.scheduler, chunks):
            del self.open[sequence.id]

    def write(self, chunk: Chunk) -> None:
        sequence, size = chunk.sequence, self.pages.size
        assert chunk.start == sequence.computed < chunk.stop <= len(sequence.tokens)
        for at in range(chunk.start, chunk.stop):
            page = sequence.pages[at // size]
            assert self.pages.holders(page) == 1, "nobody writes into a page that others read"
            self.slots[page, at % size] = (*sequence.seed, *sequence.tokens[: at + 1])

    def read(self, chunk: Chunk) -> None:
        sequence, size = chunk.sequence, self.pages.size
        for at in range(chunk.stop):
            held = self.slots[sequence.pages[at // size], at % size]
            assert held == (*sequence.seed, *sequence.tokens[: at + 1])

    @invariant()
    def every_page_is_accounted_for(self) -> None:
        if not hasattr(self, "pages"):
            return
        held = Counter(page for one in self.scheduler.running for page in one.pages)
        assert all(self.pages.holders(page) == held[page] for page in range(self.pages.count))
        assert self.pages.free == self.pages.count - len(held)
        assert all(not one.pages for one in self.scheduler.waiting)
        assert all(len(set(one.pages)) == len(one.pages) for one in self.scheduler.running)
        assert len(self.scheduler.running) <= self.scheduler.most
        assert len(self.scheduler) == len(self.open)
        orders = [one.order for one in self.scheduler.running]
        assert orders == sorted(orders)

    def teardown(self) -> None:
        """Nobody starves: without arrivals, everything ends."""
        if not hasattr(self, "pages"):
            return
        for _ in range(10_000):
            if not self.open:
                break
            self.step()
            self.every_page_is_accounted_for()
        assert not self.open and self.pages.free == self.pages.count


Serving.TestCase.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
TestServing = Serving.TestCase


def drain(scheduler: Scheduler) -> dict[str, Sequence]:
    done: dict[str, Sequence] = {}
    while len(scheduler):
        done |= {one.id: one for one in finish_step(scheduler, scheduler.schedule())}
    return done


@settings(max_examples=60, deadline=None)
@given(
    prompts=st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=12), min_size=1, max_size=8),
    pages=st.integers(6, 20),
)
def test_replies_do_not_depend_on_preemption_or_company(prompts: list[list[int]], pages: int) -> None:
    def serve(scheduler: Scheduler, chosen: list[int]) -> dict[str, list[int]]:
        for number in chosen:
            scheduler.add(request(str(number), prompts[number], 8))
        return {id: one.tokens for id, one in drain(scheduler).items()}

    def made() -> Scheduler:
        return Scheduler(Pages(pages, 4), budget=16, most=8, context=24)

    alone: dict[str, list[int]] = {}
    for number in range(len(prompts)):
        alone |= serve(made(), [number])
    assert serve(made(), list(range(len(prompts)))) == alone


def test_a_prefix_that_comes_again_is_found_and_one_on_its_way_is_waited_for() -> None:
    scheduler = Scheduler(Pages(64, 4), budget=64, most=8, context=64)
    prefix = list(range(100, 120))
    for number in range(3):
        scheduler.add(request(str(number), [*prefix, number], 2))
    first = scheduler.schedule()
    assert [chunk.sequence.id for chunk in first] == ["0"], "the others wait for its pages"
    finish_step(scheduler, first)
    second = scheduler.schedule()
    assert {chunk.sequence.id: chunk.start for chunk in second} == {"0": 21, "1": 20, "2": 20}
    finish_step(scheduler, second)
    drain(scheduler)
    again = scheduler.add(request("again", [*prefix, 9], 2))
    drain(scheduler)
    assert again.cached == 20
    other = scheduler.add(request("other", [*prefix, 9], 2), seed=b"other weights")
    drain(scheduler)
    assert other.cached == 0


def test_a_whole_cached_prompt_still_computes_its_last_token() -> None:
    scheduler = Scheduler(Pages(16, 4), budget=32, most=4, context=32)
    for id in ("first", "second"):
        sequence = scheduler.add(request(id, [1, 2, 3, 4, 5, 6, 7, 8], 1))
        chunks = scheduler.schedule()
        assert chunks[0].stop == 8
        finish_step(scheduler, chunks)
    assert sequence.cached == 4


def test_images_with_equal_placeholders_do_not_share_pages() -> None:
    different = ([(0, "a", 0)], [(0, "b", 0)], [(0, "a", 1)], [])
    assert len({page_key(b"", [7, 7], images).digest for images in different}) == 4


def test_a_known_digest_with_other_tokens_is_no_match() -> None:
    pages = Pages(4, 2)
    page = pages.take()
    key = page_key(b"", [1, 2])
    pages.publish(page, key)
    assert pages.match([key]) == [page]
    assert pages.match([key._replace(tokens=(1, 3))]) == []


def test_the_last_to_come_with_the_lowest_priority_gives_way() -> None:
    scheduler = Scheduler(Pages(4, 2), budget=8, most=3, context=8)
    for id, priority in (("a", 0), ("b", 1), ("c", 0)):
        scheduler.add(request(id, [ord(id)], 7, priority=priority))
    for _ in range(3):
        finish_step(scheduler, scheduler.schedule())
    assert [one.id for one in scheduler.waiting] == ["b"] and scheduler.preemptions >= 1
    assert {len(one.tokens) for one in drain(scheduler).values()} == {8}


def test_a_request_id_is_used_once_at_a_time() -> None:
    scheduler = Scheduler(Pages(4, 2), budget=8, most=3, context=8)
    scheduler.add(request("a", [1]))
    with pytest.raises(InputError, match="in use"):
        scheduler.add(request("a", [1]))
    with pytest.raises(InputError, match="empty"):
        scheduler.add(request("b", []))
