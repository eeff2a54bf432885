"""The client of OpenAI's protocol: against Whorl's own server, and against servers that misbehave."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from whorl.base.client import OpenAIClient, whole
from whorl.base.errors import FaultError, InputError, WhorlError
from whorl.base.nouns import Conversation, Message, SamplingParams, ToolCall

ASK = Conversation(messages=(Message(role="user", content=("hello",)),))
PARAMS = SamplingParams(max_tokens=9)


def chunk(**delta: Any) -> str:
    return "data: " + json.dumps({"choices": [{"index": 0, "delta": delta, "finish_reason": None}]}) + "\n\n"


END = "data: " + json.dumps({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}) + "\n\n"


def call(index: int, **function: str) -> dict[str, Any]:
    return {"index": index, "function": function} | ({"id": f"c{index}"} if "name" in function else {})


GOOD = [
    ": a comment\n\n", chunk(role="assistant"), chunk(reasoning_content="hm"),
    chunk(content="hé"), chunk(content="llo"),
    chunk(tool_calls=[call(0, name="add", arguments="")]), chunk(tool_calls=[call(0, arguments='{"a"')]),
    chunk(tool_calls=[call(1, name="bad", arguments="{oops")]), chunk(tool_calls=[call(0, arguments=": 1}")]),
]  # fmt: skip
TOLD = {"error": {"message": "the worker\ndied"}}
STREAMS: dict[str, list[str]] = {
    "good": [*GOOD, "data: [DONE]\n\n"],
    "no done": [*GOOD, END],
    "no end": GOOD,
    "broken off": [GOOD[3], f"data: {json.dumps(TOLD)}\n\n"],
    "no json": ["data: {nope\n\n"],
    "other shape": ['data: {"choices": [{"text": "x"}]}\n\n'],
}


async def chat(request: Request) -> Response:
    body = await request.json()
    kind = body["model"]
    if kind == "busy" and request.app.state.busy:
        request.app.state.busy -= 1
        return JSONResponse({"error": {"message": "full"}}, 429, headers={"retry-after": "0.01"})
    if kind == "key":
        return JSONResponse({"error": {"message": "bad key"}}, 401)
    if kind == "page":
        return PlainTextResponse("<html>", 200)
    if kind == "crash":
        return PlainTextResponse("Internal\nServer Error", 500)

    async def frames() -> Any:
        for text in STREAMS.get(kind, STREAMS["good"]):
            for at in range(0, len(text.encode()), 3):  # cut anywhere, in the middle of characters too
                yield text.encode()[at : at + 3]
                await asyncio.sleep(0)

    return StreamingResponse(frames(), media_type="text/event-stream")


async def models(_: Request) -> Response:
    return JSONResponse({"data": [{"id": name} for name in ("good", "other")]})


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    app = Starlette(
        routes=[Route("/v1/chat/completions", chat, methods=["POST"]), Route("/v1/models", models)]
    )
    app.state.busy = 2
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", lifespan="off"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        thread.join(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join()


def run(address: str, work: Callable[[OpenAIClient], Awaitable[Any]], model: str = "good") -> Any:
    async def inside() -> Any:
        async with OpenAIClient(address, model=model) as client:
            return await asyncio.wait_for(work(client), 30)

    return asyncio.run(inside())


@pytest.mark.parametrize("kind", ["good", "no done", "busy"])
def test_a_stream_is_put_together_however_it_is_cut(address: str, kind: str) -> None:
    message, _, _ = run(address, lambda client: whole(client.chat(ASK, PARAMS)), kind)
    assert message == Message(
        role="assistant", content=("hébad({oops)".replace("hé", "héllo"),), reasoning="hm",
        tool_calls=(ToolCall(name="add", arguments={"a": 1}, id="c0"),),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "error", "said"),
    [
        ("no end", FaultError, "closed the stream before the reply was complete"),
        ("broken off", FaultError, "stopped with an error: the worker died"),
        ("no json", FaultError, "streamed something other than JSON"),
        ("other shape", FaultError, "do not follow the OpenAI"),
        ("key", InputError, "rejects the key"),
        ("crash", FaultError, "failed with 500: Internal Server Error"),
    ],
)
def test_what_goes_wrong_is_one_line(address: str, kind: str, error: type[WhorlError], said: str) -> None:
    with pytest.raises(error, match=said) as raised:
        run(address, lambda client: whole(client.chat(ASK, PARAMS)), kind)
    assert "\n" not in str(raised.value)


def test_addresses_that_are_none(address: str) -> None:
    with pytest.raises(InputError, match="must start with http"):
        OpenAIClient("localhost:8000")
    with pytest.raises(FaultError, match="is the server running"):
        run("http://127.0.0.1:9", lambda client: client.models())
    with pytest.raises(InputError, match="it serves good, other"):
        run(address, lambda client: client.connect(), "unknown")
    with pytest.raises(FaultError, match="other than JSON"):
        run(address, lambda client: client.reply(ASK, PARAMS), "page")

    async def first(client: OpenAIClient) -> str:
        await client.connect()
        return client.model

    assert run(f"{address}/v1/", first, "") == "good"
