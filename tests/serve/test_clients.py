"""Both ways to an engine give the same; a worker that dies is told of at once and started again."""

from __future__ import annotations

import asyncio
import json
import os
import queue
import signal
import socket
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.models.learnt import CALL, DARK, SUM, conversation_of, learnt_tokenizer, save_learnt
from tests.serve.test_engine import asked
from whorl.base.errors import DataError, FaultError, InputError
from whorl.base.nouns import SamplingParams
from whorl.models import load
from whorl.models.config import LoraConfig
from whorl.models.lora import adapters, inject, save_adapter
from whorl.serve import clients
from whorl.serve.clients import InProcess, OutOfProcess
from whorl.serve.engine import Engine
from whorl.serve.engine_config import EngineConfig
from whorl.serve.requests import EngineEvent, EngineHealth, EngineRequest
from whorl.serve.wire import HEADER, Abort, Close, Generate, Message, decode, encode, read_frame
from whorl.serve.worker import Inbox, Outbox, _read, _write

CONFIG = EngineConfig(memory=0.05, dtype="float32", device="cpu")
TOKENIZER = learnt_tokenizer()
Client = InProcess | OutOfProcess


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_learnt(tmp_path_factory.mktemp("learnt"))


async def ask(client: Client, request: EngineRequest) -> list[EngineEvent]:
    return [event async for event in client.generate(request)]


async def underway(client: Client, request: EngineRequest) -> asyncio.Task[list[EngineEvent]]:
    """The events of a request whose first token has come."""
    begun, events = asyncio.Event(), []

    async def collect() -> list[EngineEvent]:
        async for event in client.generate(request):
            events.append(event)
            begun.set()
        return events

    task = asyncio.create_task(collect())
    await begun.wait()
    return task


def text(events: list[EngineEvent]) -> str:
    return "".join(part.text for event in events for part in event.parts)


def with_client(kind: type[Client], directory: Path, work: Callable[[Client], Awaitable[None]]) -> None:
    async def run() -> None:
        client = await kind.start(directory, CONFIG)
        try:
            await work(client)
        finally:
            await client.close()

    asyncio.run(asyncio.wait_for(run(), 280))


RANKS = {"given": 2, "kept": 3, "dropped": 2, "gone": 2, "changed": 4}


def saved_adapter(model: Path, folder: Path, rank: int) -> Path:
    adapted = inject(load(model), LoraConfig(rank=rank, alpha=8.0), seed=rank)
    for _, adapter in adapters(adapted):
        torch.nn.init.normal_(adapter.lora_b.weight, std=0.2, generator=torch.Generator().manual_seed(rank))
    save_adapter(adapted, folder)
    return folder


DARK_ASKED = asked(conversation_of(DARK, "Shade?"), TOKENIZER, "dark")
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
        waiting = await underway(client, LONG)
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


async def back(client: OutOfProcess, restarts: int) -> EngineHealth:
    """The health once the worker has been started again so often and serves."""
    while True:
        health = await client.health()
        if health.restarts == restarts and health.status == "ready":
            return health
        await asyncio.sleep(0.05)


def test_a_worker_that_does_not_run_is_told_of_and_replaced(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stopped process keeps its socket open and never says that it has ended."""
    monkeypatch.setattr(clients, "SILENT_LOOKS", 5)

    async def work(client: Client) -> None:
        assert isinstance(client, OutOfProcess) and client.pid is not None
        await asyncio.sleep(1.5)  # beats come, with nothing asked
        assert (await client.health()).status == "ready"
        waiting = await underway(client, LONG)
        os.kill(client.pid, signal.SIGSTOP)
        last = (await waiting)[-1]
        assert last.fault and "has not answered for 5 s" in last.error
        health = await client.health()
        assert health.status == "down" and "not answered" in health.reason
        await back(client, 1)
        assert text(await ask(client, DARK_ASKED)) == "dark"

    with_client(OutOfProcess, directory, work)


def test_a_step_that_never_ends_is_ended(directory: Path) -> None:
    """Here it is one that takes long: the engine is told that a thousandth of a second is a hang."""

    async def run() -> None:
        client = await OutOfProcess.start(directory, CONFIG.model_copy(update={"step_seconds": 1e-6}))
        try:
            events: list[EngineEvent] = []
            while not (events and events[-1].fault):  # until a beat has fallen into a step
                events = await ask(client, LONG)
            assert "one step of the engine has taken over" in events[-1].error
            assert (await client.health()).status == "down"
            await back(client, 1)
        finally:
            await client.close()

    asyncio.run(asyncio.wait_for(run(), 280))


def test_adapters_outlive_the_worker(
    directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = {name: saved_adapter(directory, tmp_path / name, rank) for name, rank in RANKS.items()}
    given = {name: str(folders[name]) for name in ("given", "dropped")}

    async def run() -> None:
        client = await OutOfProcess.start(directory, CONFIG.model_copy(update={"adapters": given}))
        try:
            for name in ("kept", "gone", "changed"):
                await client.load_adapter(name, str(folders[name]))
            await client.unload_adapter("dropped")
            versions, asked_for = dict(client.info.adapters), replace(LONG, id="kept", adapter="kept")
            reply = [event.tokens for event in await ask(client, asked_for)]
            (folders["gone"] / "adapter_config.json").unlink()
            saved_adapter(directory, folders["changed"], rank=5)
            assert client.pid is not None
            os.kill(client.pid, signal.SIGKILL)
            await back(client, 1)
            found = client.info.adapters
            assert set(found) == {"given", "kept", "changed"}
            assert found["given"] == versions["given"] and found["kept"] == versions["kept"]
            assert found["changed"] != versions["changed"]
            assert [event.tokens for event in await ask(client, asked_for)] == reply
        finally:
            await client.close()

    asyncio.run(asyncio.wait_for(run(), 280))
    said = capsys.readouterr().err
    assert "adapter 'gone' is gone" in said and "adapter_config.json does not exist" in said
    assert "adapter 'changed' has changed on disk" in said


def test_an_adapter_that_is_none_costs_nobody_anything(directory: Path, tmp_path: Path) -> None:
    folder = saved_adapter(directory, tmp_path / "a", 2)
    file = folder / "adapter_config.json"
    whole = json.loads(file.read_text())
    broken = {
        "regular expression": {"rank_pattern": {"(": 3}}, "rank_pattern": {"rank_pattern": [1]},
        "lora_dropout": {"lora_dropout": 5}, "alpha_pattern": {"alpha_pattern": {"q_proj": "x"}},
    }  # fmt: skip

    async def work(client: Client) -> None:
        for said, change in broken.items():
            file.write_text(json.dumps(whole | change))
            with pytest.raises(InputError, match=said):
                await client.load_adapter("a", str(folder))
        with pytest.raises(InputError, match="not a folder"):
            await client.load_adapter("a", str(file))
        file.write_text(json.dumps(whole))
        await client.load_adapter("a", str(folder))
        health = await client.health()
        assert (health.status, health.restarts) == ("ready", 0) and set(client.info.adapters) == {"a"}

    with_client(InProcess, directory, work)


def test_what_goes_wrong_with_an_adapter_is_an_answer(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(engine: Engine, name: str, folder: str) -> str:
        raise RuntimeError("out of\nmemory")

    async def work(client: Client) -> None:
        with pytest.raises(FaultError, match="RuntimeError: out of memory"):
            await client.load_adapter("a", "somewhere")
        assert text(await ask(client, DARK_ASKED)) == "dark"

    monkeypatch.setattr(Engine, "load_adapter", broken)
    with_client(InProcess, directory, work)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_engine_s_thread_that_ends_is_told_of(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(engine: Engine) -> list[EngineEvent]:
        raise RuntimeError("no more steps")

    async def work(client: Client) -> None:
        monkeypatch.setattr(Engine, "step", broken)
        waiting = [asyncio.create_task(ask(client, replace(LONG, id=str(n)))) for n in range(2)]
        for task in waiting:
            last = (await asyncio.wait_for(task, 30))[-1]
            assert last.fault and "the engine has stopped: RuntimeError: no more steps" in last.error
        health = await client.health()
        assert health.status == "down" and "no more steps" in health.reason
        assert (await ask(client, LONG))[-1].fault, "said at once, not waited for"
        with pytest.raises(FaultError, match="no more steps"):
            await client.load_adapter("a", str(directory))

    with_client(InProcess, directory, work)


def test_health_follows_a_long_prompt(directory: Path) -> None:
    async def work(client: Client) -> None:
        prompt = EngineRequest(id="p", ids=tuple(range(5, 105)) * 4, params=SamplingParams(max_tokens=1))
        waiting = asyncio.create_task(ask(client, prompt))
        seen: set[float] = set()
        while not waiting.done():
            seen.add((await client.health()).counters.get("prompt_tokens", 0.0))
            await asyncio.sleep(0.0005)
        assert len(seen) > 10, "every chunk is seen"

    async def run() -> None:
        client = await InProcess.start(directory, CONFIG.model_copy(update={"budget": 16, "most": 4}))
        try:
            await work(client)
        finally:
            await client.close()

    asyncio.run(asyncio.wait_for(run(), 280))


def test_a_keeper_that_fails_is_told_of(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(client: Client) -> None:
        assert isinstance(client, OutOfProcess)
        waiting = await underway(client, LONG)

        async def broken() -> str:
            raise ValueError("a mistake")

        monkeypatch.setattr(client, "_how_it_ended", broken)
        assert client.pid is not None
        os.kill(client.pid, signal.SIGKILL)
        last = (await asyncio.wait_for(waiting, 30))[-1]
        assert last.fault and "given up: ValueError: a mistake" in last.error
        assert (await client.health()).status == "down"

    with_client(OutOfProcess, directory, work)


UNSENDABLE = {
    "long ids": {"ids": (10**30,)},
    "long number": {"number": 1 << 70},
    "top_k": {"params": SamplingParams(top_k=10**30)},
    "stop": {"params": SamplingParams(stop=("\ud800",))},
    "adapter": {"adapter": "a\ud800"},
}


def test_what_does_not_go_into_a_frame_is_its_request_s_mistake(directory: Path) -> None:
    async def work(client: Client) -> None:
        for fields in UNSENDABLE.values():
            with pytest.raises(InputError, match=r"Unicode|cannot be sent"):
                await ask(client, replace(LONG, **fields))
            assert text(await ask(client, replace(DARK_ASKED, id=LONG.id))) == "dark"
        with pytest.raises(InputError, match="Unicode"):
            await client.load_adapter("a\ud800", "x")
        assert (await client.health()).restarts == 0
        # What is no frame at all ends the worker, whose reader cannot know where the next one begins.
        assert isinstance(client, OutOfProcess) and client._writer is not None
        waiting = await underway(client, LONG)
        client._writer.write(HEADER.pack(3) + b"abc")
        assert (await waiting)[-1].fault
        await back(client, 1)
        assert text(await ask(client, DARK_ASKED)) == "dark"

    with_client(OutOfProcess, directory, work)


@pytest.mark.parametrize("end", ["reader", "writer"])
def test_a_worker_whose_thread_fails_closes_its_socket(end: str) -> None:
    ours, theirs = socket.socketpair()
    inbox: Inbox = queue.SimpleQueue()
    outbox: Outbox = queue.SimpleQueue()
    with ours, theirs:
        if end == "reader":
            ours.sendall(HEADER.pack(1) + b"\xff")
            with pytest.raises(DataError):
                _read(theirs, inbox)
            assert isinstance(inbox.get(timeout=1), Close)
        else:
            outbox.put(Abort("\ud800"))
            with pytest.raises(InputError):
                _write(theirs, outbox)
            assert ours.recv(1) == b"", "the other side sees the end"
            _read(theirs, inbox)
            assert isinstance(inbox.get(timeout=1), Close), "and so does the reader"


def test_a_worker_that_cannot_start_says_why(tmp_path: Path) -> None:
    async def run() -> None:
        with pytest.raises(InputError, match=r"no config\.json"):
            await OutOfProcess.start(tmp_path, CONFIG)

    asyncio.run(asyncio.wait_for(run(), 280))


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
        assert "not a message" in str(error)


def test_a_frame_over_the_limit_is_not_read() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(HEADER.pack((1 << 32) - 1))
        with pytest.raises(DataError, match="over the limit"):
            read_frame(theirs)
