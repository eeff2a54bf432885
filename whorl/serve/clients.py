"""The two ways to an engine: in a thread of this process, or in a worker process that is started again
when it dies."""

from __future__ import annotations

import asyncio
import itertools
import json
import queue
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Self

from whorl.base.errors import FaultError, InputError
from whorl.base.posix import start_with_socket
from whorl.base.progress import say
from whorl.serve.engine_config import EngineConfig
from whorl.serve.requests import EngineEvent, EngineHealth, EngineInfo, EngineRequest
from whorl.serve.wire import (
    Abort,
    Answer,
    Close,
    Events,
    Failed,
    Generate,
    LoadAdapter,
    Message,
    Ready,
    UnloadAdapter,
    encode,
    read_message,
)

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0  # seconds before a dead worker is started again; doubled each time
STOP_SECONDS = 5.0  # that a worker is given to leave
DOWN = "the engine is down and is being started again; try again in a moment"


class _Client:
    """What both forms share: open requests, calls that wait for their answer, the last health."""

    def __init__(self) -> None:
        self._open: dict[str, asyncio.Queue[EngineEvent]] = {}
        self._calls: dict[int, asyncio.Future[Answer]] = {}
        self._numbers = itertools.count(1)
        self._health = EngineHealth(status="starting")
        self._info: EngineInfo | None = None

    @property
    def info(self) -> EngineInfo:
        if self._info is None:
            raise FaultError("the engine has not started")
        return self._info

    async def health(self) -> EngineHealth:
        return self._health

    async def generate(self, request: EngineRequest) -> AsyncIterator[EngineEvent]:
        """See `EngineClient.generate`."""
        if request.id in self._open:
            yield EngineEvent(id=request.id, error=f"request id {request.id!r} is in use")
            return
        events: asyncio.Queue[EngineEvent] = asyncio.Queue()
        self._open[request.id] = events
        done = False
        try:
            if self._health.status == "down":
                done = True
                yield EngineEvent(id=request.id, error=DOWN, fault=True)
                return
            self._send(Generate(request))
            while not done:
                event = await events.get()
                done = event.last
                yield event
        finally:
            del self._open[request.id]
            if not done:
                self._send(Abort(request.id))

    async def abort(self, id: str) -> None:
        """End a request; its reader gets an error."""
        self._send(Abort(id))
        if id in self._open:
            self._open[id].put_nowait(EngineEvent(id=id, error="the request was aborted"))

    async def load_adapter(self, name: str, directory: str) -> str:
        return await self._call(LoadAdapter(next(self._numbers), name, directory))

    async def unload_adapter(self, name: str) -> None:
        await self._call(UnloadAdapter(next(self._numbers), name))

    async def _call(self, message: LoadAdapter | UnloadAdapter) -> str:
        if self._health.status != "ready":
            raise FaultError(DOWN)
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._calls[message.call] = answer
        self._send(message)
        got = await answer
        if got.error:
            raise InputError(got.error)
        return got.text

    def _send(self, message: Message) -> None:
        raise NotImplementedError

    def _received(self, message: Message) -> None:
        match message:
            case Ready(info):
                self._info = info
                self._health = replace(self._health, status="ready", reason="")
            case Events(events, health):
                self._health = replace(health, restarts=self._health.restarts)
                for event in events:
                    if event.id in self._open:
                        self._open[event.id].put_nowait(event)
            case Answer(call, _, _, info):
                self._info = info
                if (waiting := self._calls.pop(call, None)) is not None and not waiting.done():
                    waiting.set_result(message)

    def _fail_all(self, reason: str) -> None:
        """Nobody waits for an engine that is gone."""
        self._health = EngineHealth(status="down", reason=reason, restarts=self._health.restarts)
        for id, events in self._open.items():
            events.put_nowait(EngineEvent(id=id, error=f"{reason}; try again in a moment", fault=True))
        for waiting in self._calls.values():
            if not waiting.done():
                waiting.set_exception(FaultError(reason))
        self._calls.clear()


class InProcess(_Client):
    """The engine in a thread of this process: for tests, notebooks and short programs."""

    def __init__(self) -> None:
        super().__init__()
        self._inbox: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    @classmethod
    async def start(cls, model: str | Path, config: EngineConfig | None = None) -> Self:
        """Load the model directory; InputError says what is wrong with it."""
        from whorl.serve.engine import Engine
        from whorl.serve.engine_loop import run_engine

        loop = asyncio.get_running_loop()
        client = cls()
        engine = await asyncio.to_thread(Engine.start, model, config or EngineConfig())
        client._received(Ready(engine.info))

        def receive(message: Message) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(client._received, message)

        client._thread = threading.Thread(
            target=run_engine, args=(engine, client._inbox, receive), name="engine", daemon=True
        )
        client._thread.start()
        return client

    def _send(self, message: Message) -> None:
        self._inbox.put(message)

    async def close(self) -> None:
        self._fail_all("the engine is closed")
        self._inbox.put(Close())
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join)


class OutOfProcess(_Client):
    """The engine in a worker process. Where it dies, every open request ends at once with a fault, and
    another worker is started, ever more slowly while it keeps dying."""

    def __init__(self, model: str | Path, config: EngineConfig) -> None:
        super().__init__()
        self._command = [
            sys.executable, "-m", "whorl.serve.worker", "{socket}", str(Path(model).resolve()),
            json.dumps(config.model_dump(mode="json")),
        ]  # fmt: skip
        self._process: subprocess.Popen[bytes] | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._first: asyncio.Future[None] | None = None

    @classmethod
    async def start(cls, model: str | Path, config: EngineConfig | None = None) -> Self:
        """Start the worker and wait until it serves; InputError says what is wrong with the model."""
        client = cls(model, config or EngineConfig())
        client._first = asyncio.get_running_loop().create_future()
        client._keeper = asyncio.create_task(client._keep())
        try:
            await client._first
        except BaseException:
            await client.close()
            raise
        return client

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    def _send(self, message: Message) -> None:
        if self._writer is not None:
            self._writer.write(encode(message))

    async def _keep(self) -> None:
        """Run workers, one after another, until `close`."""
        pause = FIRST_PAUSE
        while True:
            failed = await self._run_one()
            assert self._process is not None and self._first is not None
            code = await asyncio.to_thread(self._process.wait)
            reason = failed or f"the engine's process ended with {_how(code)}"
            if not self._first.done():
                self._first.set_exception(InputError(failed) if failed else FaultError(reason))
                return
            pause = FIRST_PAUSE if self._health.status == "ready" else min(2 * pause, LONGEST_PAUSE)
            self._fail_all(reason)
            say(f"{reason}; starting another in {pause:.1f} s")
            await asyncio.sleep(pause)
            self._health = replace(self._health, restarts=self._health.restarts + 1)

    async def _run_one(self) -> str:
        """One worker, from its start to its end; returns why it could not start, if so."""
        self._process, ours = start_with_socket(self._command)
        reader, self._writer = await asyncio.open_connection(sock=ours)
        failed = ""
        while (message := await read_message(reader)) is not None:
            if isinstance(message, Failed):
                failed = message.error
                continue
            self._received(message)
            if isinstance(message, Ready) and self._first is not None and not self._first.done():
                self._first.set_result(None)
        writer, self._writer = self._writer, None
        writer.close()
        return failed

    async def close(self) -> None:
        """End the worker: asked first, killed if it does not leave."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        self._fail_all("the engine is closed")
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        if self._process is not None:
            try:
                await asyncio.to_thread(self._process.wait, STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()


def _how(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"
