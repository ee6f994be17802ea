"""Generators as the api sees them: which one to ask, and its answer as it comes."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import httpx
from fastapi import Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ValidationError
from starlette.types import Receive, Scope, Send

from api.dependencies import Services
from core.endpoints import Endpoint, check_serves
from core.errors import CapacityExceeded, CoreError, InvalidRequest, TooLarge, Unavailable
from core.export_request import ExportRequest
from core.generation_request import Answer, Error, ServedModel, StoredModel, parse_answer
from core.jobs import registry, workers
from core.jobs.database import Database
from core.jobs.keys import Caller
from core.jobs.registry import Servable
from core.reading_request import ReadingRequest, Readings
from core.settings import Settings

RETRY_SECONDS = 2.0
_CLASSES: dict[int, type[CoreError]] = {400: InvalidRequest, 413: TooLarge}


def resolve(database: Database, project_id: str, name: str) -> tuple[Servable, list[str]]:
    """The model by its name or alias, and the generators' addresses: those that hold it come first.

    Raises:
        NotFound: code `model_not_found`. Unavailable: no generator is alive.
    """
    with database.reading() as session:
        model = registry.resolve_model(session, project_id, name)
        alive = workers.alive(session, kind="generator")
        places = [(model.storage_key not in row.models, random.random(), row.address) for row in alive if row.address]
    if not places:
        raise Unavailable(
            "No generator is running: its operator starts one with `weightsmith up` or `python -m worker.generator`.",
            retry_after_seconds=RETRY_SECONDS,
            code="no_generator",
        )
    return model, [address for _, _, address in sorted(places)]


async def serving(
    provided: Services, caller: Caller, name: str, endpoint: Endpoint | None
) -> tuple[Servable, list[str]]:
    """`resolve`, off the event loop; refuses a model that the endpoint does not serve (None: any model will do).

    Raises:
        InvalidRequest: the message names the endpoint that serves it.
    """
    model, places = await run_in_threadpool(resolve, provided.database, caller.project_id, name)
    if endpoint is not None:
        check_serves(model.config, endpoint)
    return model, places


def served(model: Servable) -> ServedModel:
    base = model.base and StoredModel(storage_key=model.base.storage_key, manifest_sha256=model.base.manifest_sha256)
    return ServedModel(id=model.name, storage_key=model.storage_key, manifest_sha256=model.manifest_sha256, base=base)


@asynccontextmanager
async def asking(
    http: httpx.AsyncClient, settings: Settings, addresses: list[str], path: str, body: BaseModel
) -> AsyncIterator[httpx.Response]:
    """The answer of the first generator that takes the request; leaving the block tells it to stop.

    Raises:
        InvalidRequest: it cannot be served. CapacityExceeded: all are busy. Unavailable: none can be reached.
    """
    refusal: CoreError = Unavailable("No generator could be reached.", retry_after_seconds=RETRY_SECONDS)
    for address in addresses:
        headers = {"authorization": f"Bearer {settings.generator_token}", "content-type": "application/json"}
        request = http.build_request("POST", f"{address}{path}", content=body.model_dump_json(), headers=headers)
        try:
            response = await http.send(request, stream=True)
        except httpx.TransportError:
            continue
        try:
            if response.status_code == 200:
                yield response
                return
            refusal = _refusal(response.status_code, await response.aread())
        finally:
            await response.aclose()
        if not isinstance(refusal, CapacityExceeded):
            break
    raise refusal


async def answers(response: httpx.Response) -> AsyncIterator[list[Answer]]:
    """The lines as they come, those of one packet together. The last one is `Usage` or `Error`.

    Raises:
        Unavailable: the generator broke off.
    """
    rest = b""
    last: Answer | None = None
    try:
        async for chunk in response.aiter_bytes():
            *lines, rest = (rest + chunk).split(b"\n")
            if lines:
                parsed = [parse_answer(line) for line in lines]
                last = parsed[-1]
                yield parsed
    except httpx.TransportError:
        last = None
    if last is None or last.kind not in ("usage", "error"):
        raise Unavailable(
            "The generator broke off in the middle; send the request again.",
            retry_after_seconds=RETRY_SECONDS,
            code="generator_lost",
        )


def error_of(line: Error) -> CoreError:
    """What went wrong after the request was admitted."""
    if line.code == Unavailable.default_code:
        return Unavailable(line.message, retry_after_seconds=RETRY_SECONDS)
    return CoreError(line.message, code=line.code, param=line.param, hint=line.hint)


def _refusal(status: int, body: bytes) -> CoreError:
    try:
        line = Error.model_validate_json(body)
    except ValidationError:
        return CoreError(f"The generator answered with status {status} and no reason.")
    if status in (429, 503):
        kind = CapacityExceeded if status == 429 else Unavailable
        return kind(line.message, retry_after_seconds=line.retry_after_seconds or RETRY_SECONDS, code=line.code)
    kind_of_refusal = _CLASSES.get(status, CoreError)
    return kind_of_refusal(line.message, code=line.code, param=line.param, hint=line.hint)


class Read(Response):
    """One reading, done while the client is there."""

    def __init__(
        self,
        provided: Services,
        places: list[str],
        request: ReadingRequest,
        shown: Callable[[Readings], dict[str, Any]],
    ) -> None:
        super().__init__()
        self._provided, self._places, self._request, self._shown = provided, places, request, shown

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await while_connected(receive, self._answer(scope, receive, send))

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        provided = self._provided
        async with asking(provided.http, provided.settings, self._places, "/read", self._request) as response:
            body = await response.aread()
        said = await run_in_threadpool(lambda: JSONResponse(self._shown(Readings.model_validate_json(body))))
        await said(scope, receive, send)


class Exported(Response):
    """A file that a generator writes, passed on while it is read."""

    def __init__(self, provided: Services, places: list[str], request: ExportRequest, headers: dict[str, str]) -> None:
        super().__init__(headers=headers, media_type="application/octet-stream")
        self._provided, self._places, self._request = provided, places, request

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await while_connected(receive, self._pass_on(scope, receive, send))

    async def _pass_on(self, scope: Scope, receive: Receive, send: Send) -> None:
        provided = self._provided
        async with asking(provided.http, provided.settings, self._places, "/export", self._request) as response:
            self.headers["content-length"] = response.headers["content-length"]
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            async for block in response.aiter_raw():
                await send({"type": "http.response.body", "body": block, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


async def while_connected(receive: Receive, work: Awaitable[None]) -> None:
    """Do the work, but stop at once when the client leaves."""
    task = asyncio.ensure_future(work)
    gone = asyncio.create_task(_disconnected(receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            await task
    finally:
        gone.cancel()
        task.cancel()
        with suppress(asyncio.CancelledError):
            await gone
        await asyncio.gather(task, return_exceptions=True)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
