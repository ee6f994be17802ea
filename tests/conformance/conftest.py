"""The real `openai` client against a real server on a real PostgreSQL; a worker where a test asks for one."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
import torch

from core.data.tokenizer import Tokenizer
from core.jobs import keys
from core.models.config import Dimensions, ModelConfig
from core.models.directory import write_model_config
from core.models.transformer import Transformer
from core.models.weights import save_weights
from tests.apis import CHAT, TINY
from tests.services import Postgres, Valkey, free_port, wait_until
from tests.stack import Stack


class Recorder(httpx2.HTTPTransport):
    """What the SDK sends, and, once, an answer that gets lost on its way back."""

    def __init__(self) -> None:
        super().__init__()
        self.requests: list[httpx2.Request] = []
        self.lost_answers = 0

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        self.requests.append(request)
        response = super().handle_request(request)
        if self.lost_answers:
            self.lost_answers -= 1
            response.read()
            return httpx2.Response(500, json={"error": {"message": "lost"}})
        return response


class Service:
    """A deployment of one api process, and what a user of it holds."""

    def __init__(self, stack: Stack, base_url: str, key: str, models: Path) -> None:
        self.stack, self.base_url, self.key = stack, base_url, key
        self.base = self.import_model(models)
        self._worker_runs = False

    def client(self, transport: httpx2.HTTPTransport | None = None, **options: Any) -> openai.OpenAI:
        http = openai.DefaultHttpxClient(transport=transport, trust_env=False)
        given = {"base_url": f"{self.base_url}/v1", "api_key": self.key} | options
        return openai.OpenAI(http_client=http, **given)

    def import_model(self, path: Path) -> str:
        headers = {"authorization": f"Bearer {self.key}"}
        body = {"path": str(path), "name": "base-model"}
        with httpx2.Client(trust_env=False, timeout=30) as client:
            answer = client.post(f"{self.base_url}/v1/models/import", json=body, headers=headers)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    def ensure_worker(self) -> None:
        if not self._worker_runs:
            self.stack.start_worker()
            self._worker_runs = True


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model as `transformers` would save it."""
    torch.manual_seed(1)
    folder, tokenizer = tmp_path_factory.mktemp("hub") / "tiny", Tokenizer.bytes()
    folder.mkdir()
    config = ModelConfig.from_dimensions("llama", Dimensions(**TINY), vocab_size=tokenizer.vocab_size)
    save_weights(Transformer(config), folder)
    stops = sorted(tokenizer.stop_ids)
    write_model_config(folder, config, pad=tokenizer.pad, end_of_text=tokenizer.end_of_text, stop_ids=stops)
    tokenizer.save(folder)
    return folder


@pytest.fixture(scope="session")
def service(
    tmp_path_factory: pytest.TempPathFactory,
    postgres_server: Postgres,
    migrated_postgres: str,
    models: Path,
) -> Iterator[Service]:
    """It lives as long as the test run, so it has a broker of its own: its worker would take the hints of others."""
    folder = tmp_path_factory.mktemp("service")
    postgres_server.start()
    url = postgres_server.url(postgres_server.create_database(template=migrated_postgres))
    with (
        Valkey() as valkey,
        Stack(
            folder, database_url=url, redis_url=valkey.url, import_folders=[models.parent], min_free_bytes=0
        ) as stack,
    ):
        with stack.database.transaction() as session:
            key, _ = keys.create_key(session, keys.ensure_project(session, "lab"), name="t", scopes=["admin"])
        port = free_port()
        stack.start_api(port)
        base_url = f"http://127.0.0.1:{port}"

        def ready() -> bool:
            try:
                return httpx2.get(f"{base_url}/readyz", trust_env=False).status_code == 200
            except httpx2.TransportError:
                return False

        wait_until(ready, what="the api")
        yield Service(stack, base_url, key, models)


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def client(service: Service, recorder: Recorder) -> Iterator[openai.OpenAI]:
    with service.client(recorder) as made:
        yield made


@pytest.fixture
def chat_file(client: openai.OpenAI) -> str:
    return client.files.create(file=("chat.jsonl", CHAT), purpose="fine-tune").id


def error_body(error: openai.APIStatusError) -> Any:
    return json.loads(error.response.text)["error"]
