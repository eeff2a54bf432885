"""Server-sent events, with a comment while nothing comes, so that no proxy takes the line for dead."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from whorl.base.errors import WhorlError
from whorl.serve.api.errors import UNEXPECTED, ApiError, error_body, from_whorl
from whorl.serve.api.served import dump

LOG = logging.getLogger(__name__)
HEADERS = {"X-Accel-Buffering": "no", "Cache-Control": "no-cache"}


class _Stream(StreamingResponse):
    """Gives back what it holds however it ends, also where the client disconnected before the first byte:
    then nothing has begun to iterate, and no `finally` in the chunks would run."""

    def __init__(self, frames: AsyncIterator[str], held: AsyncExitStack, headers: dict[str, str]) -> None:
        super().__init__(frames, media_type="text/event-stream", headers=HEADERS | headers)
        self._held = held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._held:
            await super().__call__(scope, receive, send)


def sse(
    chunks: AsyncIterator[dict[str, Any]], held: AsyncExitStack, seconds: float, headers: dict[str, str]
) -> StreamingResponse:
    """The chunks as events; `held` is closed when they have ended."""
    return _Stream(_frames(chunks, seconds), held, headers)


async def _frames(chunks: AsyncIterator[dict[str, Any]], seconds: float) -> AsyncIterator[str]:
    waiting: asyncio.Task[dict[str, Any]] | None = None
    try:
        while True:
            waiting = waiting or asyncio.ensure_future(anext(chunks))
            done, _ = await asyncio.wait({waiting}, timeout=seconds)
            if not done:
                yield ": still here\n\n"
                continue
            task, waiting = waiting, None
            try:
                yield f"data: {dump(task.result())}\n\n"
                continue
            except StopAsyncIteration:
                yield "data: [DONE]\n\n"
                return
            except ApiError as error:
                told = error
            except WhorlError as error:
                told = from_whorl(error)
            except Exception:
                LOG.exception("a stream failed")
                told = ApiError(500, UNEXPECTED)
            # The status has been sent: the stream says it, and ends.
            yield f"data: {dump(error_body(told.status, told.message, told.param, told.code))}\n\n"
            return
    finally:
        if waiting is not None:
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
        await chunks.aclose()  # type: ignore[attr-defined]
