"""Every error in OpenAI's shape: {"error": {"message", "type", "param", "code"}}."""

from __future__ import annotations

import logging
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from whorl.base.errors import DataError, InputError, WhorlError

LOG = logging.getLogger(__name__)
UNEXPECTED = "internal server error; the server's log has the details"
TYPES = {
    401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error",
}  # fmt: skip


class ApiError(Exception):
    """Ends a request with this status and message; `param` names the field that is to blame."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.headers = headers or {}


def error_body(
    status: int, message: str, param: str | None = None, code: str | None = None
) -> dict[str, Any]:
    kind = TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def error_response(error: ApiError) -> JSONResponse:
    body = error_body(error.status, error.message, error.param, error.code)
    return JSONResponse(body, error.status, headers=error.headers)


def from_whorl(error: WhorlError, param: str | None = None) -> ApiError:
    """What Whorl says as an answer: the user's mistakes are 400, faults 503."""
    mistake = isinstance(error, InputError | DataError)
    return ApiError(400 if mistake else 503, str(error), param=param, code=None if mistake else "engine_down")


def add_handlers(app: FastAPI) -> None:
    @app.exception_handler(ApiError)
    async def api_error(_: Request, error: ApiError) -> Response:
        return error_response(error)

    @app.exception_handler(WhorlError)
    async def whorl_error(_: Request, error: WhorlError) -> Response:
        return error_response(from_whorl(error))

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> Response:
        words = {
            404: f"not found: {request.url.path}",
            405: f"{request.url.path} does not accept {request.method}",
        }
        message = words.get(error.status_code, str(error.detail))
        code = "too_large" if error.status_code == 413 else None
        headers = dict(error.headers or {})
        return error_response(ApiError(error.status_code, message, code=code, headers=headers))

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        return error_response(from_validation(error))


def from_validation(error: RequestValidationError) -> ApiError:
    """The first complaint. `param` is the field of the body; the message says where in it."""
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        reason = (first.get("ctx") or {}).get("error", first["msg"])
        return ApiError(400, f"the body is not valid JSON: {reason}")
    place = [part for part in first["loc"] if part != "body"]
    if not place:
        return ApiError(400, f"body: {first['msg']}")
    words = [f"[{part}]" if isinstance(part, int) else f".{part}" for part in place]
    return ApiError(400, f"{''.join(words).lstrip('.')[:200]}: {first['msg']}", param=str(place[0])[:64])


class Faults:
    """Answers in OpenAI's shape what nobody expected, and logs it: the client learns that it was not
    its mistake, the operator what it was."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begun = False

        async def watched(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self.app(scope, receive, watched)
        except Exception:
            LOG.exception("%s %s failed", scope["method"], scope["path"])
            if begun:
                raise  # the connection is cut: nothing else can be said in the midst of an answer
            await error_response(ApiError(500, UNEXPECTED))(scope, receive, send)
