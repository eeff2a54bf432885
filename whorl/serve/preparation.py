"""Prompts are prepared in processes of their own, which are stopped when a request takes too long."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from whorl.base.errors import FaultError, InputError
from whorl.base.posix import start_with_socket
from whorl.serve.wire import PrepareChat, Prepared, PrepareText, encode, read_message

START_SECONDS = 60.0  # for a preparer to answer its first request


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
        self.replaced = 0

    @classmethod
    async def start(cls, directory: str | Path, *, count: int = 2, timeout: float = 20.0) -> Self:
        """Start them and wait until each has prepared a text; `timeout` are a request's seconds."""
        preparers = cls(Path(directory).resolve(), count, timeout)
        processes = [await preparers._start_one() for _ in range(count)]
        try:
            await asyncio.gather(
                *(preparers._ask(one, PrepareText("hello"), START_SECONDS) for one in processes)
            )
        except (TimeoutError, ConnectionError) as error:
            await preparers.close()
            raise FaultError("the processes that prepare prompts do not start; see above") from error
        for one in processes:
            preparers._idle.put_nowait(one)
        return preparers

    async def prepare(self, asked: PrepareChat | PrepareText) -> Prepared:
        """The prompt; InputError in one line where it cannot be made, or not in time."""
        process = await self._idle.get()
        healthy = False
        try:
            prepared = await self._ask(process, asked, self._timeout)
            healthy = True
        except TimeoutError:
            raise InputError(
                f"preparing the prompt took over {self._timeout:g} s and was stopped; make it smaller"
            ) from None
        except ConnectionError:
            raise InputError(
                "preparing the prompt took too much memory and was stopped; make it smaller"
            ) from None
        finally:
            # Also where the reader has left: what it asked for may still be running.
            self._idle.put_nowait(process if healthy else await asyncio.shield(self._replace(process)))
        if prepared.error:
            raise InputError(prepared.error)
        return prepared

    async def close(self) -> None:
        for process in self._processes:
            process.stop()
        self._processes.clear()

    async def _ask(self, one: _Process, asked: PrepareChat | PrepareText, seconds: float) -> Prepared:
        async with asyncio.timeout(seconds):
            one.writer.write(encode(asked))
            await one.writer.drain()
            answer = await read_message(one.reader)
        if not isinstance(answer, Prepared):
            raise ConnectionError("the preparer has ended")
        return answer

    async def _start_one(self) -> _Process:
        command = [sys.executable, "-m", "whorl.serve.preparer", "{socket}", str(self._directory)]
        process, ours = start_with_socket(command)
        one = _Process(process, *await asyncio.open_connection(sock=ours))
        self._processes.append(one)
        return one

    async def _replace(self, old: _Process) -> _Process:
        self.replaced += 1
        self._processes.remove(old)
        old.stop()
        return await self._start_one()
