"""Both ways to an engine give the same; a worker that dies is told of at once and started again."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.models.learnt import CALL, DARK, SUM, conversation_of, learnt_tokenizer, save_learnt
from tests.serve.test_engine import asked
from whorl.base.errors import DataError, InputError
from whorl.base.nouns import SamplingParams
from whorl.serve.clients import InProcess, OutOfProcess
from whorl.serve.engine_config import EngineConfig
from whorl.serve.requests import EngineEvent, EngineRequest
from whorl.serve.wire import HEADER, Generate, Message, decode, encode, read_frame

CONFIG = EngineConfig(memory=0.05, dtype="float32", device="cpu")
TOKENIZER = learnt_tokenizer()
Client = InProcess | OutOfProcess


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_learnt(tmp_path_factory.mktemp("learnt"))


async def ask(client: Client, request: EngineRequest) -> list[EngineEvent]:
    return [event async for event in client.generate(request)]


def text(events: list[EngineEvent]) -> str:
    return "".join(part.text for event in events for part in event.parts)


def with_client(kind: type[Client], directory: Path, work: Callable[[Client], Awaitable[None]]) -> None:
    async def run() -> None:
        client = await kind.start(directory, CONFIG)
        try:
            await work(client)
        finally:
            await client.close()

    asyncio.run(asyncio.wait_for(run(), 120))


LONG = EngineRequest(id="long", ids=(5, 6), params=SamplingParams(max_tokens=400, ignore_end=True))


@pytest.mark.parametrize("kind", [InProcess, OutOfProcess])
def test_replies_images_aborts_and_refusals(kind: type[Client], directory: Path) -> None:
    async def work(client: Client) -> None:
        assert client.info.images and client.info.context == 512
        dark = asked(conversation_of(DARK, "Shade?"), TOKENIZER, "dark")
        both = await asyncio.gather(ask(client, dark), ask(client, asked(SUM, TOKENIZER, "sum")))
        assert text(both[0]) == "dark" and text(both[1]).startswith(CALL.name)
        refused = await ask(client, EngineRequest(id="empty", ids=()))
        assert "empty" in refused[-1].error
        generation = client.generate(LONG)
        first = await anext(generation)
        assert first.tokens and not first.last
        await generation.aclose()
        assert text(await ask(client, dark)) == "dark"
        for _ in range(100):
            health = await client.health()
            if health.running == 0 and health.pages_free == health.pages_total:
                break
            await asyncio.sleep(0.02)
        assert health.status == "ready" and health.pages_free == health.pages_total
        with pytest.raises(InputError, match=r"adapter config|adapter_config"):
            await client.load_adapter("none", str(directory))

    with_client(kind, directory, work)


def test_a_killed_worker_is_told_of_at_once_and_started_again(directory: Path) -> None:
    async def work(client: Client) -> None:
        assert isinstance(client, OutOfProcess)
        waiting = asyncio.create_task(ask(client, LONG))
        await asyncio.sleep(0.2)
        assert client.pid is not None
        first = client.pid
        os.kill(first, signal.SIGKILL)
        events = await asyncio.wait_for(waiting, 5)
        assert events[-1].fault and "signal 9" in events[-1].error
        assert (await client.health()).status == "down"
        assert (await ask(client, LONG))[-1].fault, "said at once, not waited for"
        while (await client.health()).status != "ready":
            await asyncio.sleep(0.05)
        health = await client.health()
        assert health.restarts == 1 and client.pid != first
        dark = asked(conversation_of(DARK, "Shade?"), TOKENIZER, "dark")
        assert text(await ask(client, dark)) == "dark"

    with_client(OutOfProcess, directory, work)


def test_a_worker_that_cannot_start_says_why(tmp_path: Path) -> None:
    async def run() -> None:
        with pytest.raises(InputError, match=r"no config\.json"):
            await OutOfProcess.start(tmp_path, CONFIG)

    asyncio.run(asyncio.wait_for(run(), 60))


def test_the_worker_leaves_with_its_client(directory: Path) -> None:
    pids: list[int | None] = []

    async def work(client: Client) -> None:
        assert isinstance(client, OutOfProcess)
        pids.append(client.pid)

    with_client(OutOfProcess, directory, work)
    assert pids[0] is not None
    with pytest.raises(ProcessLookupError):
        os.kill(pids[0], 0)


# -- frames ---------------------------------------------------------------------------------------


def test_a_request_with_images_comes_through_whole() -> None:
    request = asked(conversation_of(DARK, "Shade?"), TOKENIZER, "x", grammar="start: /a/", number=1 << 62)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(encode(Generate(request)))
        ours.close()
        message = read_frame(theirs)
        assert isinstance(message, Generate) and read_frame(theirs) is None
    for image, given_image in zip(message.request.images, request.images, strict=True):
        np.testing.assert_array_equal(image.pixels, given_image.pixels)
        assert tuple(image.grid) == given_image.grid
    assert message.request.ids == request.ids and message.request.params == request.params


@given(st.binary(max_size=200))
def test_what_is_no_message_is_refused(body: bytes) -> None:
    try:
        assert isinstance(decode(body), Message)
    except DataError as error:
        assert "no message" in str(error)


def test_a_frame_over_the_limit_is_not_read() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(HEADER.pack((1 << 32) - 1))
        with pytest.raises(DataError, match="over the limit"):
            read_frame(theirs)
