"""Server-sent events, with a comment while nothing comes, so that no proxy takes the line for dead."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from starlette.responses import StreamingResponse

from whorl.serve.api.errors import ApiError, error_body
from whorl.serve.api.served import dump

HEADERS = {"X-Accel-Buffering": "no", "Cache-Control": "no-cache"}


def sse(chunks: AsyncIterator[dict[str, Any]], seconds: float, headers: dict[str, str]) -> StreamingResponse:
    return StreamingResponse(
        _frames(chunks, seconds), media_type="text/event-stream", headers=HEADERS | headers
    )


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
            except StopAsyncIteration:
                yield "data: [DONE]\n\n"
                return
            except ApiError as error:  # the status has been sent: the stream says it, and ends
                yield f"data: {dump(error_body(error.status, error.message, error.param, error.code))}\n\n"
                return
    finally:
        if waiting is not None:
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
        await chunks.aclose()  # type: ignore[attr-defined]
