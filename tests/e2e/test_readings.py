"""Embeddings and classifications with the real `openai` client against a real api and a real generator."""

import base64
import struct
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest

from core.data.tokenizer import Tokenizer
from core.models import families
from core.models.config import Dimensions, FamilyName
from tests.e2e.conftest import Service, add_model
from tests.generators import put_model
from tests.unit.core.models.tiny import made

LABELS = ("B-X", "I-X", "O")
HEADS: dict[str, tuple[FamilyName, dict[str, Any]]] = {
    "embeds": ("bert", {"head": "embedding"}),
    "classifies": ("bert", {"head": "classifier", "labels": LABELS}),
    "ticks": ("llama", {"head": "classifier", "labels": LABELS, "many_labels": True}),
    "tags": ("bert", {"head": "tagger", "labels": LABELS}),
    "finds": ("bert", {"head": "span"}),
    "scores": ("llama", {"head": "score"}),
    "guesses": ("bert", {"head": "language_model"}),
}
CHAT = [{"role": "user", "content": "2?"}, {"role": "assistant", "content": "4"}]


@pytest.fixture(scope="module")
def readers(service: Service) -> Service:
    """One random model of each kind, by what it does."""
    for name, (family, head) in HEADS.items():
        dims = Dimensions(hidden_size=32, num_layers=2, num_heads=4, context_length=64)
        config = families.shape(family, dims, vocab_size=Tokenizer.bytes().vocab_size).with_head(**head)
        folder = service.settings.home / "readers"
        served = put_model(service.settings, folder, name=name, made=made(config))
        add_model(service.settings, served, alias=name)
    return service


@pytest.fixture
def client(readers: Service) -> Iterator[openai.OpenAI]:
    with readers.client() as opened:
        yield opened


@pytest.fixture
def http(readers: Service) -> Iterator[httpx.Client]:
    with readers.http() as opened:
        yield opened


def classify(http: httpx.Client, model: str, input: Any, **fields: Any) -> list[Any]:
    answer = http.post("/classifications", json={"model": model, "input": input} | fields)
    assert answer.status_code == 200, answer.text
    return list(answer.json()["data"])


def refusal(answer: httpx.Response) -> tuple[int, str, str]:
    error = answer.json()["error"]
    return answer.status_code, error["code"], error["message"]


def test_embeddings(client: openai.OpenAI) -> None:
    """The client asks for base64 where nothing is said."""
    answer = client.embeddings.create(model="embeds", input=["one", "another text"])
    assert answer.model == "pt:test:embeds"
    assert [item.index for item in answer.data] == [0, 1]
    assert answer.usage.prompt_tokens == answer.usage.total_tokens == 3 + 12 + 4
    vectors = [item.embedding for item in answer.data]
    assert [len(vector) for vector in vectors] == [32, 32]
    assert sum(x * x for x in vectors[0]) == pytest.approx(1)
    plain = client.embeddings.create(model="embeds", input="one", encoding_format="float").data[0].embedding
    assert plain == pytest.approx(vectors[0], abs=1e-5)
    as_ids = client.embeddings.create(model="embeds", input=[list(b"one"), list(b"another text")])
    assert as_ids.data[1].embedding == pytest.approx(vectors[1], abs=1e-5)
    few = client.embeddings.create(model="embeds", input="one", dimensions=8).data[0].embedding
    length = sum(x * x for x in plain[:8]) ** 0.5
    assert few == pytest.approx([x / length for x in plain[:8]], abs=1e-5)


def test_embeddings_on_the_wire(http: httpx.Client) -> None:
    body = {"model": "embeds", "input": list(b"one"), "encoding_format": "base64"}
    [item] = http.post("/embeddings", json=body).json()["data"]
    assert item["object"] == "embedding"
    assert len(struct.unpack("<32f", base64.b64decode(item["embedding"]))) == 32


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        ({"input": ""}, "invalid_request", "empty"),
        ({"input": ["a", ""]}, "invalid_request", "text 1 is empty"),
        ({"input": []}, "invalid_request", "input"),
        ({"input": "x" * 100}, "context_length_exceeded", "reads 62 at most"),
        ({"input": [9999]}, "invalid_request", "does not exist"),
        ({"dimensions": 64}, "invalid_request", "have 32"),
        ({"surprise": 1}, "invalid_request", "surprise"),
        ({"model": "gpt-4o-mini"}, "model_cannot_embed", "POST /v1/completions serves it"),
        ({"model": "guesses"}, "model_cannot_embed", "The objective contrastive makes a model of it that embeds"),
        ({"model": "tags"}, "model_cannot_embed", "POST /v1/classifications serves it"),
    ],
)
def test_embeddings_refused(http: httpx.Client, change: dict[str, Any], code: str, words: str) -> None:
    status, given, message = refusal(http.post("/embeddings", json={"model": "embeds", "input": "x"} | change))
    assert (status, given) == (400, code)
    assert words in message
    if code == "context_length_exceeded":
        cut = http.post("/embeddings", json={"model": "embeds", "truncate": True} | change)
        assert cut.json()["usage"]["prompt_tokens"] == 64


def test_labels(http: httpx.Client) -> None:
    one, two = classify(http, "classifies", ["a text", {"text": "a text", "text_pair": "another"}])
    for found in (one, two):
        assert found["object"] == "classification"
        assert sum(label["score"] for label in found["labels"]) == pytest.approx(1)
        assert found["label"] == found["labels"][0]["label"]
        assert {label["label"] for label in found["labels"]} == set(LABELS)
    assert one["labels"] != two["labels"]
    [ticked] = classify(http, "ticks", "a text", top_k=2)
    assert ticked["label"] is None
    assert len(ticked["labels"]) == 2


def test_tags(http: httpx.Client) -> None:
    text, listed = classify(http, "tags", ["He reckons so.", {"words": ["He", "reckons", "so", "."]}])
    assert [word["label"] for word in text["words"]] == [word["label"] for word in listed["words"]]
    assert [word["text"] for word in text["words"]] == ["He", "reckons", "so", "."]
    assert all(span["text"] == "He reckons so."[span["start"] : span["end"]] for span in text["spans"])


def test_answers(http: httpx.Client) -> None:
    context = "It was written by Ada. " * 20
    [found] = classify(http, "finds", {"question": "Who?", "context": context})
    assert found["object"] == "answers"
    assert len(found["answers"]) == 3
    for answer in found["answers"]:
        assert answer["start"] is None or answer["text"] == context[answer["start"] : answer["end"]]


def test_hidden_tokens(http: httpx.Client) -> None:
    [found] = classify(http, "guesses", "a [MASK] text, and <mask>", top_k=2)
    assert found["object"] == "masks"
    assert [(mask["start"], mask["end"], len(mask["tokens"])) for mask in found["masks"]] == [(2, 8, 2), (19, 25, 2)]
    _, code, message = refusal(http.post("/classifications", json={"model": "guesses", "input": "nothing hidden"}))
    assert (code, "write [MASK] where one is" in message) == ("no_mask", True)


def test_scores(http: httpx.Client) -> None:
    inputs = [{"messages": CHAT}, {"prompt": "2?", "completion": "4"}, "2?", {"text": "2?", "text_pair": "4"}]
    found = classify(http, "scores", inputs)
    assert {item["object"] for item in found} == {"score"}
    assert len({item["score"] for item in found}) == 4


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        ({"model": "gpt-4o-mini"}, "model_cannot_classify", "POST /v1/completions serves it"),
        ({"model": "embeds"}, "model_cannot_classify", "POST /v1/embeddings serves it"),
        ({"model": "finds"}, "wrong_input", "send {question, context}"),
        ({"input": {"text": "a", "surprise": 1}}, "invalid_request", "surprise"),
        ({"input": {"question": "a"}}, "invalid_request", "context"),
        ({"input": {"messages": CHAT}}, "wrong_input", "send a string"),
        ({"input": [["a"]]}, "invalid_request", "input"),
        ({"input": ""}, "invalid_request", "empty"),
        ({"input": ["a", "x" * 100]}, "context_length_exceeded", "set `truncate` to true"),
    ],
)
def test_classifications_refused(http: httpx.Client, change: dict[str, Any], code: str, words: str) -> None:
    body = {"model": "classifies", "input": "x"} | change
    status, given, message = refusal(http.post("/classifications", json=body))
    assert (status, given) == (400, code), message
    assert words in message


def test_who_is_asked_to_generate_says_who_serves_it(http: httpx.Client, client: openai.OpenAI) -> None:
    messages = [{"role": "user", "content": "hi"}]
    for path, asked in (("/completions", {"prompt": "x"}), ("/chat/completions", {"messages": messages})):
        status, code, message = refusal(http.post(path, json={"model": "classifies"} | asked))
        assert (status, code) == (400, "model_cannot_generate")
        assert "POST /v1/classifications serves it" in message
    found = {name: http.get(f"/models/{name}").json() for name in HEADS}
    assert found["embeds"]["endpoints"] == ["/v1/embeddings"]
    assert found["tags"]["endpoints"] == ["/v1/classifications"]
    listed = {model.id: model.model_extra or {} for model in client.models.list()}
    assert listed["pt:test:tiny"]["endpoints"] == ["/v1/completions", "/v1/chat/completions"]
