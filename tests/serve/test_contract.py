"""The contract: the server's log-probs are the trainer's, whatever else is served and however it is cut."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from tests.serve.conftest import Answer, drive, make_engine, mixed_requests
from whorl.models import Decoder, load
from whorl.models.likelihood import log_probs
from whorl.serve.engine import Engine
from whorl.serve.requests import EngineRequest
from whorl.text.tokenizer import Tokenizer

BOUND = 1e-5
BF16_BOUND = 0.12  # nats; the largest difference seen over the families is 0.06


def furthest(model: Decoder, requests: list[EngineRequest], answers: dict[str, Answer]) -> float:
    """The largest difference to the trainer's log-probs of the same tokens."""
    worst = 0.0
    for request in requests:
        answer = answers[request.id]
        assert answer.last.finish == "length" and len(answer.ids) == request.params.max_tokens, answer.last
        theirs = log_probs(model, [[*request.ids, *answer.ids]])[0][len(request.ids) - 1 :]
        worst = max(worst, float(np.abs(theirs - np.array(answer.logprobs)).max()))
    return worst


def pages_for(engine: Engine) -> float:
    """--memory that holds 20 pages: sequences push each other out."""
    one = engine.runner.cache.keys[0][0].numel() * 4 * 2 * len(engine.runner.cache.keys)
    return 20.5 * one / 1e9


def test_log_probs_are_the_trainers_in_every_family(family: Path, tokenizer: Tokenizer) -> None:
    trainer = load(family, dtype=torch.float32)
    requests = mixed_requests(67, 60)
    engine = make_engine(load(family, dtype=torch.float32), tokenizer)
    cold = drive(engine, requests)
    assert furthest(trainer, requests, cold) < BOUND
    again = [replace(request, id=f"again {request.id}") for request in requests]
    warm = drive(engine, again)
    assert any(answer.last.cached_tokens for answer in warm.values())
    assert furthest(trainer, again, warm) < BOUND
    alone: dict[str, Answer] = {}
    whole = make_engine(load(family, dtype=torch.float32), tokenizer, budget=256, page=16)
    for request in requests:
        alone |= drive(whole, [request])
    assert furthest(trainer, requests, alone) < BOUND
    tight = make_engine(load(family, dtype=torch.float32), tokenizer, memory=pages_for(engine))
    pressed = drive(tight, requests)
    assert tight.scheduler.preemptions > 0
    assert furthest(trainer, requests, pressed) < BOUND
    assert {id: one.ids for id, one in cold.items()} == {id: one.ids for id, one in pressed.items()}
    assert {id: one.ids for id, one in cold.items()} == {id: one.ids for id, one in alone.items()}


def test_prompts_are_scored_as_the_trainer_scores_them(family: Path, tokenizer: Tokenizer) -> None:
    model = load(family, dtype=torch.float32)
    requests = [replace(one, kind="score", top_logprobs=3) for one in mixed_requests(67, 60)]
    for request, answer in drive(make_engine(model, tokenizer), requests).items():
        ids = requests[int(request)].ids
        assert [token.id for token in answer.prompt] == list(ids) and answer.last.finish == "stop"
        found = np.array([token.logprob for token in answer.prompt[1:]])
        np.testing.assert_allclose(found, log_probs(model, [ids])[0], atol=BOUND)
        for token in answer.prompt[1:]:
            assert len(token.top) == 3 and token.top[0][1] >= token.logprob


def test_bf16_stays_within_its_bound(family: Path, tokenizer: Tokenizer) -> None:
    trainer = load(family, dtype=torch.bfloat16)
    requests = mixed_requests(67, 60)
    answers = drive(make_engine(load(family, dtype=torch.bfloat16), tokenizer), requests)
    worst = furthest(trainer, requests, answers)
    print(f"bf16: largest difference in log-prob {worst:.4f}")
    assert worst < BF16_BOUND
