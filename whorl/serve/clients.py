"""The two ways to an engine: in a thread of this process, or in a worker process that is started again
when it dies."""

from __future__ import annotations

import asyncio
import json
import queue
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Self

from whorl.base.errors import DataError, FaultError, InputError, WhorlError, one_line
from whorl.base.posix import start_with_socket
from whorl.base.progress import say
from whorl.serve.client_base import BaseClient, LoadedAdapter
from whorl.serve.engine_config import EngineConfig
from whorl.serve.requests import EngineHealth
from whorl.serve.wire import Beat, Close, Failed, LoadAdapter, Message, Ready, encode, read_message

if TYPE_CHECKING:
    from whorl.serve.engine import Engine
    from whorl.serve.engine_loop import Pulse

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0  # seconds before a dead worker is started again; doubled each time
STOP_SECONDS = 5.0  # that a worker is given to leave
EXIT_SECONDS = 0.5  # that a worker whose socket has closed is given to say how it ended
WATCH_SECONDS = 1.0
# Looks in a row that find no message of a worker, which beats every second: then it does not run any more.
# Looks are counted and not seconds, so that a program that slept itself blames nobody.
SILENT_LOOKS = 10


class InProcess(BaseClient):
    """The engine in a thread of this process: for tests, notebooks and short programs."""

    def __init__(self, pulse: Pulse, step_seconds: float) -> None:
        super().__init__()
        self._inbox: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._pulse, self._step_seconds = pulse, step_seconds
        self._thread: threading.Thread | None = None

    @classmethod
    async def start(cls, model: str | Path, config: EngineConfig | None = None) -> Self:
        """Load the model directory; InputError says what is wrong with it."""
        from whorl.serve.engine import Engine
        from whorl.serve.engine_loop import Pulse

        config = config or EngineConfig()
        client = cls(Pulse(), config.step_seconds)
        engine = await asyncio.to_thread(Engine.start, model, config)
        client._received(Ready(engine.info))
        client._thread = threading.Thread(
            target=client._run, args=(engine, asyncio.get_running_loop()), name="engine", daemon=True
        )
        client._thread.start()
        return client

    def _run(self, engine: Engine, loop: asyncio.AbstractEventLoop) -> None:
        from whorl.serve.engine_loop import run_engine

        def receive(message: Message) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(self._received, message)

        try:
            run_engine(engine, self._inbox, receive, self._pulse)
        except BaseException as error:  # told to those who wait, then shown as any thread's end is
            reason = f"the engine has stopped: {type(error).__name__}: {one_line(error)}"
            if not loop.is_closed():
                loop.call_soon_threadsafe(self._fail_all, reason)
            raise

    async def health(self) -> EngineHealth:
        seconds = self._pulse.seconds
        if self._health.status == "ready" and seconds > self._step_seconds:
            return replace(
                self._health, status="down", reason=f"one step has been running for {seconds:.0f} s so far"
            )
        return self._health

    def _send(self, message: Message) -> None:
        self._inbox.put(message)

    async def close(self) -> None:
        self._fail_all("the engine is closed")
        self._inbox.put(Close())
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join)


class OutOfProcess(BaseClient):
    """The engine in a worker process. Where it dies, or no longer answers, every open request ends at once
    with a fault, and another worker is started, ever more slowly while it keeps dying. Adapters that were
    loaded are loaded again."""

    def __init__(self, model: str | Path, config: EngineConfig) -> None:
        super().__init__()
        self._model, self._config = str(Path(model).resolve()), config
        self._process: subprocess.Popen[bytes] | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._greeting: asyncio.Task[None] | None = None
        self._first: asyncio.Future[None] | None = None
        self._silent = 0  # looks in a row without a message
        self._served = False  # whether the worker at hand has been ready
        self._gave_up = ""  # why it is ended, where it does not end by itself

    @classmethod
    async def start(cls, model: str | Path, config: EngineConfig | None = None) -> Self:
        """Start the worker and wait until it serves; InputError says what is wrong with the model."""
        client = cls(model, config or EngineConfig())
        client._first = asyncio.get_running_loop().create_future()
        client._keeper = asyncio.create_task(client._keep())
        client._keeper.add_done_callback(client._kept)
        try:
            await client._first
        except BaseException:
            await client.close()
            raise
        return client

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    @property
    def down(self) -> str:
        return f"{super().down}; it is being restarted; retry shortly"

    def _send(self, message: Message) -> None:
        frame = encode(message)
        if self._writer is not None:
            self._writer.write(frame)

    # -- one worker after another -----------------------------------------------------------------

    async def _keep(self) -> None:
        """Run workers, one after another, until `close`."""
        assert self._first is not None
        pause = FIRST_PAUSE
        while True:
            self._served, self._gave_up = False, ""
            try:
                failed = await self._run_one()
                ended = f"the engine's process ended with {await self._how_it_ended()}"
                reason = self._gave_up or failed or ended
            except OSError as error:  # no process or no socket to be had: it may be otherwise in a moment
                failed, reason = "", f"the engine's process cannot be started: {one_line(error)}"
            if not self._first.done():
                self._first.set_exception(InputError(failed) if failed else FaultError(reason))
                return
            self._fail_all(reason)
            await self._end_process()
            pause = FIRST_PAUSE if self._served else min(2 * pause, LONGEST_PAUSE)
            say(f"{reason}; starting a new one in {pause:.1f} s")
            await asyncio.sleep(pause)
            self._health = replace(self._health, restarts=self._health.restarts + 1)

    def _kept(self, keeper: asyncio.Task[None]) -> None:
        """Nobody waits for the keeper: where it ends by an error, all are told."""
        if keeper.cancelled() or (error := keeper.exception()) is None:
            return
        reason = f"the engine is given up: {type(error).__name__}: {one_line(error)}"
        self._give_up(reason)
        say(f"{reason}; restart this program")
        if self._first is not None and not self._first.done():
            self._first.set_exception(FaultError(reason))

    async def _run_one(self) -> str:
        """One worker, from its start until its socket closes; returns why it could not start, if so."""
        self._process, ours = start_with_socket(self._command())
        reader, self._writer = await asyncio.open_connection(sock=ours)
        watch: asyncio.Task[None] | None = None
        failed = ""
        try:
            while (message := await read_message(reader)) is not None:
                self._silent = 0
                match message:
                    case Failed(error):
                        failed = error
                    case Ready():
                        watch = asyncio.create_task(self._watch())
                        self._greeting = asyncio.create_task(self._greet(message))
                        self._greeting.add_done_callback(self._greeted)
                    case Beat(_, seconds) if seconds > self._config.step_seconds:
                        self._give_up(f"one step of the engine has taken over {seconds:.0f} s")
                    case _:
                        self._received(message)
        except DataError as error:
            self._give_up(f"the engine's process writes what cannot be read: {error}")
        finally:
            if watch is not None:
                watch.cancel()
            writer, self._writer = self._writer, None
            writer.close()
        return failed

    def _command(self) -> list[str]:
        """The first worker loads the configured adapters; later ones are told what is loaded by then."""
        config = self._config
        if self._first is None or self._first.done():
            config = config.model_copy(update={"adapters": {}})
        return [
            sys.executable, "-m", "whorl.serve.worker", "{socket}", self._model,
            json.dumps(config.model_dump(mode="json")),
        ]  # fmt: skip

    async def _greet(self, ready: Ready) -> None:
        """A worker has come up: it serves when it has the adapters that were loaded before."""
        assert self._first is not None
        if not self._first.done():
            for name, directory in self._config.adapters.items():
                self._adapters[name] = LoadedAdapter(directory, ready.info.adapters[name])
            self._first.set_result(None)
        else:
            self._info = ready.info
            for name, known in list(self._adapters.items()):
                await self._load_again(name, known)
        self._received(Ready(self._info or ready.info))
        self._served = True

    def _greeted(self, greeting: asyncio.Task[None]) -> None:
        if not greeting.cancelled() and (error := greeting.exception()) is not None:
            self._give_up(f"the engine did not start: {type(error).__name__}: {one_line(error)}")

    async def _load_again(self, name: str, known: LoadedAdapter) -> None:
        try:
            version = await self._call(LoadAdapter(next(self._numbers), name, known.directory))
        except WhorlError as error:
            say(f"adapter {name!r} is gone: it could not be reloaded: {error}")
            self._adapters.pop(name, None)
        else:
            if version != known.version:
                say(f"adapter {name!r} has changed on disk: it was {known.version}, it is {version}")

    # -- whether it lives ---------------------------------------------------------------------------

    async def _watch(self) -> None:
        """End a worker that is silent: stopped, swapped out or wedged, its socket stays open."""
        self._silent = 0
        while self._silent < SILENT_LOOKS:
            await asyncio.sleep(WATCH_SECONDS)
            self._silent += 1
        self._give_up(f"the engine's process has not answered for {SILENT_LOOKS * WATCH_SECONDS:.0f} s")

    def _give_up(self, reason: str) -> None:
        """The worker at hand is of no use; its socket closes with it."""
        self._gave_up = reason
        self._fail_all(reason)
        if self._process is not None:
            self._process.kill()

    def _fail_all(self, reason: str) -> None:
        if self._greeting is not None:
            self._greeting.cancel()
            self._greeting = None
        super()._fail_all(reason)

    async def _how_it_ended(self) -> str:
        assert self._process is not None
        try:
            code = await asyncio.to_thread(self._process.wait, EXIT_SECONDS)
        except subprocess.TimeoutExpired:
            return "its socket closed"
        return f"signal {-code}" if code < 0 else f"exit code {code}"

    async def _end_process(self) -> None:
        """Wait until the process has left; one that does not is killed."""
        if self._process is None:
            return
        try:
            await asyncio.to_thread(self._process.wait, STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            await asyncio.to_thread(self._process.wait)

    async def close(self) -> None:
        """End the worker: asked first, killed if it does not leave."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        self._fail_all("the engine is closed")
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        await self._end_process()
