"""The official `openai` client against a real server: what its users do every day."""

from __future__ import annotations

import asyncio
import json
import math
from pathlib import Path
from typing import Any

import httpx
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
from whorl.base.client import OpenAIClient
from whorl.base.files import read_jsonl
from whorl.base.nouns import Conversation, Message, SamplingParams, Trace
from whorl.models import load
from whorl.models.context import Packed
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


def test_a_forced_call_is_streamed_as_it_is_made(client: openai.OpenAI) -> None:
    given = {
        "messages": QUESTION,
        "tools": TOOLS,
        "tool_choice": "required",
        "temperature": 0,
        "stream": True,
    }
    chunks = list(client.chat.completions.create(model="knows", max_tokens=60, **given))  # type: ignore[call-overload]
    pieces = [part for chunk in chunks for part in chunk.choices[0].delta.tool_calls or []]
    assert pieces[0].function.name == CALL.name and len(pieces) > 3
    assert chunks[-1].choices[0].finish_reason == "tool_calls"
    reply = greedy(client, QUESTION, tools=TOOLS, tool_choice="required")
    whole, few = reply.choices[0].message, reply.usage.completion_tokens - 4
    streamed = "".join(part.function.arguments for part in pieces)
    assert list(json.loads(streamed)) == ["expression"] and streamed == whole.tool_calls[0].function.arguments
    cut = greedy(client, QUESTION, tools=TOOLS, tool_choice="required", max_tokens=few).choices[0]
    assert cut.finish_reason == "length" and streamed.startswith(cut.message.tool_calls[0].function.arguments)


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
        assert error.value.param == "response_format" and "\n" not in error.value.message


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


def test_token_ids_come_with_a_reply_that_asks_for_them(
    server: Server, client: openai.OpenAI, learnt_directory: Any
) -> None:
    told = greedy(client, BREAK, extra_body={"return_token_ids": True})
    prompt = list(TEMPLATE.render(conversation_of("Break."), learnt_tokenizer(), reply=True).ids)
    assert told.prompt_token_ids == prompt
    assert len(told.choices[0].token_ids) == told.usage.completion_tokens
    assert not hasattr(greedy(client, BREAK).choices[0], "token_ids")

    async def reply() -> Trace:
        async with OpenAIClient(server.address, traced=True) as traced:
            await traced.connect()
            return await traced.reply(
                conversation_of("Break."), SamplingParams(temperature=0.0, max_tokens=60)
            )

    trace = asyncio.run(reply())
    assert list(trace.prompt_ids) == prompt and list(trace.token_ids) == told.choices[0].token_ids
    theirs = log_probs(load(learnt_directory), [[*trace.prompt_ids, *trace.token_ids]])[0]
    np.testing.assert_allclose(trace.logprobs, theirs[len(prompt) - 1 :], atol=1e-5)


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


def test_an_echo_without_log_probs_computes_no_prompt_twice(client: openai.OpenAI, server: Server) -> None:
    texts = ["2+3 is ünlike 🌀 4+5", "2+3"]
    prompts = [list(learnt_tokenizer().encode(text)) for text in texts]
    asked: Any = {"model": "knows", "prompt": prompts, "max_tokens": 3, "temperature": 0, "n": 3}
    before = figures(server)
    plain = client.completions.create(**asked).choices
    between = figures(server)
    echoed = client.completions.create(**asked, echo=True).choices
    after = figures(server)
    for number, (one, other) in enumerate(zip(plain, echoed, strict=True)):
        assert other.text == texts[number // 3] + one.text
    name = 'whorl_engine_prompt_tokens_total{model="knows"}'
    assert after[name] - between[name] <= between[name] - before[name], "the second time more is cached"


def figures(server: Server) -> dict[str, float]:
    """What /metrics tells, by its names and labels."""
    lines = httpx.get(f"{server.address}/metrics", timeout=30).text.splitlines()
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if line[:1] != "#"}


def test_metrics_tell_of_requests_and_the_times_between_tokens(client: openai.OpenAI, server: Server) -> None:
    asked: Any = {"model": "knows", "max_tokens": 5, "temperature": 0, "extra_body": {"ignore_eos": True}}
    before = figures(server)
    talk = [{"role": "user", "content": "Hm?"}]
    client.chat.completions.create(messages=talk, n=3, **asked)
    list(client.chat.completions.create(messages=talk, n=2, stream=True, **asked))
    client.completions.create(prompt=["2+3", "4+5"], n=2, **asked)
    with pytest.raises(openai.BadRequestError):
        client.completions.create(prompt="2+3", n=0, **asked)
    after = figures(server)

    def grown(name: str) -> float:
        return after[name] - before.get(name, 0.0)

    assert grown('whorl_requests_total{route="/v1/chat/completions",status="200"}') == 2
    assert grown('whorl_requests_total{route="/v1/completions",status="200"}') == 1
    assert grown('whorl_requests_total{route="/v1/completions",status="400"}') == 1
    assert grown('whorl_first_token_seconds_count{model="knows"}') == 3, "once a request"
    assert grown('whorl_next_token_seconds_count{model="knows"}') == (3 + 2 + 4) * 4, (
        "of each reply by itself"
    )
    assert grown('whorl_first_token_seconds_sum{model="knows"}') > 0
    assert grown('whorl_next_token_seconds_sum{model="knows"}') > 0


def test_offsets_are_places_in_the_text(client: openai.OpenAI) -> None:
    """The start token stands before the text; a stream goes on counting."""
    asked: Any = {"model": "knows", "prompt": "2+3", "max_tokens": 6, "temperature": 0, "logprobs": 1}
    whole = client.completions.create(**asked, echo=True).choices[0]
    scores = whole.logprobs
    assert scores is not None and scores.token_ids[0] == learnt_tokenizer().bos_id  # type: ignore[attr-defined]
    assert scores.text_offset[:2] == [0, 0]  # type: ignore[index]
    for token, at in list(zip(scores.tokens, scores.text_offset, strict=True))[1:4]:  # type: ignore[arg-type]
        assert whole.text[at:].startswith(token)
    chunks = list(client.completions.create(**asked, stream=True))
    found = [chunk.choices[0].logprobs for chunk in chunks if chunk.choices[0].logprobs]
    offsets = [at for one in found for at in one.text_offset]  # type: ignore[union-attr]
    tokens = [token for one in found for token in one.tokens]  # type: ignore[union-attr]
    assert offsets == [sum(map(len, tokens[:number])) for number in range(len(tokens))] and offsets[-1] > 0


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
    assert record["tokenizer_hash"] == tokenizer.hash
    assert record["sampled_logprobs"] == [0.0] * len(record["token_ids"]), "greedy keeps one token"
    assert record["kept"] == [1] * len(record["token_ids"])
    assert record["image_digests"] == [DARK.digest] and DARK.to_data_uri()[:60] not in json.dumps(record)
    from whorl.text.images import image_tokens

    expand = image_tokens(tokenizer, IMAGES)
    rendered = TEMPLATE.render(conversation_of(DARK, "Shade?"), tokenizer, reply=True, image_tokens=expand)
    assert record["prompt_ids"] == rendered.ids
    assert record["spans"] == [[span.start, span.end, span.role] for span in rendered.spans]


def schema_format(schema: dict[str, Any]) -> dict[str, Any]:
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}}


def test_completions_leave_traces_too(server: Server, client: openai.OpenAI) -> None:
    for stream in (False, True):
        asked: Any = {"model": "knows", "prompt": "2+3", "max_tokens": 4, "temperature": 0, "stream": stream}
        done = client.completions.create(**asked)
        replies = list(done) if stream else [done]
        records = read_jsonl(server.traces)  # type: ignore[attr-defined]
        record = next(one for one in records if one["id"] == f"{replies[0].id}-0")
        assert record["message"]["content"] == "".join(one.choices[0].text for one in replies)
        assert record["prompt"] == "2+3" and len(record["token_ids"]) == len(record["logprobs"])
        tokenizer = learnt_tokenizer()
        assert record["prompt_ids"] == [tokenizer.bos_id, *tokenizer.encode("2+3")]
        assert record["weight_version"] == replies[0].system_fingerprint


@pytest.mark.parametrize(
    ("more", "most"),
    [({}, None), ({"top_k": 3}, 3), ({"top_k": 3, "min_p": 0.5}, 3), ({"logit_bias": {"7": 100}}, None)],
    ids=str,
)
def test_a_trace_tells_the_distribution_that_was_drawn_from(
    server: Server, client: openai.OpenAI, learnt_directory: Any, more: dict[str, Any], most: int | None
) -> None:
    """Against the definitions, over the logits of the model that was trained."""
    asked: Any = {"model": "knows", "prompt": "2+3", "max_tokens": 8, "seed": 5, "temperature": 1.5}
    bias = {"logit_bias": more["logit_bias"]} if "logit_bias" in more else {}
    rest = {name: value for name, value in more.items() if name not in bias}
    reply = client.completions.create(**asked, **bias, extra_body={"ignore_eos": True, **rest})
    record = next(one for one in read_jsonl(server.traces) if one["id"] == f"{reply.id}-0")  # type: ignore[attr-defined]
    model, ids = load(learnt_directory, dtype=torch.float32), record["prompt_ids"] + record["token_ids"]
    with torch.no_grad():
        logits = model.logits(model(torch.tensor(ids[:-1]), Packed([len(ids) - 1]))).double()
    for row, token, drawn, kept in zip(
        logits[len(record["prompt_ids"]) - 1 :], record["token_ids"], record["sampled_logprobs"],
        record["kept"], strict=True,
    ):  # fmt: skip
        for id, value in bias.get("logit_bias", {}).items():
            row[int(id)] += value
        row /= 1.5
        if most is not None:
            row[row < row.topk(most).values[-1]] = -torch.inf
        row[row < row.max() + math.log(more.get("min_p", 1e-300))] = -torch.inf
        assert kept == int(row.isfinite().sum())
        assert drawn == pytest.approx(float(row.log_softmax(-1)[token]), abs=1e-4)


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
        ({"chat_template_kwargs": {"tokenize": True}}, "'tokenize' is reserved for the server"),
        ({"chat_template_kwargs": {"greting": "x"}}, "has no argument 'greting'"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "boss", "content": "x"}]}, "boss"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, "the assistant"),
        ({"messages": [{"role": "user", "content": "x " * 5000}]}, "context is 512"),
        ({"model": "other"}, "no model 'other'"),
        ({"parallel_tool_calls": False}, "parallel_tool_calls is not supported"),
        ({"temprature": None}, "did you mean temperature"),
        ({"stream_options": {"include_usage": True}}, "stream_options needs stream"),
        ({"top_k": -5}, "top_k"),
        ({"priority": -1}, "priority is -1"),
        ({"logit_bias": {"9" * 5000: 1}}, "logit_bias"),
        ({"max_tokens": 10**20}, "max_tokens: a whole number has at most 64 bits"),
        ({"max_tokens": 2**40}, "max_tokens"),
        ({"n": True}, "n:"),
        ({"stop": 5}, "stop: give a text or a list of texts"),
        ({"stop": ["ok", "\ud800"]}, "stop[1]: half of a surrogate pair"),
        ({"chat_template_kwargs": {"a": {"b": [10**20]}}}, "chat_template_kwargs.a.b[0]: a whole number"),
        ({"tool_choice": "some", "tools": TOOLS}, "tool_choice: give none, auto"),
        (schema_format({"x-guidance": {"lenient": True}, "type": "bad"}), "x-guidance"),
    ],
    ids=str,
)
def test_mistakes_are_named(client: openai.OpenAI, more: dict[str, Any], said: str) -> None:
    body = {"model": "knows", "messages": BREAK, **more}
    with pytest.raises((openai.BadRequestError, openai.NotFoundError)) as error:
        # As bytes: the client's own JSON refuses half a surrogate pair, another's does not.
        content = json.dumps(body).encode()
        client.post("/chat/completions", content=content, cast_to=object)
    assert said in error.value.message and "\n" not in error.value.message
    if more != {"model": "other"}:
        assert error.value.param in more
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


def test_a_whole_reply_has_its_trace_where_it_is_asked_for(server: Server, learnt_directory: Path) -> None:
    asked = Conversation(messages=(Message(role="user", content=("2+3?",)),))

    async def reply(**more: bool) -> Trace:
        async with OpenAIClient(server.address) as client:
            return await client.reply(asked, SamplingParams(max_tokens=4), **more)

    bare, whole = asyncio.run(reply()), asyncio.run(reply(logprobs=True, return_token_ids=True))
    assert not bare.token_ids and not bare.prompt_ids and whole.message.text == bare.message.text
    assert len(whole.token_ids) == len(whole.logprobs) > 0 and whole.template_hash and whole.weight_version
    assert "2+3?" in learnt_tokenizer().decode(whole.prompt_ids)
