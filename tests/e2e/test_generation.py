"""Generation with the real `openai` client against a real api and a real generator."""

import asyncio
import json
import socket
import time
from typing import Any

import httpx
import openai
import psutil
import pytest

from core.data.tokenizer import Tokenizer
from tests.e2e.conftest import Service
from tests.generators import CONTEXT

ENDLESS = {str(id): -100 for id in Tokenizer.bytes().stop_ids}
CHAT: list[Any] = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello?"}]


def test_completion(service: Service) -> None:
    answer = service.client().completions.create(model=service.model, prompt="hello", temperature=0, logit_bias=ENDLESS)
    assert answer.id.startswith("cmpl-")
    assert answer.object == "text_completion"
    assert answer.model == service.model
    assert answer.system_fingerprint is not None
    assert abs(answer.created - time.time()) < 60
    [choice] = answer.choices
    assert (choice.index, choice.finish_reason, choice.logprobs) == (0, "length", None)
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (5, 16, 21)
    assert answer._request_id is not None


@pytest.mark.parametrize(
    ("prompt", "choices", "tokens"),
    [
        ("hello", 1, 5),
        (["hello", "you"], 2, 8),
        (list(b"hello"), 1, 5),
        ([list(b"hello"), list(b"you")], 2, 8),
        ("", 1, 1),
    ],
)
def test_every_kind_of_prompt(service: Service, prompt: Any, choices: int, tokens: int) -> None:
    client = service.client()
    answer = client.completions.create(model=service.model, prompt=prompt, temperature=0, max_tokens=4, n=2)
    assert [choice.index for choice in answer.choices] == list(range(2 * choices))
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == tokens
    if prompt and isinstance(prompt, list):
        alone = client.completions.create(model=service.model, prompt="hello", temperature=0, max_tokens=4)
        assert answer.choices[0].text == answer.choices[1].text == alone.choices[0].text


def test_completion_logprobs_and_echo(service: Service) -> None:
    """As lm-eval-harness scores: the log-probabilities of the prompt itself."""
    client = service.client()
    answer = client.completions.create(
        model=service.model, prompt="hé!", echo=True, max_tokens=0, logprobs=1, temperature=0
    )
    [choice] = answer.choices
    assert choice.text == "hé!"
    assert choice.finish_reason == "length"
    logprobs = choice.logprobs
    assert logprobs is not None
    assert logprobs.tokens == ["h", "bytes:\\xc3", "bytes:\\xa9", "!"]
    assert logprobs.text_offset == [0, 1, 1, 2]
    assert logprobs.token_logprobs is not None
    assert logprobs.top_logprobs is not None
    assert logprobs.token_logprobs[0] is None
    assert logprobs.top_logprobs[0] is None
    for token, value, top in zip(
        logprobs.tokens[1:], logprobs.token_logprobs[1:], logprobs.top_logprobs[1:], strict=True
    ):
        assert value is not None
        assert value < 0
        assert top[token] == value
        assert len(top) <= 2
    longer = client.completions.create(
        model=service.model, prompt="hé!", echo=True, max_tokens=3, logprobs=0, temperature=0, logit_bias=ENDLESS
    )
    assert longer.choices[0].text.startswith("hé!")
    assert longer.choices[0].logprobs is not None
    assert longer.choices[0].logprobs.token_logprobs is not None
    assert longer.choices[0].logprobs.token_logprobs[1:4] == logprobs.token_logprobs[1:]
    assert len(longer.choices[0].logprobs.token_logprobs) == 7


def test_streamed_completion_is_the_whole_one(service: Service) -> None:
    client = service.client()
    options: dict[str, Any] = {"model": service.model, "prompt": ["hello", "you"], "max_tokens": 20, "seed": 5, "n": 2}
    options |= {"logit_bias": ENDLESS, "logprobs": 2}
    whole = client.completions.create(**options)
    chunks = list(client.completions.create(**options, stream=True, stream_options={"include_usage": True}))
    for choice in whole.choices:
        mine = [c for chunk in chunks for c in chunk.choices if c.index == choice.index]
        assert "".join(c.text for c in mine) == choice.text
        assert [c.finish_reason for c in mine if c.finish_reason] == ["length"]
        assert mine[-1].finish_reason == "length"
        assert choice.logprobs is not None
        offsets = [offset for c in mine if c.logprobs for offset in c.logprobs.text_offset or []]
        assert offsets == choice.logprobs.text_offset
    assert chunks[-1].choices == []
    assert chunks[-1].usage == whole.usage
    assert len({chunk.id for chunk in chunks}) == 1
    bare = list(client.completions.create(**options, stream=True))
    assert all(chunk.usage is None and chunk.choices for chunk in bare)


def test_chat(service: Service) -> None:
    answer = service.client().chat.completions.create(
        model="gpt-4o-mini", messages=CHAT, max_tokens=12, temperature=0, logprobs=True, top_logprobs=3, n=2,
        logit_bias={int(id): bias for id, bias in ENDLESS.items()},
    )  # fmt: skip
    assert answer.id.startswith("chatcmpl-")
    assert answer.object == "chat.completion"
    assert answer.model == service.model  # the alias is resolved
    assert [choice.index for choice in answer.choices] == [0, 1]
    first = answer.choices[0]
    assert first.message.role == "assistant"
    assert first.message.content == answer.choices[1].message.content
    assert first.finish_reason == "length"
    assert first.logprobs is not None
    content = first.logprobs.content
    assert content is not None
    assert len(content) == 12
    assert (
        bytes(byte for token in content for byte in token.bytes or []).decode(errors="replace") == first.message.content
    )
    assert all(len(token.top_logprobs) == 3 and token.top_logprobs[0].logprob >= token.logprob for token in content)


def test_streamed_chat_is_the_whole_one(service: Service) -> None:
    client = service.client()
    options: dict[str, Any] = {"model": service.model, "messages": CHAT, "max_completion_tokens": 20, "seed": 5, "n": 2}
    whole = client.chat.completions.create(**options)
    chunks = list(client.chat.completions.create(**options, stream=True, stream_options={"include_usage": True}))
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
    for choice in whole.choices:
        mine = [c for chunk in chunks for c in chunk.choices if c.index == choice.index]
        assert mine[0].delta.role == "assistant"
        assert all(c.delta.role is None for c in mine[1:])
        assert "".join(c.delta.content or "" for c in mine) == choice.message.content
        assert mine[-1].finish_reason == choice.finish_reason
        assert mine[-1].delta.content is None
        assert all(c.finish_reason is None for c in mine[:-1])
    assert chunks[-1].choices == []
    assert chunks[-1].usage == whole.usage


def test_stop_strings(service: Service) -> None:
    client = service.client()
    options: dict[str, Any] = {"model": service.model, "prompt": "hello", "temperature": 0, "max_tokens": 40}
    text = client.completions.create(**options).choices[0].text
    answer = client.completions.create(**options, stop=text[10:12]).choices[0]
    assert (answer.text, answer.finish_reason) == (text[: text.index(text[10:12])], "stop")


def test_a_chat_without_a_limit_may_fill_the_context(service: Service) -> None:
    """Ends by itself here; what counts is that no limit of 16 is applied."""
    answer = service.client().chat.completions.create(model=service.model, messages=CHAT, temperature=0, stop=["\x00"])
    assert answer.choices[0].finish_reason in ("stop", "length")
    assert answer.usage is not None
    if answer.choices[0].finish_reason == "length":
        assert answer.usage.total_tokens == CONTEXT


IMAGE: list[Any] = [{"role": "user", "content": [{"type": "image_url"}]}]
REFUSED: list[tuple[str, dict[str, Any], str | None, str]] = [
    ("completions", {"max_tokens": CONTEXT}, "max_tokens", "context_length_exceeded"),
    ("completions", {"prompt": "x" * CONTEXT}, "prompt", "context_length_exceeded"),
    ("completions", {"prompt": [99999]}, "prompt", "invalid_request"),
    ("completions", {"prompt": []}, "prompt", "invalid_request"),
    ("completions", {"prompt": [[]]}, "prompt.0", "invalid_request"),
    ("completions", {"prompt": None}, "prompt", "invalid_request"),
    ("completions", {"logit_bias": {"99999": 1}}, "logit_bias", "invalid_request"),
    ("completions", {"logit_bias": {"5": 101}}, "logit_bias.5", "invalid_request"),
    ("completions", {"temperature": 2.5}, "temperature", "invalid_request"),
    ("completions", {"n": 17}, "n", "invalid_request"),
    ("completions", {"n": 0}, "n", "invalid_request"),
    ("completions", {"logprobs": 6}, "logprobs", "invalid_request"),
    ("completions", {"stop": list("abcde")}, "stop", "invalid_request"),
    ("completions", {"best_of": 2}, "best_of", "invalid_request"),
    ("completions", {"suffix": "x"}, "suffix", "invalid_request"),
    ("completions", {"surprise": 1}, "surprise", "invalid_request"),
    ("completions", {"stream_options": {"include_usage": True}}, "stream_options", "invalid_request"),
    ("completions", {"prompt": ["x"] * 100, "n": 2}, "prompt", "invalid_request"),
    ("completions", {"prompt": "\ud800"}, "prompt", "invalid_request"),
    ("completions", {"model": "nobody"}, "model", "model_not_found"),
    ("chat/completions", {"messages": []}, "messages", "invalid_request"),
    ("chat/completions", {"messages": [{"role": "wizard", "content": "x"}]}, "messages", "invalid_request"),
    ("chat/completions", {"messages": IMAGE}, "messages", "invalid_request"),
    ("chat/completions", {"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools", "invalid_request"),
    ("chat/completions", {"response_format": {"type": "json_object"}}, "response_format", "invalid_request"),
    ("chat/completions", {"top_logprobs": 2}, "top_logprobs", "invalid_request"),
    ("chat/completions", {"top_logprobs": 21, "logprobs": True}, "top_logprobs", "invalid_request"),
    ("chat/completions", {"max_tokens": 5, "max_completion_tokens": 6}, "max_completion_tokens", "invalid_request"),
    ("chat/completions", {"max_tokens": CONTEXT}, "max_tokens", "context_length_exceeded"),
    ("chat/completions", {"store": True}, "store", "invalid_request"),
    ("chat/completions", {"web_search_options": {}}, "web_search_options", "invalid_request"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "change", "param", "code"), REFUSED)
def test_what_is_wrong_is_refused_by_name(
    service: Service, path: str, change: dict[str, Any], param: str | None, code: str
) -> None:
    body: dict[str, Any] = {"model": service.model} | ({"messages": CHAT} if "chat" in path else {"prompt": "hello"})
    for stream in ({}, {"stream": True}) if "stream_options" not in change else ({},):
        with service.http() as http:
            answer = http.post(
                path, content=json.dumps(body | stream | change).encode(), headers={"content-type": "application/json"}
            )
        assert answer.status_code == (404 if code == "model_not_found" else 400), answer.text
        error = answer.json()["error"]
        assert (error["param"], error["code"]) == (param, code)


def test_what_does_nothing_is_accepted(service: Service) -> None:
    nothing: dict[str, Any] = {
        "user": "me", "metadata": {"a": "b"}, "store": False, "tools": [], "tool_choice": "none", "seed": None,
        "service_tier": "auto", "parallel_tool_calls": True, "prompt_cache_key": "k", "stop": None, "n": None,
        "temperature": None, "logit_bias": None, "modalities": ["text"], "stream": False, "stream_options": None,
        "response_format": {"type": "text"},
    }  # fmt: skip
    with service.http() as http:
        answer = http.post(
            "chat/completions", json={"model": service.model, "messages": CHAT, "max_tokens": 2} | nothing
        )
        assert answer.status_code == 200, answer.text
        plain = {"model": service.model, "prompt": "x", "max_tokens": 2, "best_of": 1, "suffix": None, "user": "me"}
        assert http.post("completions", json=plain).status_code == 200


def test_who_may_not_generate(service: Service) -> None:
    stranger = openai.OpenAI(base_url=service.base_url, api_key="ws_no_key_00000000", max_retries=0)
    with pytest.raises(openai.AuthenticationError):
        stranger.completions.create(model=service.model, prompt="x")


def test_tokenize(service: Service) -> None:
    with service.http() as http:
        found = http.post("tokenize", json={"model": "gpt-4o-mini", "text": "hé"}).json()
        assert (found["ids"], found["count"], found["model"]) == ([104, 195, 169], 3, service.model)
        assert found["context_length"] == CONTEXT
        chat = http.post("tokenize", json={"model": service.model, "messages": CHAT}).json()
        answer = http.post("chat/completions", json={"model": service.model, "messages": CHAT, "max_tokens": 1}).json()
        assert chat["count"] == answer["usage"]["prompt_tokens"]
        assert http.post("tokenize", json={"model": service.model}).status_code == 400


async def idle(service: Service) -> dict[str, int]:
    async with service.generator.client() as watcher:
        return await service.generator.until(watcher, answers=0, slots_used=0)


async def busy(service: Service, slots: int) -> dict[str, int]:
    async with service.generator.client() as watcher:
        return await service.generator.until(watcher, slots_used=slots)


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("path", ["completions", "chat/completions"])
def test_a_client_who_leaves_frees_the_slots(service: Service, path: str, stream: bool) -> None:
    body: dict[str, Any] = {"model": service.model, "max_tokens": 3500, "n": 4, "stream": stream, "logit_bias": ENDLESS}
    body |= {"messages": CHAT} if "chat" in path else {"prompt": "x"}

    async def scenario() -> None:
        before = (await idle(service))["tokens"]
        headers = {"authorization": f"Bearer {service.api_key}"}
        async with httpx.AsyncClient(base_url=service.base_url, headers=headers, timeout=60) as client:
            asking = asyncio.create_task(client.post(path, json=body))
            await busy(service, 4)
            asking.cancel()
        figures = await idle(service)
        assert figures["tokens"] - before < 4 * 1500  # of 14,000

    asyncio.run(scenario())


def test_a_client_who_stalls_does_not_hold_memory(service: Service) -> None:
    """It would be sent 50 MB. What the sockets of this machine take is a part of it."""
    body = {"model": service.model, "messages": CHAT, "max_tokens": 3500, "n": 8, "logprobs": True, "top_logprobs": 20}
    content = json.dumps(body | {"logit_bias": ENDLESS, "stream": True}).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer {service.api_key}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(content)}\r\n\r\n"
    )
    stalled = socket.socket()
    stalled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    url = httpx.URL(service.base_url)
    assert url.port is not None

    async def scenario() -> None:
        before = (await idle(service))["tokens"]
        stalled.connect((url.host, url.port))
        stalled.sendall(head.encode() + content)
        figures = await busy(service, 8)
        tokens, last = figures["tokens"], -1
        while tokens != last:
            await asyncio.sleep(0.3)
            async with service.generator.client() as watcher:
                last, tokens = tokens, (await service.generator.figures(watcher))["tokens"]
        assert tokens - before < 8 * 3000  # the api's buffers are bounded too, so the generator pauses
        client = service.client()
        assert client.completions.create(model=service.model, prompt="quick").choices
        stalled.close()
        await idle(service)

    asyncio.run(scenario())


def test_too_many_at_once_are_told_when_to_come_back(service: Service) -> None:
    async def one(client: openai.AsyncOpenAI) -> openai.RateLimitError | None:
        try:
            stream = await client.completions.create(
                model=service.model, prompt="x", max_tokens=3000, stream=True, logit_bias=ENDLESS
            )
        except openai.RateLimitError as error:
            return error
        await asyncio.sleep(3.0)
        await stream.close()
        return None

    async def scenario() -> None:
        await idle(service)
        http = httpx.Limits(max_connections=None)
        async with openai.AsyncOpenAI(
            base_url=service.base_url,
            api_key=service.api_key,
            max_retries=0,
            http_client=openai.DefaultAsyncHttpxClient(limits=http),  # type: ignore[arg-type]
        ) as client:
            results = await asyncio.gather(*(one(client) for _ in range(80)))
        refused = [error for error in results if error is not None]
        assert 20 <= len(refused) <= 80 - 32  # 32 have a slot, about 8 wait
        for error in refused:
            assert error.code == "rate_limit_exceeded"
            assert float(error.response.headers["retry-after"]) >= 1
            assert float(error.response.headers["retry-after-ms"]) <= 120_000
        await idle(service)

    asyncio.run(scenario())


def test_the_api_holds_no_tensors(service: Service) -> None:
    """It has just served: a process that had loaded torch would be far larger."""
    port = httpx.URL(service.base_url).port
    [listening] = [c for c in psutil.net_connections("tcp") if c.status == psutil.CONN_LISTEN and c.laddr.port == port]
    maps = {m.path for m in psutil.Process(listening.pid).memory_maps()}
    assert not any("libtorch" in path for path in maps)
