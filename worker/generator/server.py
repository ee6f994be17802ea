"""The generator's HTTP side: plain ASGI, so that a client who leaves is felt at once, streamed or not.

POST /generate    GenerationRequest -> Answer lines (NDJSON); an Error with a status where it was not admitted
POST /read        ReadingRequest -> Readings
POST /export      ExportRequest -> the bytes of a GGUF file
POST /tokenize    TokenizeRequest -> TokenIds
GET  /healthz     200 while the computing thread moves
"""

import asyncio
import hmac
import json
import logging
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from core.data.chat_template import encode_prompt
from core.data.examples import Conversation
from core.endpoints import CHAT, CLASSIFICATIONS, COMPLETIONS, EMBEDDINGS, check_serves
from core.errors import (
    CapacityExceeded,
    Conflict,
    CoreError,
    InvalidData,
    InvalidRequest,
    NotFound,
    TooLarge,
    Unavailable,
)
from core.export_request import ExportRequest
from core.generation.continuation import Continuation, continuations
from core.generation_request import Error, GenerationRequest, TokenIds, TokenizeRequest
from core.reading import read
from core.reading.reader import Reader
from core.reading_request import ReadingRequest
from worker.generator.exports import Exports
from worker.generator.loop import EngineLoop, Stream
from worker.generator.residents import MAX_SLOTS, Resident, Residents

Scope = Mapping[str, Any]
Receive = Callable[[], Awaitable[Mapping[str, Any]]]
Send = Callable[[Mapping[str, Any]], Awaitable[None]]
Body = TypeVar("Body", bound=BaseModel)

_log = logging.getLogger(__name__)
STATUSES: dict[type[CoreError], int] = {
    InvalidRequest: 400,
    InvalidData: 400,
    NotFound: 404,
    Conflict: 409,
    TooLarge: 413,
    Unavailable: 503,
    CapacityExceeded: 429,
}
STALLED_SECONDS = 60.0
ADMISSION_THREADS = 4
FILE_BLOCK_BYTES = 1 << 20


class Server:
    """The ASGI application."""

    def __init__(
        self,
        residents: Residents,
        loop: EngineLoop,
        *,
        exports: Exports,
        token: str,
        max_body_bytes: int,
        write_timeout_seconds: float,
    ) -> None:
        self.residents = residents
        self._exports = exports
        self.loop = loop
        self._token = token.encode()
        self._max_body_bytes = max_body_bytes
        self._write_timeout_seconds = write_timeout_seconds
        self._num_admitting = 0
        self._admission = ThreadPoolExecutor(ADMISSION_THREADS, thread_name_prefix="admission")
        self._num_reading = 0
        self._reading = ThreadPoolExecutor(1, thread_name_prefix="reading")

    @property
    def is_healthy(self) -> bool:
        return time.monotonic() - self.loop.ticked_at < STALLED_SECONDS

    def _figures(self) -> dict[str, int]:
        return {
            "answers": self.loop.num_answers,
            "waiting": self.loop.num_waiting,
            "slots_used": self.residents.num_slots_used,
            "tokens": self.loop.num_tokens,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"
        try:
            match scope["method"], scope["path"]:
                case "GET", "/healthz":
                    await _respond(send, 200 if self.is_healthy else 503, json.dumps(self._figures()).encode())
                case "POST", "/generate":
                    self._check_token(scope)
                    request = await self._read(receive, GenerationRequest)
                    await _while_connected(receive, self._generate(request, send))
                case "POST", "/read":
                    self._check_token(scope)
                    reading = await self._read(receive, ReadingRequest)
                    await _while_connected(receive, self._say(reading, send))
                case "POST", "/export":
                    self._check_token(scope)
                    wanted_file = await self._read(receive, ExportRequest)
                    await _while_connected(receive, self._export(wanted_file, send))
                case "POST", "/tokenize":
                    self._check_token(scope)
                    wanted = await self._read(receive, TokenizeRequest)
                    await _while_connected(receive, self._tokenize(wanted, send))
                case _:
                    await _refuse(send, 404, Error(code="not_found", message="No such path."))
        except _ClientLeft:
            pass
        except CoreError as error:
            status = next((code for kind, code in STATUSES.items() if isinstance(error, kind)), 500)
            wait = error.retry_after_seconds if isinstance(error, CapacityExceeded) else None
            line = Error(
                code=error.code, message=error.message, param=error.param, hint=error.hint, retry_after_seconds=wait
            )
            await _refuse(send, status, line)

    def _check_token(self, scope: Scope) -> None:
        given = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        if not hmac.compare_digest(given, b"Bearer " + self._token):
            raise NotFound("No such path.")

    async def _read(self, receive: Receive, kind: type[Body]) -> Body:
        body = bytearray()
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise _ClientLeft
            body += message.get("body", b"")
            if len(body) > self._max_body_bytes:
                raise TooLarge(f"The request is larger than {self._max_body_bytes} bytes.")
            if not message.get("more_body"):
                break
        try:
            return kind.model_validate_json(body)
        except ValidationError as error:
            first = error.errors()[0]
            raise InvalidRequest(first["msg"], param=".".join(map(str, first["loc"])) or None) from None

    async def _generate(self, request: GenerationRequest, send: Send) -> None:
        resident, stream = await self._admitted(request)
        try:
            await self._send(send, _start(200, b"application/x-ndjson"))
            while lines := await stream.next_lines():
                body = b"".join(line.model_dump_json().encode() + b"\n" for line in lines)
                await self._send(send, {"type": "http.response.body", "body": body, "more_body": True})
            await self._send(send, {"type": "http.response.body", "body": b""})
        finally:
            stream.cancel()
            resident.release()

    async def _admitted(self, request: GenerationRequest) -> tuple[Resident, Stream]:
        """The caller must cancel the stream and release the model."""
        if self._num_admitting >= self.loop.max_waiting + MAX_SLOTS:
            raise self.loop.busy(self._num_admitting)
        self._num_admitting += 1
        try:
            resident = await self.residents.take(request.model)
            try:
                check_serves(resident.config, CHAT if request.messages else COMPLETIONS)
                assert resident.engine is not None
                answers = await self._in_thread(_admit, resident, request)
                return resident, self.loop.submit(resident.engine, answers)
            except BaseException:
                resident.release()
                raise
        finally:
            self._num_admitting -= 1

    async def _say(self, request: ReadingRequest, send: Send) -> None:
        """One request after the other: each fills the processors. Who leaves is noticed between batches."""
        if self._num_reading >= self.loop.max_waiting:
            raise self.loop.busy(self._num_reading)
        self._num_reading += 1
        left = threading.Event()
        resident = None
        try:
            resident = await self.residents.take(request.model)
            check_serves(resident.config, EMBEDDINGS if resident.config.head == "embedding" else CLASSIFICATIONS)
            reader = Reader(resident.model, resident.tokenizer, resident.renderer, left.is_set)
            said = await asyncio.get_running_loop().run_in_executor(self._reading, read, reader, request)
            await _respond(send, 200, said.model_dump_json().encode())
        finally:
            left.set()
            self._num_reading -= 1
            if resident is not None:
                resident.release()

    async def _export(self, request: ExportRequest, send: Send) -> None:
        async with self._exports.exported(request) as path:
            size = str(path.stat().st_size).encode()
            await self._send(send, _start(200, b"application/octet-stream", (b"content-length", size)))
            with path.open("rb") as file:
                while block := await asyncio.to_thread(file.read, FILE_BLOCK_BYTES):
                    await self._send(send, {"type": "http.response.body", "body": block, "more_body": True})
        await self._send(send, {"type": "http.response.body", "body": b""})

    async def _tokenize(self, request: TokenizeRequest, send: Send) -> None:
        resident = await self.residents.take(request.model)
        try:
            ids = await self._in_thread(_ids_of, resident, request)
        finally:
            resident.release()
        spelled = (resident.tokenizer.token_bytes(id).decode("utf-8", "replace") for id in ids)
        answer = TokenIds(ids=tuple(ids), tokens=tuple(spelled), context_length=resident.context_length)
        await _respond(send, 200, answer.model_dump_json().encode())

    async def _in_thread(self, function: Callable[[Resident, Any], Any], resident: Resident, request: object) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._admission, function, resident, request)

    async def _send(self, send: Send, message: Mapping[str, Any]) -> None:
        """A reader who takes nothing for too long is taken for gone."""
        try:
            async with asyncio.timeout(
                self._write_timeout_seconds
            ):  # wait_for can swallow a cancellation (cpython#86296)
                await send(message)
        except TimeoutError:
            _log.info("a reader took nothing for %g s", self._write_timeout_seconds)
            raise _ClientLeft from None


def _admit(resident: Resident, request: GenerationRequest) -> list[Continuation]:
    """Token ids of what was asked, refused if they cannot be served."""
    if request.messages:
        prompts = [_chat_ids(resident, request.conversation)]
    else:
        prompts = [
            _prompt_ids(resident, prompt) if isinstance(prompt, str) else list(prompt) for prompt in request.prompts
        ]
    return continuations(
        prompts,
        request.sampling,
        resident.tokenizer,
        context_length=resident.context_length,
        vocab_size=resident.config.vocab_size,
        are_sources=resident.reads_sources,
    )


def _ids_of(resident: Resident, request: TokenizeRequest) -> list[int]:
    if request.messages:
        return _chat_ids(resident, request.conversation)
    return _prompt_ids(resident, request.text or "")


def _chat_ids(resident: Resident, conversation: Conversation) -> list[int]:
    ids = encode_prompt(resident.tokenizer, conversation, resident.renderer)
    return [*ids, resident.tokenizer.end_of_text] if resident.reads_sources else ids


def _prompt_ids(resident: Resident, text: str) -> list[int]:
    """As the tokenizer's authors begin a text, and as sources end; an empty prompt is the beginning of a document."""
    tokenizer = resident.tokenizer
    if resident.reads_sources:
        return [*tokenizer.encode(text), tokenizer.end_of_text]
    if tokenizer.prepends_start or not text:
        return [tokenizer.start_of_text, *tokenizer.encode(text)]
    return tokenizer.encode(text)


class _ClientLeft(Exception):
    """Nobody reads the answer any more."""


async def _while_connected(receive: Receive, work: Awaitable[None]) -> None:
    """Do the work, but stop at once when the client leaves."""
    task = asyncio.ensure_future(work)
    gone = asyncio.create_task(_disconnected(receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            task.cancel()
            raise _ClientLeft
        await task
    finally:
        gone.cancel()
        task.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _start(status: int, content_type: bytes, *headers: tuple[bytes, bytes]) -> dict[str, Any]:
    return {
        "type": "http.response.start",
        "status": status,
        "headers": [(b"content-type", content_type), *headers],
    }


async def _respond(send: Send, status: int, body: bytes) -> None:
    await send(_start(status, b"application/json", (b"content-length", str(len(body)).encode())))
    await send({"type": "http.response.body", "body": body})


async def _refuse(send: Send, status: int, error: Error) -> None:
    await _respond(send, status, error.model_dump_json().encode())
