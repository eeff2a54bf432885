"""An assistant with a real model: a tiny one that has learnt a handful of conversations by heart."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from tests.models.learnt import (
    BROKEN,
    CALCULATOR,
    CALL,
    DARK,
    IMAGES,
    LIGHT,
    SUM,
    TEMPLATE,
    conversation_of,
    learn,
    learnt_tokenizer,
    says,
)
from whorl.base.errors import InputError
from whorl.base.nouns import SamplingParams
from whorl.cli.generate import command
from whorl.models.chat import Assistant
from whorl.models.context import Packed
from whorl.models.decoder import Decoder
from whorl.models.directory import save
from whorl.text.config import ImageConfig
from whorl.text.tokenizer import Tokenizer
from whorl.tools.loop import converse


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return learnt_tokenizer()


@pytest.fixture(scope="module")
def model(tokenizer: Tokenizer) -> Decoder:
    return learn(tokenizer)


@pytest.fixture
def assistant(model: Decoder, tokenizer: Tokenizer) -> Assistant:
    params = SamplingParams(max_tokens=40)
    return Assistant(model, tokenizer, TEMPLATE, IMAGES, params, weight_version="w1")


def test_a_call_its_result_and_the_answer(assistant: Assistant) -> None:
    (outcome,) = converse(assistant.reply, [SUM], [CALCULATOR], max_calls=2)
    assert outcome.ending == "answer" and outcome.trace.message == says("It is five.")
    first, last = outcome.trace.chain
    assert first.message.tool_calls == (CALL,)
    assert last.prompt_ids[: len(first.prompt_ids + first.token_ids)] == first.prompt_ids + first.token_ids


def test_images_are_told_apart(assistant: Assistant) -> None:
    one, both = conversation_of(DARK, "Shade?"), conversation_of(LIGHT, "and", DARK, "Shades?")
    traces = assistant.reply([one, conversation_of(LIGHT, "Shade?"), both, SUM])
    assert [trace.message.text for trace in traces[:3]] == ["dark", "light", "light, then dark"]
    assert traces[3].message.tool_calls == (CALL,)


def test_a_broken_call_stays_text(assistant: Assistant) -> None:
    (trace,) = assistant.reply([conversation_of("Break.")])
    assert trace.message == says(f"<tool_call>{BROKEN}</tool_call>")
    (outcome,) = converse(assistant.reply, [conversation_of("Break.")], [CALCULATOR], max_calls=2)
    assert outcome.ending == "answer"


def test_the_trace_is_what_was_sampled(assistant: Assistant, model: Decoder, tokenizer: Tokenizer) -> None:
    (trace,) = assistant.reply([SUM])
    assert list(trace.prompt_ids) == TEMPLATE.render(SUM, tokenizer, reply=True).ids
    assert trace.token_ids[-1] == tokenizer.id_of("<|im_end|>") and trace.finish == "stop"
    assert (trace.weight_version, trace.template_hash) == ("w1", TEMPLATE.hash)
    assert trace.sampling == assistant.params
    ids = torch.tensor(trace.prompt_ids + trace.token_ids)
    with torch.no_grad():
        logits = model.logits(model(ids, Packed([len(ids)])))[len(trace.prompt_ids) - 1 : -1]
    wanted = logits.log_softmax(-1).gather(1, ids[len(trace.prompt_ids) :, None])[:, 0]
    assert trace.logprobs == pytest.approx(wanted.tolist(), abs=1e-4)


def test_stop_strings_cut_the_message_and_keep_the_tokens(assistant: Assistant, tokenizer: Tokenizer) -> None:
    assistant.params = SamplingParams(max_tokens=40, stop=("ght",))
    (trace,) = assistant.reply([conversation_of(LIGHT, "Shade?")])
    assert (trace.message.text, trace.finish) == ("li", "stop")
    assert tokenizer.decode(list(trace.token_ids)).startswith("light")
    assistant.params = SamplingParams(max_tokens=1)
    assert assistant.reply([conversation_of(LIGHT, "Shade?")])[0].finish == "length"


def test_sampling_depends_on_the_conversation_not_its_neighbours(assistant: Assistant) -> None:
    assistant.params = SamplingParams(max_tokens=8, temperature=3.0, seed=4)
    asked = [replace(conversation_of("Hello"), id=name) for name in ("a", "b", "a")]
    a, b, copy = assistant.reply(asked)
    assert len({a.token_ids, b.token_ids, copy.token_ids}) == 3
    assert assistant.reply(asked[1:2])[0].token_ids == b.token_ids
    assert assistant.reply([asked[1], asked[0]])[1].token_ids == a.token_ids
    assert assistant.reply([]) == []


def test_images_that_cannot_be_seen(model: Decoder, tokenizer: Tokenizer) -> None:
    seen = replace(conversation_of(DARK), id="c7")
    with pytest.raises(InputError, match=r"'c7' has images"):
        Assistant(model, tokenizer, TEMPLATE).reply([seen])
    with pytest.raises(InputError, match="patches of 8"):
        Assistant(model, tokenizer, TEMPLATE, ImageConfig(patch_size=8, max_size=16)).reply([seen])


def test_the_verb(model: Decoder, tokenizer: Tokenizer, tmp_path: Path) -> None:
    directory = tmp_path / "model"
    save(model, directory, tokenizer, template=TEMPLATE, images=IMAGES)
    (tmp_path / "dark.png").write_bytes(DARK.data)
    runner = CliRunner()
    plain = runner.invoke(command, [str(directory), "Shade?", "--image", str(tmp_path / "dark.png")])
    assert (plain.exit_code, plain.stdout) == (0, "dark\n"), plain.output
    asked = runner.invoke(command, [str(directory), "Break.", "--json"])
    record = json.loads(asked.stdout)
    assert record["message"]["content"] == f"<tool_call>{BROKEN}</tool_call>" and record["finish"] == "stop"
    assert len(record["logprobs"]) == len(record["token_ids"])
    text = runner.invoke(command, [str(directory), "2+", "--text", "--max-tokens", "3", "--json"])
    assert json.loads(text.stdout)["prompt_ids"] == [tokenizer.bos_id, *tokenizer.encode("2+")]
    for words, said in (
        (["--text", "--image", str(tmp_path / "dark.png")], "chat template"),
        (["--image", str(tmp_path / "none.png")], "none.png"),
    ):
        with pytest.raises(InputError, match=said):
            runner.invoke(command, [str(directory), "x", *words], catch_exceptions=False)
