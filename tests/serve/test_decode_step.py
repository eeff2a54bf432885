"""Decode steps from a tape are, bit for bit, the decoder's own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.serve.conftest import Answer, drive, make_engine, mixed_requests
from whorl.kernels.device import compiler_available
from whorl.models.config import ModelConfig
from whorl.models.decoder import Decoder
from whorl.models.directory import load
from whorl.models.init import init_weights
from whorl.models.quantise import quantise
from whorl.serve.engine import Engine
from whorl.text.tokenizer import Tokenizer

pytestmark = pytest.mark.skipif(compiler_available() is None, reason="no C++ compiler")
DTYPES = (torch.float32, torch.bfloat16)


def without_tapes(engine: Engine) -> Engine:
    engine.runner._decode_steps.possible = False
    return engine


def bits(answers: dict[str, Answer]) -> dict[str, list[tuple[int, float]]]:
    return {id: [(token.id, token.logprob) for token in answer.tokens] for id, answer in answers.items()}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_family_plays_its_own_numbers(family: Path, tokenizer: Tokenizer, dtype: torch.dtype) -> None:
    requests = [replace(one, params=replace(one.params, max_tokens=7)) for one in mixed_requests(67, 60)]
    taped = make_engine(load(family, dtype=dtype), tokenizer)
    plain = without_tapes(make_engine(load(family, dtype=dtype), tokenizer))
    found, wanted = bits(drive(taped, requests)), bits(drive(plain, requests))
    steps = taped.runner._decode_steps
    assert steps.possible and len(steps._recorded) > 1, "nothing was recorded"
    for id, tokens in wanted.items():
        assert [one[0] for one in found[id]] == [one[0] for one in tokens]
        for (_, made), (_, known) in zip(found[id], tokens, strict=True):
            assert made == pytest.approx(known, abs=2e-6 if dtype == torch.float32 else 2e-2)


@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_quantised_models_play_too(tokenizer: Tokenizer, kind: str) -> None:
    shape = ModelConfig(
        vocab_size=tokenizer.vocab_size, d_model=64, n_layers=2, n_heads=4, n_kv_heads=2, head_dim=16,
        d_ff=128, context=256,
    )  # fmt: skip

    def engine() -> Engine:
        model = Decoder(shape, torch.bfloat16)
        init_weights(model, 0)
        return make_engine(quantise(model.bfloat16(), kind, head=True), tokenizer)

    requests = mixed_requests(67, 60)
    taped = engine()
    found, wanted = drive(taped, requests), drive(without_tapes(engine()), requests)
    steps = taped.runner._decode_steps
    assert steps.possible and len(steps._recorded) > 1, "nothing was recorded"
    assert {id: one.ids for id, one in found.items()} == {id: one.ids for id, one in wanted.items()}
