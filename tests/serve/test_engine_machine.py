"""The real engine, driven at random: each result is the request's alone, every page is accounted for."""

from __future__ import annotations

import copy
import random
from collections import Counter
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.serve.conftest import TEXT, Answer, drive, make_engine, stirred
from whorl.base.nouns import SamplingParams
from whorl.models.config import LoraConfig, ModelConfig, VisionConfig
from whorl.models.context import Packed
from whorl.models.decoder import Decoder
from whorl.models.likelihood import log_probs
from whorl.models.lora import adapters, inject, save_adapter
from whorl.serve.engine import Engine
from whorl.serve.requests import EngineRequest
from whorl.text.bpe import train_bpe
from whorl.text.images import Patches
from whorl.text.tokenizer import Tokenizer

VOCAB, CONTEXT = 67, 64
SHAPE = ModelConfig(
    vocab_size=VOCAB, d_model=32, n_layers=2, n_heads=4, n_kv_heads=2, head_dim=8, d_ff=48, context=CONTEXT,
    vision=VisionConfig(
        d_model=16, n_layers=1, n_heads=2, head_dim=8, d_ff=16, patch_size=2, image_size=8, image_token=5
    ),
)  # fmt: skip
NO_SHRINK = [phase for phase in Phase if phase is not Phase.shrink]  # each try runs a model
PAGE_BYTES = 2 * SHAPE.n_layers * SHAPE.n_kv_heads * SHAPE.head_dim * 4 * 4  # of 4 tokens in fp32
BOUND = 1e-5


@cache
def tokenizer() -> Tokenizer:
    return train_bpe([TEXT], 320)


@cache
def model() -> Decoder:
    return stirred(Decoder(SHAPE)).eval()


@cache
def adapter(name: str) -> str:
    """The folder of an adapter that changes what the model says."""
    seed, folder = ord(name), Path(mkdtemp())
    adapted = inject(copy.deepcopy(model()), LoraConfig(rank=2 + seed % 2, alpha=8.0), seed=seed)
    for _, one in adapters(adapted):
        torch.nn.init.normal_(one.lora_b.weight, std=0.3, generator=torch.Generator().manual_seed(seed))
    save_adapter(adapted, folder)
    return str(folder)


def made(pages: int, budget: int = 12, most: int = 4) -> Engine:
    engine = make_engine(
        copy.deepcopy(model()),
        tokenizer(),
        page=4,
        budget=budget,
        most=most,
        memory=(pages + 0.5) * PAGE_BYTES / 1e9,
    )
    assert engine.scheduler.pages.count == pages
    for name in ("a", "b"):
        engine.load_adapter(name, adapter(name))
    return engine


def image(seed: int) -> dict[str, Any]:
    """A picture of 2 × 3 patches at places 1 to 6 of a prompt."""
    pixels = np.random.default_rng(seed).normal(size=(6, SHAPE.vision.patch_values if SHAPE.vision else 0))
    return {
        "images": (Patches(pixels=pixels.astype(np.float32), grid=(2, 3)),),
        "image_positions": tuple(range(1, 7)),
        "image_digests": (f"picture {seed}",),
    }


def pool() -> list[EngineRequest]:
    """Requests of every kind, some with the same beginning, pictures and adapters among them."""
    draw = random.Random(4)
    shared = [draw.randrange(VOCAB) for _ in range(17)]
    requests = []
    for number in range(24):
        kind = ("text", "chat", "score", "embed", "text")[number % 5]
        own = [draw.randrange(VOCAB) for _ in range(draw.randint(7, 14))]
        ids = tuple([*shared, *own] if number % 3 else own)
        params = SamplingParams(
            max_tokens=draw.randint(1, 9), temperature=draw.choice([0.0, 1.0]), seed=number, ignore_end=True
        )
        requests.append(
            EngineRequest(
                id="", ids=ids, kind=kind, params=params, number=number,
                adapter=("", "a", "", "b")[number % 4], prompt_logprobs=number % 5 == 4,
                top_logprobs=number % 3, **image(number % 2) if number % 7 < 3 else {},
            )
        )  # fmt: skip
    return requests


POOL = pool()


@cache
def roomy() -> Engine:
    return made(pages=64, budget=64)


@cache
def alone(number: int) -> Answer:
    return drive(roomy(), [replace(POOL[number], id=f"alone {number}")])[f"alone {number}"]


def assert_same(found: Answer, wanted: Answer) -> None:
    assert found.ids == wanted.ids and found.content == wanted.content
    assert (found.last.finish, found.last.error) == (wanted.last.finish, "")
    np.testing.assert_allclose(found.logprobs, wanted.logprobs, atol=BOUND)
    assert [token.id for token in found.prompt] == [token.id for token in wanted.prompt]
    theirs = [token.logprob for token in wanted.prompt[1:]]
    np.testing.assert_allclose([token.logprob for token in found.prompt[1:]], theirs, atol=BOUND)
    np.testing.assert_allclose(found.embedding, wanted.embedding, atol=BOUND)


class Serving(RuleBasedStateMachine):
    @initialize(pages=st.integers(CONTEXT // 4, 22), budget=st.sampled_from([5, 12, 40]))
    def begin(self, pages: int, budget: int) -> None:
        self.engine = made(pages, budget)
        self.open: dict[str, int] = {}
        self.answers: dict[str, Answer] = {}
        self.loaded = {"a", "b"}
        self.arrived = 0

    @rule(number=st.integers(0, len(POOL) - 1), priority=st.integers(-1, 1))
    def arrive(self, number: int, priority: int) -> None:
        self.arrived += 1
        request = replace(POOL[number], id=str(self.arrived), priority=priority)
        self.engine.submit(request)
        if request.adapter and request.adapter not in self.loaded:
            refused, *others = self.engine.step()
            assert refused.id == request.id and "no adapter" in refused.error
            for event in others:
                self.got(event)
        else:
            self.open[request.id] = number

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def abort(self, data: st.DataObject) -> None:
        id = data.draw(st.sampled_from(sorted(self.open)))
        self.engine.abort(id)
        del self.open[id]

    @rule(name=st.sampled_from(["a", "b"]))
    def unload(self, name: str) -> None:
        if name not in self.loaded:
            self.engine.load_adapter(name, adapter(name))
            self.loaded.add(name)
            return
        self.engine.unload_adapter(name)
        self.loaded.remove(name)
        gone = {id for id, number in self.open.items() if POOL[number].adapter == name}
        for event in self.engine.step():
            if event.id in gone:
                assert "was unloaded" in event.error
            else:
                self.got(event)
        for id in gone:
            del self.open[id]

    @rule(steps=st.integers(1, 6))
    def step(self, steps: int) -> None:
        for _ in range(steps):
            for event in self.engine.step():
                self.got(event)
            self.every_page_is_accounted_for()

    def got(self, event: Any) -> None:
        answer = self.answers.setdefault(event.id, Answer())
        answer.add(event)
        if event.last:
            assert_same(answer, alone(self.open.pop(event.id)))

    @invariant()
    def every_page_is_accounted_for(self) -> None:
        if not hasattr(self, "engine"):
            return
        scheduler, pages = self.engine.scheduler, self.engine.scheduler.pages
        held = Counter(page for one in scheduler.running for page in one.pages)
        assert all(pages.holders(page) == held[page] for page in range(pages.count))
        assert pages.free == pages.count - len(held)
        assert {one.id for one in (*scheduler.running, *scheduler.waiting)} == set(self.open)
        assert set(self.engine._open) == set(self.open) and set(self.engine.runner._features) <= set(
            self.open
        )

    def teardown(self) -> None:
        if not hasattr(self, "engine"):
            return
        while self.engine.busy:
            self.step(1)
        assert not self.open and self.engine.scheduler.pages.free == self.engine.scheduler.pages.count


Serving.TestCase.settings = settings(
    max_examples=20,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=NO_SHRINK,
)
TestServing = Serving.TestCase


def test_all_together_pressed_for_pages_are_as_alone() -> None:
    engine = made(pages=17, most=8)
    requests = [replace(one, id=str(number)) for number, one in enumerate(POOL)]
    for id, answer in drive(engine, requests).items():
        assert_same(answer, alone(int(id)))
    assert engine.scheduler.preemptions > 0


@pytest.mark.parametrize("kind", ["score", "prompt_logprobs", "embed"])
def test_a_prompt_that_starts_again_midway_counts_its_tokens_once(kind: str) -> None:
    """Replies that grow take the pages of a long prompt, again and again."""
    draw = random.Random(0)
    long = SamplingParams(max_tokens=30, ignore_end=True)
    growing = [
        EngineRequest(id=f"{n}", ids=tuple(draw.randrange(VOCAB) for _ in range(4)), params=long)
        for n in range(3)
    ]
    ids = tuple(draw.randrange(VOCAB) for _ in range(40))
    fields: dict[str, Any] = {"kind": kind} if kind != "prompt_logprobs" else {"prompt_logprobs": True}
    engine = made(pages=16, budget=10, most=8)
    for request in (
        *growing,
        EngineRequest(id="prompt", ids=ids, params=SamplingParams(max_tokens=3), **fields),
    ):
        engine.submit(request)
    answers: dict[str, Answer] = {}
    sequence, midway = engine._open["prompt"].sequence, 0
    while engine.busy:
        computed, before = sequence.computed, sequence.preemptions
        for event in engine.step():
            answers.setdefault(event.id, Answer()).add(event)
        midway += sequence.preemptions > before and 0 < computed < len(ids)
    assert midway > 0, "the prompt never gave its pages away with a part of it computed"
    found = answers["prompt"]
    if kind == "embed":
        with torch.no_grad():
            mean = model()(torch.tensor(ids), Packed([len(ids)])).mean(0)
        np.testing.assert_allclose(found.embedding, (mean / mean.norm()).numpy(), atol=BOUND)
    else:
        assert [token.id for token in found.prompt] == list(ids)
        logprobs = [token.logprob for token in found.prompt[1:]]
        np.testing.assert_allclose(logprobs, log_probs(model(), [ids])[0], atol=BOUND)
