"""The official `openai` client against a real server: what its users do every day."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import openai
import pytest
import torch

from tests.models.learnt import (
    BROKEN,
    CALL,
    DARK,
    IMAGES,
    LIGHT,
    SUM,
    TEMPLATE,
    conversation_of,
    learnt_tokenizer,
)
from tests.serve.api.conftest import Server
from whorl.base.files import read_jsonl
from whorl.models import load
from whorl.models.likelihood import log_probs
from whorl.models.weights import weight_version

TOOLS: Any = list(SUM.tools)
QUESTION: Any = [{"role": "user", "content": "2+3?"}]
BREAK: Any = [{"role": "user", "content": "Break."}]


def picture_message(*content: Any) -> Any:
    return [message.to_openai() for message in conversation_of(*content).messages]


def greedy(client: openai.OpenAI, messages: Any, **more: Any) -> Any:
    return client.chat.completions.create(
        model="knows", messages=messages, temperature=0, **{"max_tokens": 60, **more}
    )


def test_models_are_listed_with_their_weights(client: openai.OpenAI, learnt_directory: Any) -> None:
    (card,) = client.models.list().data
    assert card.id == "knows" and client.models.retrieve("knows").id == "knows"
    assert card.weight_version == weight_version(learnt_directory)  # type: ignore[attr-defined]
    with pytest.raises(openai.NotFoundError, match="there is no model 'other'"):
        client.models.retrieve("other")


def test_a_chat_whole_and_streamed(client: openai.OpenAI, learnt_directory: Any) -> None:
    whole = greedy(client, picture_message(DARK, "Shade?"))
    assert whole.choices[0].message.content == "dark" and whole.choices[0].finish_reason == "stop"
    assert whole.system_fingerprint == weight_version(learnt_directory)
    chunks = list(
        greedy(client, picture_message(LIGHT, "and", DARK, "Shades?"), stream=True,
               stream_options={"include_usage": True})
    )  # fmt: skip
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == "light, then dark"
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"
    usage = chunks[-1].usage
    assert not chunks[-1].choices and usage is not None
    again = greedy(client, picture_message(LIGHT, "and", DARK, "Shades?")).usage
    assert (again.prompt_tokens, again.completion_tokens) == (usage.prompt_tokens, usage.completion_tokens)
    assert again.prompt_tokens_details.cached_tokens > 0


def test_tools_are_called_and_their_results_read(client: openai.OpenAI) -> None:
    first = greedy(client, QUESTION, tools=TOOLS).choices[0]
    assert first.finish_reason == "tool_calls" and first.message.content is None
    (call,) = first.message.tool_calls
    assert (call.function.name, json.loads(call.function.arguments)) == (CALL.name, CALL.arguments)
    result = {"role": "tool", "tool_call_id": call.id, "name": CALL.name, "content": "5"}
    messages = [*QUESTION, first.message.model_dump(exclude_none=True), result]
    assert greedy(client, messages, tools=TOOLS).choices[0].message.content == "It is five."
    streamed = list(greedy(client, QUESTION, tools=TOOLS, stream=True))
    deltas = [part for chunk in streamed for part in chunk.choices[0].delta.tool_calls or []]
    assert deltas[0].function.name == CALL.name and deltas[0].id
    assert json.loads("".join(part.function.arguments for part in deltas)) == CALL.arguments
    assert streamed[-1].choices[0].finish_reason == "tool_calls"


def test_tool_choice_forces_a_call_or_none(client: openai.OpenAI) -> None:
    forced = {"type": "function", "function": {"name": CALL.name}}
    for choice in ("required", forced):
        reply = client.chat.completions.create(
            model="knows",
            messages=BREAK,
            tools=TOOLS,
            tool_choice=choice,
            temperature=1.0,
            seed=3,
            max_tokens=300,
        )  # type: ignore[call-overload]
        if reply.choices[0].finish_reason != "length":
            assert reply.choices[0].message.tool_calls[0].function.name == CALL.name
        assert (reply.choices[0].message.content or "").startswith("<tool_call>") or reply.choices[
            0
        ].message.tool_calls
    with pytest.raises(openai.BadRequestError, match="not among the tools"):
        greedy(client, BREAK, tools=TOOLS, tool_choice={"type": "function", "function": {"name": "none"}})


def test_a_broken_call_is_text(client: openai.OpenAI) -> None:
    assert greedy(client, BREAK).choices[0].message.content == f"<tool_call>{BROKEN}</tool_call>"


def test_structured_output(client: openai.OpenAI) -> None:
    schema = {
        "type": "object", "properties": {"n": {"type": "integer", "minimum": 0, "maximum": 99}},
        "required": ["n"], "additionalProperties": False,
    }  # fmt: skip
    form = {"type": "json_schema", "json_schema": {"name": "number", "schema": schema, "strict": True}}
    for seed in range(3):
        reply = client.chat.completions.create(
            model="knows",
            messages=BREAK,
            response_format=form,
            temperature=2.0,
            seed=seed,  # type: ignore[arg-type]
        )
        assert 0 <= json.loads(reply.choices[0].message.content or "")["n"] <= 99
    regex = greedy(client, BREAK, extra_body={"guided_regex": "[ab]{5}"})
    assert len(regex.choices[0].message.content) == 5 and set(regex.choices[0].message.content) <= {"a", "b"}
    for wrong in (
        {"type": "json_object2"}, {"type": "json_schema", "json_schema": False}, {},
        {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "bad"}}},
    ):  # fmt: skip
        with pytest.raises(openai.BadRequestError) as error:
            greedy(client, BREAK, response_format=wrong)
        assert error.value.param == "messages" and "\n" not in error.value.message


def test_log_probs_are_the_trainer_s(client: openai.OpenAI, learnt_directory: Any) -> None:
    tokenizer, model = learnt_tokenizer(), load(learnt_directory)
    reply = greedy(client, BREAK, logprobs=True, top_logprobs=3).choices[0]
    prompt = TEMPLATE.render(conversation_of("Break."), tokenizer, reply=True).ids
    scored = client.completions.create(
        model="knows",
        prompt=prompt,
        temperature=0,
        max_tokens=len(reply.logprobs.content),
        logprobs=2,
        echo=True,
    ).choices[0]
    ids = scored.logprobs.token_ids  # type: ignore[union-attr]
    theirs = log_probs(model, [ids])[0]
    np.testing.assert_allclose(scored.logprobs.token_logprobs[1:], theirs, atol=1e-5)  # type: ignore[union-attr, index]
    assert scored.logprobs.token_logprobs[0] is None  # type: ignore[union-attr, index]
    ours = [token.logprob for token in reply.logprobs.content]
    np.testing.assert_allclose(ours, theirs[len(prompt) - 1 :], atol=1e-5)
    assert all(len(token.top_logprobs) == 3 for token in reply.logprobs.content)


def test_completions_score_several_prompts_at_once(client: openai.OpenAI, learnt_directory: Any) -> None:
    prompts = [[5, 9, 11, 30], [7, 8]]
    done = client.completions.create(model="knows", prompt=prompts, max_tokens=0, echo=True, logprobs=1)
    theirs = log_probs(load(learnt_directory), prompts)
    for choice, wanted, ids in zip(done.choices, theirs, prompts, strict=True):
        np.testing.assert_allclose(choice.logprobs.token_logprobs[1:], wanted, atol=1e-5)  # type: ignore[union-attr, index]
        assert choice.logprobs.token_ids == ids  # type: ignore[union-attr]
    assert done.usage is not None and done.usage.completion_tokens == 0
    text = client.completions.create(model="knows", prompt="2+3", max_tokens=4, temperature=0, echo=True)
    assert text.choices[0].text.startswith("2+3")
    stream = client.completions.create(model="knows", prompt="2+3", max_tokens=4, temperature=0, stream=True)
    assert "2+3" + "".join(one.choices[0].text for one in stream) == text.choices[0].text


def test_choices_seeds_and_stops(client: openai.OpenAI) -> None:
    def draw(**more: Any) -> list[str]:
        given = {"max_tokens": 8, "temperature": 2.0, "n": 3, "seed": 5, **more}
        reply = client.chat.completions.create(model="knows", messages=BREAK, **given)
        return [choice.message.content for choice in reply.choices]

    assert draw() == draw() != draw(seed=6) and len(set(draw())) == 3
    light = picture_message(LIGHT, "Shade?")
    stopped = greedy(client, light, stop=["zzz", "gh"]).choices[0]
    assert (stopped.message.content, stopped.finish_reason) == ("li", "stop")
    assert greedy(client, light, max_tokens=1).choices[0].finish_reason == "length"
    barred = greedy(client, light, logit_bias={str(learnt_tokenizer().encode("light")[0]): -100})
    assert barred.choices[0].message.content != "light"
    streamed = list(greedy(client, light, n=2, stream=True))
    assert {chunk.choices[0].index for chunk in streamed} == {0, 1}


def test_embeddings(client: openai.OpenAI, learnt_directory: Any) -> None:
    from whorl.models.context import Packed

    ids = [5, 9, 11, 30]
    found = client.embeddings.create(model="knows", input=[ids, [3]])  # the client asks for base64
    with torch.no_grad():
        mean = load(learnt_directory)(torch.tensor(ids), Packed([4])).mean(0)
    np.testing.assert_allclose(found.data[0].embedding, (mean / mean.norm()).numpy(), atol=1e-5)
    assert len(found.data) == 2 and found.usage.prompt_tokens == 5


def test_every_reply_leaves_a_trace(server: Server, client: openai.OpenAI, learnt_directory: Any) -> None:
    reply = greedy(client, picture_message(DARK, "Shade?"))
    records = read_jsonl(server.traces)  # type: ignore[attr-defined]
    record = next(one for one in records if one["id"] == f"{reply.id}-0")
    tokenizer = learnt_tokenizer()
    assert record["format"] == 1 and record["weight_version"] == weight_version(learnt_directory)
    assert (
        tokenizer.decode(record["token_ids"]) == "dark<|im_end|>" and record["template_hash"] == TEMPLATE.hash
    )
    assert record["image_digests"] == [DARK.digest] and DARK.to_data_uri()[:60] not in json.dumps(record)
    from whorl.text.images import image_tokens

    expand = image_tokens(tokenizer, IMAGES)
    rendered = TEMPLATE.render(conversation_of(DARK, "Shade?"), tokenizer, reply=True, image_tokens=expand)
    assert record["prompt_ids"] == rendered.ids
    assert record["spans"] == [[span.start, span.end, span.role] for span in rendered.spans]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"audio": {"voice": "x"}}, "audio is not supported"),
        ({"temprature": 1}, "did you mean temperature"),
        ({"temperature": -1}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"n": 0}, "n:"),
        ({"n": 999}, "at most 16"),
        ({"logit_bias": {"x": 1}}, "logit_bias"),
        ({"logit_bias": {"5": 1000}}, "logit_bias"),
        ({"stop": [""]}, "stop"),
        ({"top_logprobs": 3}, "needs logprobs"),
        ({"tool_choice": "required"}, "tool_choice needs tools"),
        ({"chat_template_kwargs": {"tokenize": True}}, "'tokenize' is the server's"),
        ({"chat_template_kwargs": {"greting": "x"}}, "has no argument 'greting'"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "boss", "content": "x"}]}, "boss"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, "the assistant's"),
        ({"messages": [{"role": "user", "content": "x " * 5000}]}, "context is 512"),
        ({"model": "other"}, "no model 'other'"),
        ({"parallel_tool_calls": False}, "parallel_tool_calls is not supported"),
    ],
    ids=str,
)
def test_mistakes_are_named(client: openai.OpenAI, more: dict[str, Any], said: str) -> None:
    body = {"model": "knows", "messages": BREAK, **more}
    with pytest.raises((openai.BadRequestError, openai.NotFoundError)) as error:
        client.chat.completions.create(
            model=body.pop("model"),
            messages=body.pop("messages"),
            extra_body=body,  # type: ignore[arg-type]
        )
    assert said in error.value.message and "\n" not in error.value.message
    assert error.value.body["type"] in ("invalid_request_error", "not_found_error")  # type: ignore[index, call-overload]


def test_hints_are_taken_and_an_image_url_is_not_fetched(client: openai.OpenAI) -> None:
    hints: Any = {"user": "u", "metadata": {"a": "b"}, "store": False, "service_tier": "auto"}
    assert greedy(client, picture_message(DARK, "Shade?"), **hints).choices[0].message.content == "dark"
    for url in (
        "http://127.0.0.1:1/x.png",
        "file:///etc/passwd",
        "/etc/passwd",
        "data:image/png;base64,AAAA",
    ):
        part = {"type": "image_url", "image_url": {"url": url}}
        with pytest.raises(openai.BadRequestError):
            greedy(client, [{"role": "user", "content": [part]}])
