"""The generator as a process: what it answers, and what happens to slots when readers leave, stall or are too many."""

import asyncio
import hashlib
import signal
import socket
import time
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from core.data.tokenizer import Tokenizer
from core.generation_request import GenerationRequest, ServedModel
from core.jobs import workers
from core.jobs.database import Database
from core.settings import Settings
from core.storage import open_storage
from tests.generators import (
    CONTEXT,
    TOKEN,
    GeneratorProcess,
    ask,
    asked,
    asking,
    put_model,
    text_of,
)
from tests.services import wait_until

TOKENIZER = Tokenizer.bytes()
ENDLESS = {"logit_bias": dict.fromkeys(TOKENIZER.stop_ids, -100.0)}
"""the tokens that end an answer, forbidden"""
LONG = {"max_tokens": 4000, **ENDLESS}
"""takes seconds"""


def lying_at(storage_key: str) -> dict[str, str]:
    return {"id": "x", "storage_key": storage_key, "manifest_sha256": "0" * 64}


def test_it_answers(generator: GeneratorProcess, model: ServedModel) -> None:
    async def scenario() -> None:
        async with generator.client() as client:
            lines = await ask(client, asking(model, "hello", "world", n=2, logprobs=1))
            kinds = [line.kind for line in lines]
            assert kinds.count("token") == 32
            assert kinds.count("done") == 4
            usage = lines[-1]
            assert usage.kind == "usage"
            assert (usage.prompt_tokens, usage.completion_tokens) == (10, 32)
            assert text_of(lines, 0) == text_of(lines, 1) != text_of(lines, 2) == text_of(lines, 3)
            assert all(line.scores and len(line.scores.top) == 1 for line in lines if line.kind == "token")

    asyncio.run(scenario())


def test_it_takes_chats_and_tokenizes(generator: GeneratorProcess, model: ServedModel) -> None:
    async def scenario() -> None:
        async with generator.client() as client:
            messages = [{"role": "user", "content": "<|im_end|>"}]
            chat = {"id": "test", "model": model.model_dump(), "messages": messages, "sampling": {"max_tokens": 2}}
            lines = await ask(client, GenerationRequest.model_validate(chat))
            usage = lines[-1]
            assert usage.kind == "usage"
            body = {"model": model.model_dump(), "messages": messages}
            answer = (await client.post("/tokenize", json=body)).json()
            assert len(answer["ids"]) == usage.prompt_tokens
            assert answer["ids"].count(TOKENIZER.turn_end) == 1  # the user's is text
            assert answer["context_length"] == CONTEXT
            plain = (await client.post("/tokenize", json={"model": model.model_dump(), "text": "hé"})).json()
            assert plain["ids"] == list("hé".encode())

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("change", "status", "code"),
    [
        ({"sampling": {"max_tokens": CONTEXT}}, 400, "context_length_exceeded"),
        ({"sampling": {"logit_bias": {"9999": 1}}}, 400, "invalid_request"),
        ({"sampling": {"surprise": 1}}, 400, "invalid_request"),
        ({"prompts": [[9999]]}, 400, "invalid_request"),
        ({"prompts": []}, 400, "invalid_request"),
        ({"model": lying_at("checkpoints/none")}, 404, "bytes_missing"),
        ({"model": lying_at("../../etc")}, 400, "bad_storage_key"),
        ({"model": lying_at("checkpoints/tiny")}, 500, "checkpoint_corrupt"),  # not the manifest that was recorded
    ],
)
def test_it_refuses_before_any_tensor(
    generator: GeneratorProcess, model: ServedModel, change: dict[str, Any], status: int, code: str
) -> None:
    async def scenario() -> None:
        async with generator.client() as client:
            body = asking(model, "hello").model_dump(mode="json") | change
            response = await client.post("/generate", json=body)
            assert (response.status_code, response.json()["code"]) == (status, code)

    asyncio.run(scenario())


def test_only_who_has_the_token_is_answered(generator: GeneratorProcess, model: ServedModel) -> None:
    body = asking(model, "hello").model_dump_json()
    for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": f"Basic {TOKEN}"}):
        assert httpx.post(f"{generator.address}/generate", content=body, headers=headers).status_code == 404


def test_a_file_that_was_altered_is_not_served(settings: Settings, generator: GeneratorProcess) -> None:
    broken = put_model(settings, settings.home / "made", name="broken", seed=3)
    weights = open_storage(settings.storage_url).directory(broken.storage_key) / "model" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)

    async def scenario() -> None:
        async with generator.client() as client:
            response = await client.post("/generate", content=asking(broken, "hello").model_dump_json())
            assert (response.status_code, response.json()["code"]) == (500, "checkpoint_corrupt")
            assert "model.safetensors" in response.json()["message"]

    asyncio.run(scenario())


def test_a_reader_who_leaves_frees_the_slot(generator: GeneratorProcess, model: ServedModel) -> None:
    """Streamed: in the middle. Not streamed: a client that gives up before it has read anything."""

    async def scenario() -> None:
        async with generator.client() as client:
            await ask(client, asking(model, "load the model"))
            before = (await generator.figures(client))["tokens"]
            async with asked(client, asking(model, "hello", n=4, **LONG)) as lines:
                await anext(lines)
                assert (await generator.figures(client))["slots_used"] == 4
            figures = await generator.until(client, answers=0)
            assert figures["slots_used"] == 0
            assert figures["tokens"] - before < 4 * 1000  # of 16,000
            impatient = generator.client()
            waiting = asyncio.create_task(
                impatient.post("/generate", content=asking(model, "x", **LONG).model_dump_json())
            )
            await generator.until(client, slots_used=1)
            waiting.cancel()
            await impatient.aclose()
            figures = await generator.until(client, answers=0)
            assert figures["slots_used"] == 0
            assert figures["tokens"] - before < 8 * 1000

    asyncio.run(scenario())


def stalled_reader(generator: GeneratorProcess, model: ServedModel) -> socket.socket:
    """Asks for a lot and reads nothing."""
    body = asking(model, "hello", n=8, logprobs=20, **LONG).model_dump_json().encode()
    head = f"POST /generate HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {TOKEN}\r\ncontent-length: {len(body)}\r\n\r\n"
    host, port = generator.address.removeprefix("http://").split(":")
    reader = socket.socket()
    reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    reader.connect((host, int(port)))
    reader.sendall(head.encode() + body)
    return reader


async def stalls(generator: GeneratorProcess, client: httpx.AsyncClient) -> dict[str, int]:
    """Wait until the answers are paused, because all buffers on the way are full."""
    figures = await generator.until(client, slots_used=8)
    last = -1
    async with asyncio.timeout(30):
        while figures["tokens"] != last:
            last = figures["tokens"]
            await asyncio.sleep(0.2)
            figures = await generator.figures(client)
    return figures


def test_a_reader_who_stalls_is_bounded_and_dropped(generator: GeneratorProcess, model: ServedModel) -> None:
    """It would be sent 90 MB and reads none; the others keep their speed, and its slots are freed in the end."""
    assert generator.process is not None
    memory = psutil.Process(generator.process.pid).memory_info

    async def scenario() -> None:
        async with generator.client() as client:
            await ask(client, asking(model, "load the model"))
            before = memory().rss
            tokens = (await generator.figures(client))["tokens"]
            stalled = stalled_reader(generator, model)
            figures = await stalls(generator, client)
            assert figures["slots_used"] == 8  # paused, not dropped yet
            assert figures["tokens"] - tokens < 8 * 3500
            began = time.monotonic()
            assert len(text_of(await ask(client, asking(model, "quick")))) > 0
            assert time.monotonic() - began < 1.0
            assert memory().rss - before < 64 << 20
            await generator.until(client, answers=0, slots_used=0)  # after the write timeout of 1.5 s
            stalled.close()

    asyncio.run(scenario())


def test_a_reader_who_stalls_and_then_leaves_is_noticed(settings: Settings, model: ServedModel) -> None:
    """The write that waited and the news that the reader is gone come at the same moment."""
    patient = settings.model_copy(update={"generator_write_timeout_seconds": 600.0})
    with GeneratorProcess(patient, settings.home) as generator:
        stalled = stalled_reader(generator, model)

        async def scenario() -> None:
            async with generator.client() as client:
                await stalls(generator, client)
                stalled.close()
                await generator.until(client, answers=0, slots_used=0)

        asyncio.run(scenario())


def test_overload_is_answered_at_once(generator: GeneratorProcess, model: ServedModel) -> None:
    """Every request gets a status, and those too many get it immediately."""

    answered = 0
    all_answered = asyncio.Event()

    async def one(client: httpx.AsyncClient) -> tuple[int, float]:
        nonlocal answered
        async with client.stream("POST", "/generate", content=asking(model, "x", **LONG).model_dump_json()) as response:
            answered += 1
            if answered == 100:
                all_answered.set()
            if response.status_code == 200:
                await all_answered.wait()  # nobody makes room for a later one
                return 200, 0.0
            await response.aread()
            return response.status_code, response.json()["retry_after_seconds"]

    async def scenario() -> None:
        limits = httpx.Limits(max_connections=None)
        async with generator.client(limits=limits) as client, generator.client() as watcher:
            await ask(client, asking(model, "load the model"))
            results = await asyncio.gather(*(one(client) for _ in range(100)))
            statuses = [status for status, _ in results]
            assert set(statuses) == {200, 429}
            assert statuses.count(200) >= 32  # the slots, those that may wait, and who came when one had finished
            assert all(wait >= 1.0 for status, wait in results if status == 429)
            await generator.until(watcher, answers=0, slots_used=0)

    asyncio.run(scenario())


def test_the_heartbeat_says_where_it_is_and_what_it_holds(
    settings: Settings, generator: GeneratorProcess, model: ServedModel
) -> None:
    async def scenario() -> None:
        async with generator.client() as client:
            await ask(client, asking(model, "hello"))

    asyncio.run(scenario())
    database = Database(settings.database_url)
    assert generator.process is not None
    pid = generator.process.pid

    def is_held() -> bool:
        with database.reading() as session:
            [row] = [row for row in workers.alive(session, kind="generator") if row.pid == pid]
            return model.storage_key in row.models and row.address == generator.address

    wait_until(is_held, what="the heartbeat names the model", timeout=10)
    database.close()


def test_sigterm_finishes_what_was_begun_and_cuts_what_takes_too_long(settings: Settings, model: ServedModel) -> None:
    with GeneratorProcess(settings.model_copy(update={"drain_seconds": 2.0}), settings.home) as generator:
        process = generator.process
        assert process is not None

        async def scenario() -> None:
            async with generator.client() as client, generator.client() as other:
                await ask(client, asking(model, "load the model"))
                short = asking(model, "hello", max_tokens=60, **ENDLESS)
                long = asking(model, "x", n=16, **LONG)
                async with asked(client, short) as first, asked(other, long) as second:
                    lines, others = [await anext(first)], [await anext(second)]
                    process.send_signal(signal.SIGTERM)
                    lines += [line async for line in first]
                    others += [line async for line in second]
                assert lines[-1].kind == "usage"
                assert len([line for line in lines if line.kind == "token"]) == 60
                assert others[-1].kind == "error"
                assert others[-1].code == "unavailable"

        asyncio.run(scenario())
        assert process.wait(10) == 0
        database = Database(settings.database_url)
        with database.reading() as session:
            assert process.pid not in {row.pid for row in workers.alive(session)}
        database.close()


def test_it_does_not_start_without_a_token(settings: Settings, tmp_path: Path) -> None:
    bare = settings.model_copy(update={"generator_token": ""})
    with pytest.raises(RuntimeError, match="WEIGHTSMITH_GENERATOR_TOKEN is not set"), GeneratorProcess(bare, tmp_path):
        pass


def test_the_manifest_is_the_key(model: ServedModel, settings: Settings) -> None:
    manifest = open_storage(settings.storage_url).directory(model.storage_key) / "manifest.json"
    assert hashlib.sha256(manifest.read_bytes()).hexdigest() == model.manifest_sha256
