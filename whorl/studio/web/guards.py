"""What stands before every page: what a browser may load, and whose requests may change something."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import urlsplit

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from whorl.serve.api.errors import ApiError, error_response

# Everything comes from here: a script in a prompt or a reply has nowhere to run, and nothing to call.
POLICY = "; ".join(
    (
        "default-src 'none'", "script-src 'self'", "style-src 'self'", "img-src 'self' data: blob:",
        "connect-src 'self'", "font-src 'self'", "manifest-src 'self'", "form-action 'self'",
        "base-uri 'none'", "frame-ancestors 'none'",
    )
)  # fmt: skip
HEADERS = {
    "Content-Security-Policy": POLICY, "X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin", "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}  # fmt: skip
SAFE = ("GET", "HEAD", "OPTIONS")


class WholePath:
    """Puts the proxy's path before what it has cut off: mounted files are found by the whole one."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        root = scope.get("root_path", "")
        if scope["type"] == "http" and root and not f"{scope['path']}/".startswith(f"{root}/"):
            scope = {**scope, "path": root + scope["path"]}
        await self.app(scope, receive, send)


class SecurityHeaders:
    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        await self.app(scope, receive, with_headers)


class FewChanges:
    """Lets a person change so much in a minute and no more, whichever way it goes. `take` is given the
    request and raises ApiError 429."""

    def __init__(self, app: ASGIApp, take: Callable[[Request], None]) -> None:
        self.app, self._take = app, take

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] not in SAFE:
            try:
                self._take(Request(scope))
            except ApiError as error:
                await error_response(error)(scope, receive, send)
                return
        await self.app(scope, receive, send)


class SameOrigin:
    """Refuses what another site's page sends in a signed-in person's name.

    A browser says where a request comes from (`Sec-Fetch-Site`, or `Origin` in older ones) and no page
    can change that; the cookie is SameSite=Lax besides. What says neither is no browser and carries no
    stranger's cookie.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] not in SAFE and not self._ours(Request(scope)):
            error = ApiError(403, "cross-site request refused; open the studio itself", code="origin")
            await error_response(error)(scope, receive, send)
            return
        await self.app(scope, receive, send)

    def _ours(self, request: Request) -> bool:
        site = request.headers.get("sec-fetch-site")
        if site is not None:
            return site in ("same-origin", "none")
        origin = request.headers.get("origin")
        return origin is None or urlsplit(origin).netloc == request.headers.get("host", "")
