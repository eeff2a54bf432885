"""The way to an engine, whichever process it is in."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Protocol

from whorl.serve.requests import EngineEvent, EngineHealth, EngineInfo, EngineRequest


class EngineClient(Protocol):
    """An engine to an asyncio program: `InProcess` runs it in a thread, `OutOfProcess` in a worker."""

    @property
    def info(self) -> EngineInfo: ...

    def generate(self, request: EngineRequest) -> AsyncIterator[EngineEvent]:
        """The request's events up to its last. Leaving the iterator early (`aclose`) aborts the
        request and gives its pages back. A request that can never be served ends at once with an
        event that has `error`; when the worker dies every open request ends so, with `fault`. One that
        cannot even be sent (integers beyond 64 bits, text that is not valid Unicode) raises InputError."""
        ...

    async def abort(self, id: str) -> None:
        """End a request; unknown ids are ignored."""
        ...

    async def health(self) -> EngineHealth: ...

    async def load_adapter(self, name: str, directory: str) -> str:
        """Load a PEFT directory beside the model; returns its version. InputError names what is wrong.
        It stays loaded, through restarts of the engine too, until it is unloaded."""
        ...

    async def unload_adapter(self, name: str) -> None: ...

    async def close(self) -> None: ...
