"""Prompts are prepared in processes of their own, which are stopped when a request takes too long."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from whorl.base.errors import FaultError, InputError
from whorl.base.posix import start_with_socket
from whorl.base.progress import say
from whorl.serve.wire import (
    MAX_FRAME,
    FieldError,
    PrepareChat,
    Prepared,
    PrepareIds,
    PrepareText,
    encode,
    read_message,
)

START_SECONDS = 60.0  # for a preparer to answer its first request
LEFT_SECONDS = 0.5  # for one whose reader has left to end what it does, before it is stopped
END_SECONDS = 5.0  # for one that has closed its socket to end
RETRY_SECONDS = 1.0  # before a process that could not be started is tried again
Asked = PrepareChat | PrepareText | PrepareIds
FIRST = encode(PrepareText("hello"))  # that a preparer is asked before it counts as idle
# How a process ends that finds no memory: libraries abort, the system kills.
NO_MEMORY = (-signal.SIGABRT, -signal.SIGKILL)


@dataclass
class _Process:
    process: subprocess.Popen[bytes]
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    def stop(self) -> None:
        self.writer.close()
        self.process.kill()
        self.process.wait()


class Preparers:
    """`count` preparer processes of one model; each request goes to one that is idle."""

    def __init__(self, directory: Path, count: int, timeout: float) -> None:
        self._directory, self._count, self._timeout = directory, count, timeout
        self._idle: asyncio.Queue[_Process] = asyncio.Queue()
        self._processes: list[_Process] = []
        self._settling: set[asyncio.Task[None]] = set()
        self._closed = False
        self.replaced = 0

    @classmethod
    async def start(cls, directory: str | Path, *, count: int = 2, timeout: float = 20.0) -> Self:
        """Start them and wait until each has prepared a text; `timeout` are a request's seconds."""
        preparers = cls(Path(directory).resolve(), count, timeout)
        try:
            processes = [await preparers._start_one() for _ in range(count)]
            await asyncio.gather(*(_ask(one, FIRST, START_SECONDS) for one in processes))
        except (TimeoutError, ConnectionError) as error:
            await preparers.close()
            raise FaultError(
                "the prompt-preparation processes do not start; see the messages above"
            ) from error
        except BaseException:
            await preparers.close()
            raise
        for one in processes:
            preparers._idle.put_nowait(one)
        return preparers

    async def prepare(self, asked: Asked) -> Prepared:
        """The prompt; InputError (FieldError where the field is known) in one line where it cannot be made,
        or not in time; FaultError where the server is to blame."""
        frame = _framed(asked)  # what cannot be sent costs no process
        process = await self._idle.get()
        working = asyncio.create_task(_ask(process, frame, self._timeout))
        try:
            prepared = await asyncio.shield(working)
        except TimeoutError:
            raise InputError(
                f"the prompt took longer than {self._timeout:g} s to prepare; shorten it"
            ) from None
        except ConnectionError:
            raise await self._ended(process) from None
        finally:
            self._put_back(process, working)
        if prepared.fault:
            raise FaultError(prepared.error)
        if prepared.error:
            raise FieldError(prepared.error, prepared.field) if prepared.field else InputError(prepared.error)
        return prepared

    async def close(self) -> None:
        self._closed = True
        for task in self._settling:
            task.cancel()
        await asyncio.gather(*self._settling, return_exceptions=True)
        for process in self._processes:
            process.stop()
        self._processes.clear()

    async def _ended(self, one: _Process) -> InputError | FaultError:
        try:
            code = await asyncio.to_thread(one.process.wait, END_SECONDS)
        except subprocess.TimeoutExpired:
            code = 0
        if code in NO_MEMORY:
            return InputError("the prompt took too much memory to prepare; shorten it")
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        say(f"a prompt-preparation process ended with {how}; starting a new one")
        return FaultError(f"the prompt-preparation process ended with {how}; try again")

    def _put_back(self, process: _Process, working: asyncio.Task[Prepared]) -> None:
        if _is_well(working):
            self._idle.put_nowait(process)
            return
        task = asyncio.create_task(self._settle(process, working))
        self._settling.add(task)
        task.add_done_callback(self._settling.discard)

    async def _settle(self, process: _Process, working: asyncio.Task[Prepared]) -> None:
        """Another in the place of one that did not answer. Where it is only the reader who has left, what
        he asked for may still be running, and mostly ends at once."""
        await asyncio.wait({working}, timeout=LEFT_SECONDS)
        if not _is_well(working):
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)
            process = await self._replace(process)
        self._idle.put_nowait(process)

    async def _replace(self, old: _Process) -> _Process:
        """Another one, which has answered: nobody's time runs while it starts."""
        self.replaced += 1
        while True:
            self._processes.remove(old)
            old.stop()
            old = await self._start_again()
            try:
                await _ask(old, FIRST, START_SECONDS)
                return old
            except (TimeoutError, ConnectionError):
                say("a prompt-preparation process did not start; trying again")
                await asyncio.sleep(RETRY_SECONDS)

    async def _start_again(self) -> _Process:
        while True:
            try:
                return await self._start_one()
            except OSError as error:
                say(f"no prompt-preparation process can be started ({error.strerror}); trying again")
                await asyncio.sleep(RETRY_SECONDS)

    async def _start_one(self) -> _Process:
        command = [sys.executable, "-m", "whorl.serve.preparer", "{socket}", str(self._directory)]
        process, ours = start_with_socket(command)
        one = _Process(process, *await asyncio.open_connection(sock=ours))
        self._processes.append(one)
        return one


def _is_well(working: asyncio.Task[Prepared]) -> bool:
    return working.done() and not working.cancelled() and working.exception() is None


def _framed(asked: Asked) -> bytes:
    try:
        frame = encode(asked)
    except (OverflowError, UnicodeEncodeError, RecursionError, TypeError) as error:
        raise InputError(f"the request cannot be sent on: {error}") from error
    if len(frame) > MAX_FRAME:
        raise InputError(f"the prompt has {len(frame)} bytes; at most {MAX_FRAME} are allowed")
    return frame


async def _ask(one: _Process, frame: bytes, seconds: float) -> Prepared:
    async with asyncio.timeout(seconds):
        one.writer.write(frame)
        await one.writer.drain()
        answer = await read_message(one.reader)
    if not isinstance(answer, Prepared):
        raise ConnectionError("the preparer has ended")
    return answer
