"""The engine on a model that knows a few conversations: images, adapters, grammars, ends and refusals."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.models.learnt import (
    CALL,
    DARK,
    IMAGES,
    LIGHT,
    SUM,
    TEMPLATE,
    conversation_of,
    learn,
    learnt_tokenizer,
    save_learnt,
)
from tests.serve.conftest import drive, make_engine
from whorl.base.errors import InputError
from whorl.base.nouns import Conversation, SamplingParams
from whorl.kernels import native
from whorl.models.chat import Assistant
from whorl.models.config import LoraConfig, ModelConfig
from whorl.models.context import Packed
from whorl.models.decoder import Decoder
from whorl.models.likelihood import log_probs
from whorl.models.lora import adapters, inject, load_adapter, save_adapter
from whorl.serve.cache import fit_cache, page_bytes, step_bytes
from whorl.serve.engine import Engine
from whorl.serve.engine_config import EngineConfig
from whorl.serve.grammar import json_schema_grammar, lark_grammar, regex_grammar, tool_call_grammar
from whorl.serve.requests import EngineRequest
from whorl.text.images import image_tokens, preprocess
from whorl.text.tokenizer import Tokenizer

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return learnt_tokenizer()


@pytest.fixture(scope="module")
def model(tokenizer: Tokenizer) -> Decoder:
    return learn(tokenizer)


@pytest.fixture
def engine(model: Decoder, tokenizer: Tokenizer) -> Engine:
    return make_engine(model, tokenizer, TEMPLATE.end_ids(tokenizer), memory=0.05)


def test_a_started_engine_has_its_kernels_and_remembers_nothing(tmp_path: Path) -> None:
    """The first request waits for no compiler, and finds everything as if nobody had been before it."""
    native.kernels.cache_clear()
    directory = save_learnt(tmp_path / "knows")
    engine = Engine.start(directory, EngineConfig(device="cpu", dtype="float32", memory=0.02))
    assert native.kernels.cache_info().currsize == 1
    health = engine.health
    assert not engine.busy and not any(health.counters.values())
    assert health.pages_free == health.pages_total == engine.scheduler.pages.count


def asked(conversation: Conversation, tokenizer: Tokenizer, id: str, **fields: Any) -> EngineRequest:
    expand = image_tokens(tokenizer, IMAGES) if conversation.images else None
    rendered = TEMPLATE.render(conversation, tokenizer, reply=True, image_tokens=expand)
    fields = {"params": SamplingParams(max_tokens=40), "kind": "chat"} | fields
    return EngineRequest(
        id=id,
        ids=tuple(rendered.ids),
        images=tuple(preprocess(image, IMAGES) for image in conversation.images),
        image_positions=tuple(rendered.image_positions),
        image_digests=tuple(image.digest for image in conversation.images),
        **fields,
    )


SHADES = {
    "dark": conversation_of(DARK, "Shade?"),
    "light": conversation_of(LIGHT, "Shade?"),
    "light, then dark": conversation_of(LIGHT, "and", DARK, "Shades?"),
}


def test_images_alone_together_chunked_and_warm(engine: Engine, model: Decoder, tokenizer: Tokenizer) -> None:
    """Equal placeholders, other images: a cached prefix never shows another picture."""
    reference = Assistant(model, tokenizer, TEMPLATE, IMAGES, SamplingParams(max_tokens=40))
    theirs = dict(zip(SHADES, reference.reply(list(SHADES.values())), strict=True))
    for round in range(3):
        requests = [asked(one, tokenizer, f"{name} {round}") for name, one in SHADES.items()]
        answers = drive(engine, requests)
        for name, trace in theirs.items():
            answer = answers[f"{name} {round}"]
            assert (answer.content, answer.last.finish) == (name, "stop")
            assert tuple(answer.ids) == trace.token_ids
            assert answer.logprobs == pytest.approx(trace.logprobs, abs=1e-5)
            assert round == 0 or answer.last.cached_tokens > 8  # the pictures' pages too
    assert not engine.runner._features, "features are dropped once they are in the cache"


def test_a_tool_call_comes_as_a_call(engine: Engine, tokenizer: Tokenizer) -> None:
    answer = drive(engine, [asked(SUM, tokenizer, "sum")])["sum"]
    parts = [part for event in answer.events for part in event.parts]
    assert [part.kind for part in parts] == ["call", "arguments"] and answer.content == ""
    assert (parts[0].text, json.loads(parts[1].text)) == (CALL.name, CALL.arguments)


def test_greedy_replies_are_the_reference_s_and_draws_too(
    engine: Engine, model: Decoder, tokenizer: Tokenizer
) -> None:
    params = SamplingParams(
        max_tokens=12, temperature=1.5, top_p=0.9, top_k=30, min_p=0.01, seed=7, repetition_penalty=1.2,
        presence_penalty=0.3, frequency_penalty=0.1, logit_bias=((9, 2.0),),
    )  # fmt: skip
    conversation = replace(conversation_of("Hello there"), id="c")
    trace = Assistant(model, tokenizer, TEMPLATE, None, params).reply([conversation])[0]
    from whorl.models.chat import _number

    request = asked(conversation, tokenizer, "c", params=params, number=_number("c", 0))
    crowd = [asked(conversation, tokenizer, str(n), params=params, number=n) for n in range(5)]
    answers = drive(engine, [*crowd, request])
    assert tuple(answers["c"].ids) == trace.token_ids
    assert len({tuple(answers[str(n)].ids) for n in range(5)}) > 1


def test_a_stop_string_ends_the_reply_and_is_not_shown(engine: Engine, tokenizer: Tokenizer) -> None:
    params = SamplingParams(max_tokens=40, stop=("never", "ght"))
    answer = drive(engine, [asked(SHADES["light"], tokenizer, "a", params=params)])["a"]
    assert (answer.content, answer.last.finish, answer.last.stop) == ("li", "stop", "ght")
    ended = drive(engine, [asked(SHADES["light"], tokenizer, "b")])["b"]
    assert ended.last.stop == tokenizer.id_of("<|im_end|>") and ended.ids[-1] == ended.last.stop
    on = SamplingParams(max_tokens=9, ignore_end=True)
    longer = drive(engine, [asked(SHADES["light"], tokenizer, "c", params=on)])["c"]
    assert (len(longer.ids), longer.last.finish) == (9, "length")


SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 6},
        "n": {"type": "integer", "minimum": 3, "maximum": 99},
    },
    "required": ["name", "n"],
    "additionalProperties": False,
}


def test_grammars_hold_whatever_is_drawn(engine: Engine, tokenizer: Tokenizer) -> None:
    grammars = {
        "json": json_schema_grammar(SCHEMA, "response_format"),
        "regex": regex_grammar("(yes|no), [0-9]{3}"),
        "lark": lark_grammar('start: "a" | "b" start'),
        "tool": tool_call_grammar(list(SUM.tools), tokenizer),
    }
    requests = [
        asked(SHADES["dark"], tokenizer, f"{name} {seed}", grammar=grammar,
              params=SamplingParams(max_tokens=120, temperature=2.0, seed=seed))
        for name, grammar in grammars.items()
        for seed in range(6)
    ]  # fmt: skip
    answers = drive(engine, requests)
    for seed in range(6):
        assert all(answers[f"{name} {seed}"].last.finish == "stop" for name in ("json", "regex"))
        value = json.loads(answers[f"json {seed}"].content)
        assert set(value) == {"name", "n"} and 3 <= value["n"] <= 99 and len(value["name"]) <= 6
        assert answers[f"regex {seed}"].content[-3:].isdigit()
        lark = answers[f"lark {seed}"]
        assert set(lark.content) <= {"a", "b"} and (lark.last.finish == "length" or lark.content[-1] == "a")
        parts = [part for event in answers[f"tool {seed}"].events for part in event.parts]
        if answers[f"tool {seed}"].last.finish == "stop":
            assert parts[0].kind == "call" and parts[0].text == CALL.name
    # The log-probs are the model's own, not those of what the grammar left.
    request = requests[0]
    ids = answers[request.id].ids
    theirs = log_probs(engine.model, [[*request.ids, *ids]])
    assert len(theirs[0]) and min(answers[request.id].logprobs) < -0.5


@pytest.mark.parametrize(
    "grammar",
    [
        '{"grammars":[{"json_schema":{"type":"nothing known"}}]}', "start: missing", "no grammar at all",
        "start: start start", "{}",
    ],
)  # fmt: skip
def test_a_bad_grammar_ends_its_request_and_no_other(
    engine: Engine, tokenizer: Tokenizer, grammar: str
) -> None:
    answers = drive(
        engine,
        [asked(SHADES["dark"], tokenizer, "bad", grammar=grammar), asked(SHADES["dark"], tokenizer, "good")],
    )
    assert "grammar" in answers["bad"].last.error and "\n" not in answers["bad"].last.error
    assert not answers["bad"].last.fault and not answers["bad"].tokens
    assert answers["good"].content == "dark"


def test_what_can_never_be_served_is_refused_with_its_limit(engine: Engine, tokenizer: Tokenizer) -> None:
    context = engine.scheduler.context
    picture = asked(SHADES["dark"], tokenizer, "images")
    wrong = {
        "long": EngineRequest(id="long", ids=(5,) * context),
        "empty": EngineRequest(id="empty", ids=()),
        "strange": EngineRequest(id="strange", ids=(99_999,)),
        "adapter": EngineRequest(id="adapter", ids=(1,), adapter="none"),
        "images": replace(picture, image_positions=picture.image_positions[1:]),
    }
    answers = drive(engine, wrong.values())
    words = {"long": f"context is {context}", "empty": "empty", "strange": "vocabulary", "adapter": "'none'"}
    for id, said in (words | {"images": "image positions"}).items():
        assert said in answers[id].last.error and not answers[id].last.fault
    most = EngineRequest(
        id="most", ids=(5,) * (context - 1), params=SamplingParams(max_tokens=50, ignore_end=True)
    )
    assert len(drive(engine, [most])["most"].ids) == 1


def test_an_abort_at_any_step_gives_every_page_back(engine: Engine, tokenizer: Tokenizer) -> None:
    for steps in range(8):
        for id in ("a", "b", "c"):
            engine.submit(asked(SHADES["light, then dark"], tokenizer, id))
        for _ in range(steps):
            engine.step()
        for id in ("a", "b", "c", "unknown"):
            engine.abort(id)
        assert not engine.busy and not engine.runner._features
        assert engine.scheduler.pages.free == engine.scheduler.pages.count
    assert drive(engine, [asked(SHADES["dark"], tokenizer, "d")])["d"].content == "dark"


def test_an_embedding_is_the_mean_of_the_last_hidden_states(engine: Engine, model: Decoder) -> None:
    ids = tuple(range(3, 60))  # several chunks
    answer = drive(engine, [EngineRequest(id="e", ids=ids, kind="embed")])["e"]
    with torch.no_grad():
        mean = model(torch.tensor(ids), Packed([len(ids)])).mean(0)
    np.testing.assert_allclose(answer.embedding, (mean / mean.norm()).numpy(), atol=1e-5)


def test_weights_that_give_no_numbers_are_a_fault(tokenizer: Tokenizer) -> None:
    decoder = Decoder(
        ModelConfig(
            vocab_size=tokenizer.vocab_size, d_model=16, n_layers=1, n_heads=2, n_kv_heads=2, head_dim=8,
            d_ff=16, context=32,
        )
    )  # fmt: skip
    torch.nn.init.constant_(decoder.embed.weight, float("nan"))
    answer = drive(make_engine(decoder, tokenizer), [EngineRequest(id="x", ids=(1, 2))])["x"]
    assert answer.last.fault and "not finite" in answer.last.error


# -- adapters -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def adapter_dirs(
    model: Decoder, tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    found = {}
    for seed, (name, targets) in enumerate({"first": None, "second": ("q", "down")}.items()):
        fresh = Decoder(model.config)
        fresh.load_state_dict(model.state_dict())
        inject(fresh, LoraConfig(rank=2 + seed, alpha=8.0, targets=targets), seed=seed)
        for _, adapter in adapters(fresh):
            torch.nn.init.normal_(
                adapter.lora_b.weight, std=0.2, generator=torch.Generator().manual_seed(seed)
            )
        found[name] = tmp_path_factory.mktemp(name)
        save_adapter(fresh, found[name])
    return found


def test_adapters_side_by_side_are_each_the_trainer_s(
    tokenizer: Tokenizer, model: Decoder, adapter_dirs: dict[str, Path]
) -> None:
    served = Decoder(model.config)
    served.load_state_dict(model.state_dict())
    engine = make_engine(served.eval(), tokenizer)
    versions = {name: engine.load_adapter(name, str(path)) for name, path in adapter_dirs.items()}
    assert len(set(versions.values())) == 2 and engine.info.adapters == versions
    prompt = tuple(range(10, 40))
    params = SamplingParams(max_tokens=8, ignore_end=True)
    names = ["", "first", "second", "", "second", "first"]
    requests = [
        EngineRequest(id=str(at), ids=(*prompt, at), adapter=name, params=params)
        for at, name in enumerate(names)
    ]
    answers = drive(engine, requests) | drive(engine, [replace(requests[1], id="warm")])
    assert answers["warm"].last.cached_tokens > 0
    for request in [*requests, replace(requests[1], id="warm")]:
        trainer = Decoder(model.config)
        trainer.load_state_dict(model.state_dict())
        if request.adapter:
            load_adapter(trainer, adapter_dirs[request.adapter])
        ids = answers[request.id].ids
        theirs = log_probs(trainer.eval(), [[*request.ids, *ids]])[0][len(request.ids) - 1 :]
        np.testing.assert_allclose(answers[request.id].logprobs, theirs, atol=1e-5)
    assert answers["0"].logprobs != pytest.approx(answers["1"].logprobs, abs=1e-3)
    with pytest.raises(InputError, match="in use"):
        engine.load_adapter("first", str(adapter_dirs["first"]))
    engine.submit(replace(requests[1], id="late"))
    engine.unload_adapter("first")
    assert "unloaded" in drive(engine)["late"].last.error
    with pytest.raises(InputError, match="no adapter 'first'"):
        engine.unload_adapter("first")


# -- memory ---------------------------------------------------------------------------------------


def test_a_context_that_does_not_fit_is_lowered_and_said(
    model: Decoder, capsys: pytest.CaptureFixture[str]
) -> None:
    context, pages = fit_cache(model.config, EngineConfig(memory=0.0002, page=16), torch.float32, CPU)
    assert context == pages * 16 < model.config.context
    assert "context lowered from 512" in capsys.readouterr().err
    context, _ = fit_cache(model.config, EngineConfig(context=4096, memory=1.0), torch.float32, CPU)
    assert context == 512 and "the model's maximum" in capsys.readouterr().err
    with pytest.raises(InputError, match="--memory"):
        fit_cache(model.config, EngineConfig(memory=1e-6), torch.float32, CPU)


def test_no_more_memory_is_taken_than_is_free(model: Decoder, capsys: pytest.CaptureFixture[str]) -> None:
    config = EngineConfig(memory=500.0, page=16, most=4)
    step = step_bytes(model.config, config, torch.float32)
    page = page_bytes(model.config, 16, torch.float32)
    for free_pages in (4 * 32, 40, 9):
        context, pages = fit_cache(model.config, config, torch.float32, CPU, step + free_pages * page)
        said = capsys.readouterr().err
        assert (pages, context) == (free_pages, min(512, free_pages * 16))
        assert ("--memory lowered from 500.00 GB" in said) == (free_pages < 4 * 32)
    with pytest.raises(InputError, match=r"--memory: 0\.00 GB cannot hold a page"):
        fit_cache(model.config, config, torch.float32, CPU, step)
    unasked = EngineConfig(page=16, most=4)
    assert fit_cache(model.config, unasked, torch.float32, CPU, step + 40 * page)[1] <= 40
