"""Engines over tiny models, driven to the end."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

from tests.models.oracles import CASES, stir
from whorl.base.nouns import SamplingParams
from whorl.models.decoder import Decoder
from whorl.serve.engine import Engine
from whorl.serve.engine_config import EngineConfig
from whorl.serve.requests import EngineEvent, EngineRequest, Token
from whorl.text.bpe import train_bpe
from whorl.text.tokenizer import Tokenizer

TEXT = "the quick brown fox jumps over the lazy dog and says: hello, world! 0123456789 " * 20


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return train_bpe([TEXT], 320)


@dataclass
class Answer:
    """All that came of one request."""

    tokens: list[Token] = field(default_factory=list)
    prompt: tuple[Token, ...] = ()
    embedding: tuple[float, ...] = ()
    content: str = ""
    events: list[EngineEvent] = field(default_factory=list)

    @property
    def last(self) -> EngineEvent:
        return self.events[-1]

    @property
    def ids(self) -> list[int]:
        return [token.id for token in self.tokens]

    @property
    def logprobs(self) -> list[float]:
        return [token.logprob for token in self.tokens]

    def add(self, event: EngineEvent) -> None:
        self.events.append(event)
        self.tokens += event.tokens
        self.prompt = event.prompt or self.prompt
        self.embedding = event.embedding or self.embedding
        self.content += "".join(part.text for part in event.parts if part.kind == "content")


def drive(engine: Engine, requests: Iterable[EngineRequest] = ()) -> dict[str, Answer]:
    """Submit the requests and step until nobody waits."""
    answers: dict[str, Answer] = {}
    for request in requests:
        engine.submit(request)
    while engine.busy:
        for event in engine.step():
            answers.setdefault(event.id, Answer()).add(event)
    pages = engine.scheduler.pages
    assert pages.free == pages.count, "every page is given back"
    return answers


def make_engine(model: Decoder, tokenizer: Tokenizer, ends: Sequence[int] = (), **config: Any) -> Engine:
    defaults = {"page": 4, "budget": 16, "most": 8, "memory": 0.01}
    return Engine(model, tokenizer, ends, EngineConfig(**(defaults | config)), version="v1")


def mixed_requests(vocab: int, longest: int, count: int = 10, seed: int = 0) -> list[EngineRequest]:
    """Prompts of all lengths, some with a common beginning, greedy and sampled."""
    draw = random.Random(seed)
    shared = [draw.randrange(vocab) for _ in range(longest // 2)]
    requests = []
    for number in range(count):
        own = [draw.randrange(vocab) for _ in range(draw.randint(1, longest // 2))]
        params = SamplingParams(
            max_tokens=draw.randint(1, 9), temperature=draw.choice([0.0, 1.0]), seed=number
        )
        ids = tuple([*shared, *own] if number % 2 else own)
        requests.append(EngineRequest(id=str(number), ids=ids, params=params, number=number))
    return requests


def stirred(model: Decoder, seed: int = 0) -> Decoder:
    stir(model, seed)
    return model


@pytest.fixture(scope="session", params=CASES)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The directory that transformers wrote for one family."""
    path = tmp_path_factory.mktemp(request.param)
    CASES[request.param].build().save_pretrained(path)
    torch.manual_seed(0)
    return path
