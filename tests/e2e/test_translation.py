"""Encoder-decoders with the real `openai` client: greedy, drawn, beams, streams, and what they refuse."""

import asyncio
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
import torch

from core.data.tokenizer import Tokenizer
from core.models import families
from core.models.config import Dimensions, FamilyName
from core.models.transformer import Transformer
from tests.e2e.conftest import Service, add_model
from tests.generators import put_model
from tests.unit.core.models.tiny import made

CONTEXT = 64
TOKENIZER = Tokenizer.bytes()
FAMILIES: dict[str, FamilyName] = {"marian": "transformer", "t5": "t5"}


def writer(family: FamilyName) -> Transformer:
    """Random weights, and letters are likelier than other bytes."""
    dims = Dimensions(hidden_size=32, num_layers=2, num_heads=4, context_length=CONTEXT, tied_embeddings=False)
    model = made(families.shape(family, dims, vocab_size=TOKENIZER.vocab_size))
    with torch.no_grad():
        model.lm_head.weight[97:123] *= 3
    return model


@pytest.fixture(scope="module")
def translators(service: Service) -> Service:
    for name, family in FAMILIES.items():
        served = put_model(service.settings, service.settings.home / "translators", name=name, made=writer(family))
        add_model(service.settings, served, alias=name)
    return service


@pytest.fixture(params=FAMILIES)
def model(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def client(translators: Service) -> Iterator[openai.OpenAI]:
    with translators.client() as opened:
        yield opened


def test_greedy_is_one_beam_and_the_whole_answer_comes(client: openai.OpenAI, model: str) -> None:
    """No `max_tokens`: until it ends by itself, or the context is full."""
    greedy = client.completions.create(model=model, prompt="hello", temperature=0)
    assert greedy.usage is not None
    assert greedy.usage.prompt_tokens == 6  # with the source's end
    assert 16 < greedy.usage.completion_tokens <= CONTEXT or greedy.choices[0].finish_reason == "stop"
    one_beam = client.completions.create(model=model, prompt="hello", temperature=0, extra_body={"num_beams": 1})
    assert one_beam.choices[0].text == greedy.choices[0].text
    short = client.completions.create(model=model, prompt="hello", temperature=0, max_tokens=3, logprobs=2)
    assert greedy.choices[0].text.startswith(short.choices[0].text)
    assert short.choices[0].finish_reason == "length"
    assert short.choices[0].logprobs is not None
    assert len(short.choices[0].logprobs.token_logprobs or []) == 3


def test_beams(client: openai.OpenAI, model: str) -> None:
    body: dict[str, Any] = {"num_beams": 4, "length_penalty": 0.6}
    prompts = ["hello", "a longer source"]
    whole = client.completions.create(model=model, prompt=prompts, n=2, max_tokens=12, extra_body=body)
    assert [choice.index for choice in whole.choices] == [0, 1, 2, 3]
    assert whole.choices[0].text != whole.choices[1].text
    alone = client.completions.create(model=model, prompt=prompts[1], n=2, max_tokens=12, extra_body=body)
    assert [choice.text for choice in alone.choices] == [choice.text for choice in whole.choices[2:]]
    stream = client.completions.create(model=model, prompt=prompts[1], max_tokens=12, stream=True, extra_body=body)
    assert "".join(choice.text for chunk in stream for choice in chunk.choices) == alone.choices[0].text


def test_drawn_and_streamed(client: openai.OpenAI, model: str) -> None:
    asked: dict[str, Any] = {"model": model, "prompt": "hello", "temperature": 1.0, "seed": 5, "max_tokens": 12}
    drawn = client.completions.create(**asked, n=3)
    assert len({choice.text for choice in drawn.choices}) == 3
    stream = client.completions.create(**asked, stream=True)
    assert "".join(chunk.choices[0].text for chunk in stream) == drawn.choices[0].text
    text = drawn.choices[0].text
    stopped = client.completions.create(**asked, stop=text[2:4])
    assert stopped.choices[0].text == text[: text.index(text[2:4])]
    chat = client.chat.completions.create(model=model, messages=[{"role": "user", "content": "hi"}], max_tokens=4)
    assert chat.choices[0].finish_reason in ("stop", "length")


@pytest.mark.parametrize(
    ("change", "code", "param", "words"),
    [
        ({"model": "gpt-4o-mini", "num_beams": 2}, "invalid_request", "num_beams", "only encoder-decoders"),
        ({"num_beams": 2, "temperature": 0.7}, "invalid_request", None, "`temperature` has no meaning in beam search"),
        ({"num_beams": 2, "logprobs": 0}, "invalid_request", None, "`logprobs` are not told"),
        ({"num_beams": 2, "n": 3}, "invalid_request", "n", "2 beams find 2 answers at most"),
        ({"num_beams": 17}, "invalid_request", "num_beams", "num_beams"),
        ({"length_penalty": 2}, "invalid_request", None, "needs `num_beams`"),
        ({"echo": True}, "invalid_request", "echo", "does not go on from the prompt"),
        ({"prompt": "x" * 64}, "context_length_exceeded", "prompt", "reads at most 64"),
    ],
)
def test_refused(translators: Service, change: dict[str, Any], code: str, param: str | None, words: str) -> None:
    with translators.http() as http:
        answer = http.post("/completions", json={"model": "t5", "prompt": "hello"} | change)
        error = answer.json()["error"]
        assert (answer.status_code, error["code"], error["param"]) == (400, code, param), error
        assert words in error["message"]


def test_who_leaves_frees_the_rows(translators: Service) -> None:
    async def scenario() -> None:
        async with translators.generator.client() as figures:
            await translators.generator.until(figures, slots_used=0, answers=0)
            headers = {"authorization": f"Bearer {translators.api_key}"}
            async with httpx.AsyncClient(base_url=translators.base_url, headers=headers, trust_env=False) as http:
                bias = {str(id): -100 for id in TOKENIZER.stop_ids}
                body = {"model": "t5", "prompt": ["x"] * 8, "n": 16, "stream": True, "logit_bias": bias}
                async with http.stream("POST", "/completions", json=body, timeout=30) as response:
                    await anext(response.aiter_lines())
            await translators.generator.until(figures, slots_used=0, answers=0)

    asyncio.run(scenario())


def test_tokens_of_a_source(translators: Service) -> None:
    with translators.http() as http:
        found = http.post("/tokenize", json={"model": "t5", "text": "hi"}).json()
    assert found["ids"] == [*b"hi", TOKENIZER.end_of_text]
