"""Legal requests at the edges of what numbers hold: each gets its reply, and nobody else's changes."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.serve.conftest import Answer, drive, make_engine, stirred
from whorl.base.errors import DataError
from whorl.base.nouns import SamplingParams
from whorl.models import sampling
from whorl.models.config import ModelConfig
from whorl.models.decoder import Decoder
from whorl.models.sampling import Draw, choose
from whorl.serve.engine import Engine
from whorl.serve.replies import Reply
from whorl.serve.requests import EngineRequest
from whorl.text.tokenizer import Tokenizer

SHAPE = ModelConfig(
    vocab_size=67, d_model=32, n_layers=2, n_heads=4, n_kv_heads=2, head_dim=8, d_ff=48, context=64
)
TINY, LEAST = sys.float_info.min, 5e-324  # the smallest normal number, and the smallest of all


@pytest.fixture(scope="module")
def engine(tokenizer: Tokenizer) -> Engine:
    return make_engine(stirred(Decoder(SHAPE)).eval(), tokenizer)


@pytest.fixture(scope="module")
def usual(engine: Engine) -> Answer:
    return drive(engine, [GOOD])["good"]


GOOD = EngineRequest(id="good", ids=(1, 2, 3), params=SamplingParams(max_tokens=4, temperature=1.0, seed=3))


def floats(low: float, high: float, *edges: float) -> st.SearchStrategy[float]:
    """From `low` to `high`, the edges of the range and of what a float is more often than chance has them."""
    chosen = [one for one in (low, high, LEAST, 1e-310, TINY, 1e-6, *edges) if low <= one <= high]
    return st.one_of(st.sampled_from(chosen), st.floats(low, high))


PARAMS = st.builds(
    SamplingParams,
    max_tokens=st.one_of(st.integers(1, 5), st.sampled_from([6, 10**30])),
    temperature=floats(0.0, 100.0),
    top_p=floats(LEAST, 1.0, 1 - 2**-53),
    top_k=st.one_of(st.integers(0, 70), st.sampled_from([2**31, 2**63, 10**30])),
    min_p=floats(0.0, 1.0),
    presence_penalty=floats(-2.0, 2.0),
    frequency_penalty=floats(-2.0, 2.0),
    repetition_penalty=floats(0.01, 10.0),
    logit_bias=st.lists(
        st.tuples(st.sampled_from([0, 5, 66, 67, 10**30]), floats(-100.0, 100.0)), max_size=4
    ).map(tuple),
    seed=st.sampled_from([0, -1, 2**63, -(2**63), 10**30]),
    stop=st.sampled_from([(), ("a",), ("\ud800",)]),
)  # fmt: skip


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(params=PARAMS, number=st.sampled_from([0, -1, 2**64, -(10**30)]), again=st.booleans())
def test_whatever_is_legal_is_answered_and_leaves_the_others_alone(
    engine: Engine, usual: Answer, params: SamplingParams, number: int, again: bool
) -> None:
    ids = (1, 2, 3, 4) if again else (1, 2, 3)
    request = EngineRequest(id="edge", ids=ids, params=params, number=number, priority=-(2**31))
    answers = drive(engine, [GOOD, request])
    edge = answers["edge"]
    assert edge.last.finish in ("stop", "length") and not edge.last.error
    assert 1 <= len(edge.ids) <= min(params.max_tokens, 61) and all(0 <= id < 67 for id in edge.ids)
    assert all(torch.isfinite(torch.tensor(edge.logprobs)))
    assert answers["good"].ids == usual.ids and answers["good"].logprobs == pytest.approx(
        usual.logprobs, abs=1e-5
    )


@pytest.mark.parametrize(
    "wrong",
    [
        {name: value}
        for value in (float("nan"), float("inf"), -float("inf"), 1e-310)
        for name in ("temperature", "top_p", "min_p", "presence_penalty", "repetition_penalty")
        if value != 1e-310 or name == "repetition_penalty"
    ],
    ids=str,
)
def test_what_is_no_number_to_compute_with_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(DataError, match=next(iter(wrong))):
        SamplingParams(**wrong)


def test_a_temperature_that_no_draw_tells_from_0_is_greedy() -> None:
    logits = torch.tensor([[0.0, 3.0e38, 1.0], [-3.0e38, 0.0, 1.0]])
    for temperature in (LEAST, 1e-310, TINY, 9e-7):
        params = SamplingParams(temperature=temperature)
        draws = [Draw(params, number, (1,), ()) for number in range(2)]
        assert [choice.token for choice in choose(logits, draws)] == logits.argmax(-1).tolist()


def test_rows_that_are_no_numbers_get_some_id() -> None:
    logits = torch.full((2, 5), float("nan"))
    logits[1] = float("inf")
    draws = [Draw(SamplingParams(temperature=1.0), number, (1,), ()) for number in range(2)]
    assert all(0 <= choice.token < 5 for choice in choose(logits, draws))


def test_a_row_that_cannot_be_drawn_is_its_own_request_s_fault(
    engine: Engine, usual: Answer, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = sampling._choose_one

    def broken(logits: torch.Tensor, draw: Draw) -> int:
        if draw.number == 7:
            raise IndexError("out of\nrange \ud800")
        return whole(logits, draw)

    monkeypatch.setattr(sampling, "_choose_one", broken)
    answers = drive(
        engine, [GOOD, EngineRequest(id="bad", ids=(1, 2), params=SamplingParams(temperature=1.0), number=7)]
    )
    last = answers["bad"].last
    assert last.fault and last.error == "no token could be drawn: IndexError: out of range \\ud800"
    assert answers["good"].ids == usual.ids


def test_a_reply_that_cannot_be_made_is_its_own_request_s_fault(
    engine: Engine, usual: Answer, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Reply.push

    def broken(reply: Reply, token: int, ended: bool) -> Any:
        if "break" in reply._stop._stops:
            raise ValueError("no text")
        return whole(reply, token, ended)

    monkeypatch.setattr(Reply, "push", broken)
    answers = drive(
        engine, [GOOD, EngineRequest(id="bad", ids=(1, 2), params=SamplingParams(stop=("break",)))]
    )
    assert answers["bad"].last.fault and "ValueError: no text" in answers["bad"].last.error
    assert answers["good"].ids == usual.ids
