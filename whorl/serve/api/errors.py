"""Every error in OpenAI's shape: {"error": {"message", "type", "param", "code"}}."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from whorl.base.errors import DataError, InputError, WhorlError

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
            404: f"there is no {request.url.path}",
            405: f"{request.method} is not for {request.url.path}",
        }
        message = words.get(error.status_code, str(error.detail))
        code = "too_large" if error.status_code == 413 else None
        headers = dict(error.headers or {})
        return error_response(ApiError(error.status_code, message, code=code, headers=headers))

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"] if part != "body")
        return error_response(ApiError(400, f"{place or 'body'}: {first['msg']}", param=place or None))
