"""What every request passes, as pure ASGI: its id, its limits, its log line, and the answer when something crashes.

(`BaseHTTPMiddleware` would keep a stream alive after its client has left: encode/starlette#1438.)
"""

import logging
import re
import time
from collections.abc import Iterable

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api import errors
from api.figures import Figures
from core.jobs.ids import new_id

access = logging.getLogger("api.access")
_STREAMED = re.compile(r"/v1/files|/v1/uploads/[^/]+/parts")
"""routes that write what they receive to storage as it comes; all others hold it in memory"""
_UNPRINTABLE = re.compile(r"[^\x21-\x7e]")
SECURITY_HEADERS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "cache-control": "no-store",
}


class Exchange:
    """Outermost: one request and its answer. Ids are the server's; a client's own is kept beside it."""

    def __init__(self, app: ASGIApp, *, figures: Figures, allowed_hosts: Iterable[str]) -> None:
        self.app, self.figures, self.allowed_hosts = app, figures, frozenset(allowed_hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began = time.perf_counter()
        headers = Headers(scope=scope)
        request_id = new_id("req_")
        client_id = _UNPRINTABLE.sub("", headers.get("x-request-id", ""))[:128]
        scope.setdefault("state", {})["request_id"] = request_id
        status = 0
        is_first = True

        async def send_with_headers(message: Message) -> None:
            nonlocal status, is_first
            if message["type"] == "http.response.start":
                status = message["status"]
                answer = MutableHeaders(scope=message)
                answer["x-request-id"] = request_id
                if client_id:
                    answer["x-client-request-id"] = client_id
                answer["openai-processing-ms"] = str(round((time.perf_counter() - began) * 1000))
                for name, value in SECURITY_HEADERS.items():
                    answer.setdefault(name, value)
            elif is_first and message.get("body"):
                is_first = False
                if message.get("more_body"):
                    self.figures.count_first_byte(_route(scope), time.perf_counter() - began)
            await send(message)

        try:
            if not self._is_ours(headers.get("host", "")):
                response = errors.answer(
                    400,
                    "This server does not answer under that host name.",
                    code="unknown_host",
                    hint="Its operator can add the name to WEIGHTSMITH_ALLOWED_HOSTS.",
                )
                await response(scope, receive, send_with_headers)
            else:
                await self.app(scope, receive, send_with_headers)
        except ClientDisconnect:
            pass  # nobody is left to answer
        except Exception as error:  # the last boundary: a client gets an answer, the log gets the trace
            if status:
                raise
            await errors.crashed(error, request_id)(scope, receive, send_with_headers)
        finally:
            self._note(scope, request_id, client_id, status, time.perf_counter() - began)

    def _is_ours(self, host: str) -> bool:
        name = host.rpartition("]")[0] + "]" if host.startswith("[") else host.partition(":")[0]
        return name.lower() in self.allowed_hosts or "*" in self.allowed_hosts

    def _note(self, scope: Scope, request_id: str, client_id: str, status: int, seconds: float) -> None:
        """One line, without query string, body or key; a status of 0 means that the client left first."""
        route = _route(scope)
        caller = scope["state"].get("caller")
        self.figures.count_request(scope["method"], route, status, seconds)
        access.info(
            "%s %s %d",
            scope["method"],
            scope["path"],
            status,
            extra={
                "request_id": request_id,
                "client_request_id": client_id or None,
                "route": route,
                "status": status,
                "ms": round(seconds * 1000, 1),
                "project": caller and caller.project_id,
                "key": caller and caller.key_id,
                "client": (scope.get("client") or [None])[0],
            },
        )


def _route(scope: Scope) -> str:
    """The template of the path, without ids."""
    return getattr(scope.get("route"), "path", "")


class BodyLimit:
    """Counts what comes, whatever Content-Length says."""

    def __init__(self, app: ASGIApp, *, max_body_bytes: int, max_post_bytes: int) -> None:
        self.app, self.max_body_bytes, self.max_post_bytes = app, max_body_bytes, max_post_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        streamed = _STREAMED.fullmatch(scope["path"].rstrip("/"))
        # A multipart body is a little longer than the file in it.
        limit = self.max_post_bytes + (1 << 20) if streamed else self.max_body_bytes
        declared = Headers(scope=scope).get("content-length", "")
        refusal = f"The body is larger than the {limit} bytes that are allowed here."
        if declared.isdecimal() and int(declared) > limit:
            await errors.answer(413, refusal, code="too_large", hint=_way_out(streamed))(scope, receive, send)
            return
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > limit:
                raise HTTPException(413, f"{refusal} {_way_out(streamed)}")
            return message

        await self.app(scope, counted, send)


def _way_out(streamed: object) -> str:
    return "Send larger files in parts: POST /v1/uploads." if streamed else "Send less at once."
