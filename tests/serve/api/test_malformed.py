"""Correct requests with one thing wrong in them, anywhere in their body: each is refused by its field or
answered, and a correct one is answered right after it."""

from __future__ import annotations

import asyncio
import copy
import json
import random
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest

from tests.models.learnt import DARK, SUM, conversation_of
from tests.serve.api.conftest import Server
from tests.serve.api.test_robust import answers_right
from whorl.serve.api.served import merged
from whorl.serve.requests import EngineEvent, EngineRequest

COUNT, BATCH = 170, 5  # broken bodies of each route, and of them between two correct ones
SAMPLING = {
    "temperature": 0, "top_p": 0.9, "top_k": 5, "min_p": 0.0, "seed": 1, "n": 1, "max_tokens": 2,
    "presence_penalty": 0.0, "frequency_penalty": 0.0, "repetition_penalty": 1.0, "logit_bias": {"5": 1},
    "stop": ["zz", "yy"], "stream": True, "stream_options": {"include_usage": True}, "priority": 0,
    "ignore_eos": False, "user": "u",
}  # fmt: skip
SCHEMA = {"type": "object", "properties": {"n": {"type": "integer", "minimum": 0, "maximum": 99}},
          "required": ["n"], "additionalProperties": False}  # fmt: skip
CALL = {
    "id": "c1",
    "type": "function",
    "function": {"name": "calculator", "arguments": '{"expression": "2"}'},
}
BASES: dict[str, dict[str, Any]] = {
    "chat/completions": {
        "model": "knows", **SAMPLING, "logprobs": True, "top_logprobs": 2,
        "messages": [
            {"role": "system", "content": "Be kind."},
            *(message.to_openai() for message in conversation_of("and", DARK, "Shade?").messages),
            {"role": "assistant", "content": "", "tool_calls": [CALL], "reasoning_content": "so"},
            {"role": "tool", "tool_call_id": "c1", "name": "calculator", "content": "2"},
        ],
        "tools": list(SUM.tools), "tool_choice": "auto", "chat_template_kwargs": {},
        "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}},
    },
    "completions": {"model": "knows", **SAMPLING, "prompt": [[5, 9, 11], [7]], "logprobs": 2, "echo": False},
    "embeddings": {"model": "knows", "input": [[5, 9, 11], [7]], "encoding_format": "float"},
}  # fmt: skip
WRONG: list[Any] = [
    None, True, -1, 0, 2**31, 2**63, 10**30, 0.5, float("inf"), "", "x", "\ud800", "é\udfff", "9" * 5000,
    "x" * 200_000, [], {}, [None], [[[]]], {"a": {}}, {"\ud800": 1}, {"x-guidance": {"lenient": True}},
    [10**20], [-1], [1e300],
]  # fmt: skip


def places(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in items:
        yield (*place, key)
        yield from places(one, (*place, key))


def broken(base: dict[str, Any], draw: random.Random) -> bytes:
    """The body with one change: a value put in the place of another, put beside it, left out, or
    wrapped; or a few of its bytes changed."""
    body = copy.deepcopy(base)
    place = draw.choice(list(places(body)))
    holder = body
    for key in place[:-1]:
        holder = holder[key]
    how = draw.choice(["replace"] * 6 + ["beside", "leave out", "wrap", "deep", "bytes"])
    wrong = copy.deepcopy(draw.choice(WRONG))
    if how == "replace":
        holder[place[-1]] = wrong
    elif how == "leave out":
        del holder[place[-1]]
    elif how == "wrap":
        holder[place[-1]] = [holder[place[-1]]]
    elif how == "deep":
        holder[place[-1]], depth = "DEEP", draw.choice([20, 150, 3000])
        return json.dumps(body).replace('"DEEP"', "[" * depth + "]" * depth).encode()
    elif how == "beside" and isinstance(holder, list):
        holder.insert(place[-1], wrong)
    elif how == "beside":
        holder["surprise"] = wrong
    raw = bytearray(json.dumps(body).encode())
    if how == "bytes":
        for _ in range(draw.randint(1, 4)):
            at = draw.randrange(len(raw))
            raw[at : at + draw.randint(0, 9)] = draw.randbytes(draw.randint(0, 5))
    return bytes(raw)


def post(client: httpx.Client, route: str, content: bytes) -> httpx.Response:
    return client.post(f"/v1/{route}", content=content, headers={"content-type": "application/json"})


def check_answer(answer: httpx.Response, body: bytes) -> None:
    assert answer.status_code in (200, 400, 404), (body[:2000], answer.text)
    if answer.status_code == 200:
        # A stream has its status before its errors: what is refused is refused before.
        assert '"error"' not in answer.text, (body[:2000], answer.text[-1000:])
        return
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"} and "\n" not in error["message"]
    assert error["message"] and "/" not in (error["param"] or "")


@pytest.mark.parametrize("route", BASES)
def test_one_thing_wrong(server: Server, route: str) -> None:
    draw = random.Random(0)
    seen = {200: 0, 400: 0, 404: 0}
    with httpx.Client(base_url=server.address, timeout=30) as client:
        base = post(client, route, json.dumps(BASES[route]).encode())
        assert base.status_code == 200 and '"error"' not in base.text, base.text
        for number in range(COUNT):
            body = broken(BASES[route], draw)
            answer = post(client, route, body)
            check_answer(answer, body)
            seen[answer.status_code] += 1
            if number % BATCH == 0:
                answers_right(server.address)
    assert seen[400] > COUNT / 2 and seen[200] > 0, seen


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize(
    ("route", "more", "param"),
    [
        ("completions", {"prompt": [10**20]}, "prompt"),
        ("completions", {"prompt": [[5], [100_000]]}, "prompt"),
        ("completions", {"prompt": [True]}, "prompt"),
        ("completions", {"prompt": "a\ud800"}, "prompt"),
        ("completions", {"prompt": "x" * 5_000_000}, "prompt"),
        ("completions", {"prompt": list(range(400)) * 2}, "prompt"),
        ("completions", {"prompt": [[1]] * 1_000_000}, None),
        ("completions", {"max_tokens": 10**20}, "max_tokens"),
        ("completions", {"top_k": 10**20}, "top_k"),
        ("completions", {"stop": "\ud800"}, "stop"),
        ("embeddings", {"input": [10**20]}, "input"),
        ("embeddings", {"input": [["a"], 5]}, "input"),
        ("chat/completions", {"messages": [{"role": "user", "content": "\ud800"}]}, "messages"),
        ("chat/completions", {"messages": [{"role": "user", "content": "x", "name": 2**64}]}, "messages"),
        ("chat/completions", {"messages": [{"role": "user", "content": "x" * 5_000_000}]}, "messages"),
        ("chat/completions", {"guided_regex": "\ud800"}, "guided_regex"),
        ("chat/completions", {"guided_regex": "("}, "guided_regex"),
        ("chat/completions", {"guided_grammar": "start: nowhere"}, "guided_grammar"),
        ("chat/completions", {"chat_template_kwargs": {"x": 10**20}}, "chat_template_kwargs"),
        ("chat/completions", {"chat_template_kwargs": {"tokenize": True}}, "chat_template_kwargs"),
        ("chat/completions", {"tools": [{"type": "function"}]}, "tools"),
        ("chat/completions", {"tools": [{"function": {"name": "f", "maximum": 10**30}}]}, "tools"),
    ],
    ids=lambda value: str(value)[:40],
)  # fmt: skip
def test_the_field_is_named(
    server: Server, route: str, more: dict[str, Any], param: str | None, stream: bool
) -> None:
    plain = {name: value for name, value in BASES[route].items() if name in ("model", "input", "prompt")}
    plain |= {"messages": [{"role": "user", "content": "x"}]} if route == "chat/completions" else {}
    plain |= {"stream": True} if stream and route != "embeddings" else {}
    with httpx.Client(base_url=server.address, timeout=30) as client:
        answer = post(client, route, json.dumps(plain | more).encode())
        assert answer.status_code == 400, answer.text
        assert answer.json()["error"]["param"] == param, answer.text
    answers_right(server.address)


class Failing:
    """An engine's client whose second request cannot be sent."""

    async def generate(self, request: EngineRequest) -> AsyncIterator[EngineEvent]:
        if request.id == "1":
            raise OverflowError("too large for the wire")
        yield EngineEvent(id=request.id)
        await asyncio.sleep(3600)


def test_what_one_of_several_requests_raises_ends_them_all() -> None:
    async def read() -> list[int]:
        requests = [EngineRequest(id=str(number), ids=(1,)) for number in range(3)]
        return [place async for place, _ in merged(Failing(), requests)]  # type: ignore[arg-type]

    with pytest.raises(OverflowError, match="too large"):
        asyncio.run(asyncio.wait_for(read(), 20))
