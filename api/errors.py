"""From errors to answers: one table of statuses, one envelope, for everything that can go wrong."""

import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from sqlalchemy.exc import DataError, DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.exceptions import HTTPException

from api.faults import fault_of
from core import errors

log = logging.getLogger(__name__)

STATUS: dict[type[errors.CoreError], int] = {
    errors.InvalidRequest: 400,
    errors.InvalidData: 400,
    errors.Unauthenticated: 401,
    errors.Forbidden: 403,
    errors.NotFound: 404,
    errors.Conflict: 409,
    errors.TooLarge: 413,
    errors.CapacityExceeded: 429,
    errors.Unavailable: 503,
    errors.StorageFull: 507,
    errors.CoreError: 500,
}
TYPES: dict[int, str] = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}
DATABASE_RETRY_SECONDS = 2.0


def status_of(error: errors.CoreError) -> int:
    """The status of the nearest class in the table."""
    return next(STATUS[cls] for cls in type(error).__mro__ if cls in STATUS)


def answer(
    status: int,
    message: str,
    *,
    code: str | None,
    param: str | None = None,
    hint: str | None = None,
    retry_after_seconds: float | None = None,
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    """The envelope, with the headers that keep SDKs from sending again what will fail again."""
    fields = envelope(status, message, code=code, param=param, hint=hint)
    return JSONResponse(fields, status, retry_headers(status, retry_after_seconds) | dict(headers or {}))


def envelope(
    status: int, message: str, *, code: str | None, param: str | None = None, hint: str | None = None
) -> dict[str, Any]:
    """OpenAI's error object. The hint becomes the message's last sentence."""
    text = message if not hint or message.endswith((".", "!", "?")) else f"{message}."
    text = f"{text} {hint[0].upper()}{hint[1:]}" if hint else text
    kind = TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    # What a client sent may hold half a surrogate pair, which no answer can.
    shown = text.encode("utf-8", "replace").decode()
    return {"error": {"message": shown, "type": kind, "param": param, "code": code}}


def retry_headers(status: int, retry_after_seconds: float | None) -> dict[str, str]:
    if retry_after_seconds is not None:
        whole = max(1, round(retry_after_seconds))
        return {"retry-after": str(whole), "retry-after-ms": str(max(1, round(retry_after_seconds * 1000)))}
    return {"x-should-retry": "false"} if status == 409 or status >= 500 else {}


def of_core_error(error: errors.CoreError) -> JSONResponse:
    status = status_of(error)
    if status == 500:
        log.error("%s: %s", type(error).__name__, error.message)
    return answer(
        status,
        error.message,
        code=error.code,
        param=error.param,
        hint=error.hint,
        retry_after_seconds=error.retry_after_seconds if isinstance(error, errors.CapacityExceeded) else None,
        headers={"www-authenticate": "Bearer"} if status == 401 else None,
    )


def database_away(error: Exception) -> JSONResponse:
    log.warning("database away: %s", str(error).partition("\n")[0])
    return answer(
        503,
        "The database cannot be reached or is too busy.",
        code="database_unavailable",
        hint="Nothing was changed; try again in a moment.",
        retry_after_seconds=DATABASE_RETRY_SECONDS,
    )


def crashed(error: Exception, request_id: str) -> JSONResponse:
    """The last resort: what happened is in the log under the request's id, and nowhere else."""
    log.error("request %s crashed", request_id, exc_info=error)
    return answer(
        500,
        "The server failed in a way that nobody foresaw.",
        code="internal_error",
        hint=f"Its log says more under {request_id}.",
    )


_ROUTE_ERRORS = {
    404: ("unknown_route", "There is no {method} {path}; /docs lists what there is."),
    405: ("method_not_allowed", "{path} does not answer to {method}; /docs lists what it answers to."),
}


def _http_error(request: Request, error: HTTPException) -> JSONResponse:
    code, text = _ROUTE_ERRORS.get(error.status_code, ("bad_request", str(error.detail)))
    if error.status_code == 413:
        code = errors.TooLarge.default_code
    message = text.format(method=request.method, path=request.scope["path"]) if "{path}" in text else text
    return answer(error.status_code, message, code=code, headers=error.headers)


def _validation_error(error: RequestValidationError) -> JSONResponse:
    fault = fault_of(error.errors(), error.body)
    return answer(400, fault.message, code=fault.code, param=fault.param)


def _unstorable(error: Exception) -> JSONResponse:
    log.info("refused a text: %s", type(error).__name__)
    return answer(
        400,
        "A text in the request holds a NUL character or half a surrogate pair, or a number is out of range.",
        code="invalid_request",
    )


def _database_error(request: Request, error: DBAPIError) -> JSONResponse:
    """A connection that was cut in the middle comes in many classes."""
    if error.connection_invalidated:
        return database_away(error)
    return crashed(error, request.state.request_id)


_ANSWERS: dict[type[Exception], Callable[[Request, Any], JSONResponse]] = {
    errors.CoreError: lambda request, error: of_core_error(error),
    RequestValidationError: lambda request, error: _validation_error(error),
    HTTPException: _http_error,
    OperationalError: lambda request, error: database_away(error),
    InterfaceError: lambda request, error: database_away(error),
    PoolTimeout: lambda request, error: database_away(error),
    DBAPIError: _database_error,
    DataError: lambda request, error: _unstorable(error),
    UnicodeEncodeError: lambda request, error: _unstorable(error),
}


def install(app: FastAPI) -> None:
    """Give every kind of failure its answer. (Crashes are caught by `api.middleware`, outside of everything.)"""
    for kind, answer_to in _ANSWERS.items():
        app.add_exception_handler(kind, _handler(answer_to))


def _handler(answer_to: Callable[[Request, Any], JSONResponse]) -> Callable[[Request, Any], Awaitable[JSONResponse]]:
    """As a coroutine: a plain function would wait for a thread, which may be what there is too little of."""

    async def handle(request: Request, error: Any) -> JSONResponse:
        return answer_to(request, error)

    return handle
