"""Generation in OpenAI's words. The api loads no model: it resolves the name, asks a generator, translates its lines.

A client who leaves, streamed or not, ends the request to the generator, which frees the slots within a step.
"""

import asyncio
import json
from contextlib import suppress
from typing import Annotated, Any

from fastapi import APIRouter, Body, Response
from fastapi.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from api import errors, generators
from api.dependencies import Provided, Services, Speaker
from api.generation_answers import Chat, Completion
from api.generation_bodies import ChatBody, CompletionBody, TokenizeBody, turns_of
from core.endpoints import CHAT, COMPLETIONS
from core.errors import CoreError
from core.generation_request import Answer, GenerationRequest, TokenIds, TokenizeRequest
from core.jobs.ids import new_id
from core.jobs.registry import Servable

router = APIRouter(prefix="/v1", tags=["generation"])
PING_SECONDS = 15.0
WRITE_TIMEOUT_SECONDS = 30.0


@router.post("/completions", summary="Continue a text", response_class=Response)
async def create_completion(body: Annotated[CompletionBody, Body()], caller: Speaker, provided: Provided) -> Response:
    model, places = await generators.serving(provided, caller, body.model, COMPLETIONS)
    sampling = body.sampling(model.config.kind)
    request = GenerationRequest(
        id=new_id("gen-"), model=generators.served(model), prompts=body.prompts, sampling=sampling
    )
    reply = Completion(model.name, _fingerprint(model), len(body.prompts) * sampling.n)
    return Generated(provided, places, request, reply, body)


@router.post("/chat/completions", summary="Answer a conversation", response_class=Response)
async def create_chat_completion(body: Annotated[ChatBody, Body()], caller: Speaker, provided: Provided) -> Response:
    turns = body.turns
    model, places = await generators.serving(provided, caller, body.model, CHAT)
    sampling = body.sampling(model.config.kind)
    request = GenerationRequest(id=new_id("gen-"), model=generators.served(model), messages=turns, sampling=sampling)
    reply = Chat(model.name, _fingerprint(model), sampling.n)
    return Generated(provided, places, request, reply, body)


@router.post("/tokenize", summary="The token ids of a text or a conversation")
async def tokenize(body: Annotated[TokenizeBody, Body()], caller: Speaker, provided: Provided) -> dict[str, Any]:
    turns = turns_of(body.messages) if body.messages else ()
    model, places = await generators.serving(provided, caller, body.model, None)
    request = TokenizeRequest(model=generators.served(model), text=body.text, messages=turns)
    async with generators.asking(provided.http, provided.settings, places, "/tokenize", request) as response:
        found = TokenIds.model_validate_json(await response.aread())
    return {
        "model": model.name,
        "ids": list(found.ids),
        "tokens": list(found.tokens),
        "count": len(found.ids),
        "context_length": found.context_length,
    }


class Generated(Response):
    """One generation, done while the client is there."""

    def __init__(
        self,
        provided: Services,
        places: list[str],
        request: GenerationRequest,
        reply: Completion | Chat,
        body: CompletionBody | ChatBody,
    ) -> None:
        super().__init__()
        self._provided, self._places, self._request = provided, places, request
        self._reply, self._body = reply, body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with suppress(_ReaderStalls):
            work = self._stream(send) if self._body.stream else self._whole(scope, receive, send)
            await generators.while_connected(receive, work)

    async def _whole(self, scope: Scope, receive: Receive, send: Send) -> None:
        lines: list[Answer] = []
        async with self._asking() as response:
            async for some in generators.answers(response):
                lines += some
        if lines[-1].kind == "error":
            raise generators.error_of(lines[-1])
        await JSONResponse(self._reply.whole(lines))(scope, receive, send)

    async def _stream(self, send: Send) -> None:
        """Events; what goes wrong after the first is an event too. A reader who takes nothing for long is dropped."""
        async with self._asking() as response:
            events = _Events(send)
            await events.start()
            pinging = asyncio.create_task(events.ping())
            try:
                await events.put(*self._reply.begin())
                async for some in generators.answers(response):
                    await events.put(*filter(None, map(self._event, some)))
            except CoreError as error:
                await events.put(_failure(error))
            finally:
                pinging.cancel()
            await events.end()

    def _event(self, line: Answer) -> dict[str, Any] | None:
        match line.kind:
            case "token":
                shown = line.text or line.scores
                return self._with_usage(self._reply.chunk(line)) if shown else None
            case "done":
                return self._with_usage(self._reply.chunk(line))
            case "usage":
                return self._reply.end(line) if self._body.include_usage else None
            case "error":
                return _failure(generators.error_of(line))

    def _with_usage(self, chunk: dict[str, Any]) -> dict[str, Any]:
        """Who asks for usage gets the field in every chunk, empty before the last."""
        return chunk | {"usage": None} if self._body.include_usage else chunk

    def _asking(self) -> Any:
        provided = self._provided
        return generators.asking(provided.http, provided.settings, self._places, "/generate", self._request)


class _Events:
    """Server-sent events."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._quiet = asyncio.Event()

    async def start(self) -> None:
        headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"x-accel-buffering", b"no")]
        await self._send({"type": "http.response.start", "status": 200, "headers": headers})

    async def put(self, *events: dict[str, Any]) -> None:
        if events:
            await self._write("".join(f"data: {json.dumps(event, separators=(',', ':'))}\n\n" for event in events))

    async def ping(self) -> None:
        """A comment now and then, so that nobody between us and the reader takes the silence for death."""
        while True:
            self._quiet.set()
            await asyncio.sleep(PING_SECONDS)
            if self._quiet.is_set():
                with suppress(_ReaderStalls):
                    await self._write(": ping\n\n")

    async def end(self) -> None:
        await self._write("data: [DONE]\n\n")
        await self._send({"type": "http.response.body", "body": b""})

    async def _write(self, text: str) -> None:
        self._quiet.clear()
        message = {"type": "http.response.body", "body": text.encode(), "more_body": True}
        try:
            async with asyncio.timeout(WRITE_TIMEOUT_SECONDS):
                await self._send(message)
        except TimeoutError:
            raise _ReaderStalls from None


class _ReaderStalls(Exception):
    """It has taken nothing for too long; the connection is closed."""


def _fingerprint(model: Servable) -> str:
    """Changes when the weights do."""
    return f"fp_{model.manifest_sha256[:12]}"


def _failure(error: CoreError) -> dict[str, Any]:
    return errors.envelope(errors.status_of(error), error.message, code=error.code, param=error.param, hint=error.hint)
