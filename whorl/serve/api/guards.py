"""What stands before every route: keys, the size of a body, and patience with who is refused."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Sequence
from typing import NamedTuple

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from whorl.base.keys import read_keys
from whorl.serve.api.errors import ApiError, error_response
from whorl.serve.config import ServeConfig

OPEN = ("/health", "/ready")
LINGER_SECONDS = 5.0


class KeyRing(NamedTuple):
    """The keys of the API and of /metrics; without any, everybody may ask."""

    api: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()

    @classmethod
    def read(cls, config: ServeConfig) -> KeyRing:
        """InputError where a file of keys cannot be read."""
        return cls(
            read_keys(config.api_key_file, "--api-key-file"),
            read_keys(config.metrics_key_file, "--metrics-key-file"),
        )


class Keys:
    """Lets a request through that carries one of the keys, as `Authorization: Bearer KEY`."""

    def __init__(self, app: ASGIApp, keys: KeyRing) -> None:
        self.app, self._keys, self._metrics = app, keys.api, keys.metrics or keys.api

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path = scope["path"].removeprefix(scope.get("root_path", "")) or "/"
        wanted = () if path in OPEN else self._metrics if path == "/metrics" else self._keys
        scheme, _, key = Request(scope).headers.get("authorization", "").partition(" ")
        if wanted and not (scheme.lower() == "bearer" and known(key.strip(), wanted)):
            message = "the key is missing or wrong; send Authorization: Bearer KEY"
            error = ApiError(401, message, code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"})
            await error_response(error)(scope, receive, send)
            return
        await self.app(scope, receive, send)


def known(key: str, keys: Sequence[str]) -> bool:
    """Compares with every key, in a time that tells nothing."""
    found = [hmac.compare_digest(key.encode(), one.encode()) for one in keys]
    return any(found)


class BodyLimit:
    """Refuses a body of more than `size` bytes: unread where its length is stated, else where it passes."""

    def __init__(self, app: ASGIApp, size: int) -> None:
        self.app, self._size = app, size

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        stated = Request(scope).headers.get("content-length", "")
        if stated.isdigit() and int(stated) > self._size:
            await error_response(self._error())(scope, receive, send)
            return
        got = 0

        async def counted() -> Message:
            nonlocal got
            message = await receive()
            got += len(message.get("body", b""))
            if got > self._size:  # while a route reads its body, FastAPI lets no other exception through
                raise HTTPException(413, self._error().message)
            return message

        await self.app(scope, counted, send)

    def _error(self) -> ApiError:
        return ApiError(
            413, f"the body has more than {self._size} bytes, this server's limit", code="too_large"
        )


class Linger:
    """Answers a request whose body was not read to its end, then reads on for a while before it ends.

    A connection closed while the other side still sends is reset, and the answer lost with it: nginx
    then says 502 instead of the 413 or 401 that was sent (RFC 9112, section 9.6).
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not has_body(scope):
            await self.app(scope, receive, send)
            return
        ended = False

        async def watched() -> Message:
            nonlocal ended
            message = await receive()
            ended = message["type"] == "http.disconnect" or not message.get("more_body", False)
            return message

        async def answer(message: Message) -> None:
            last = message["type"] == "http.response.body" and not message.get("more_body", False)
            if ended or not last:
                await send(message)
                return
            await send({**message, "more_body": True})
            try:
                async with asyncio.timeout(LINGER_SECONDS):
                    while not ended:
                        await watched()
            except TimeoutError:
                pass  # it has had its time
            await send({"type": "http.response.body", "body": b""})

        await self.app(scope, watched, answer)


def has_body(scope: Scope) -> bool:
    headers = Request(scope).headers
    return headers.get("content-length", "0") != "0" or "transfer-encoding" in headers
