"""A generator and an api as processes, a project with a key, and models in it."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import openai
import pytest

from core.generation_request import ServedModel
from core.jobs import database, keys
from core.jobs.database import Database
from core.jobs.tables import Alias, Model
from core.models.directory import read_model_config
from core.settings import Settings
from core.storage import open_storage
from tests.generators import GeneratorProcess, generator_settings, put_model
from tests.services import free_port, spawn, wait_until

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Service:
    """What a user of the service knows, and what its operator sees."""

    base_url: str
    api_key: str
    model: str
    settings: Settings
    served: ServedModel
    generator: GeneratorProcess

    def client(self, **options: object) -> openai.OpenAI:
        return openai.OpenAI(base_url=self.base_url, api_key=self.api_key, max_retries=0, **options)  # type: ignore[arg-type]

    def http(self) -> httpx.Client:
        headers = {"authorization": f"Bearer {self.api_key}"}
        return httpx.Client(base_url=self.base_url, headers=headers, timeout=30, trust_env=False)


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with serving(tmp_path_factory.mktemp("service")) as running:
        yield running


@contextmanager
def serving(folder: Path) -> Iterator[Service]:
    url = f"sqlite:///{folder / 'weightsmith.db'}"
    database.migrate(url)
    settings = generator_settings(folder, url, generator_max_waiting=8)
    served = put_model(settings, folder / "made")
    key = add_model(settings, served)
    port = free_port()
    api = spawn(
        [sys.executable, "-m", "uvicorn", "--factory", "api.app:create_app", "--port", str(port), "--no-access-log"],
        log=folder / "api.log",
        env=dict(os.environ) | settings.environment(),
        cwd=ROOT,
    )
    with GeneratorProcess(settings, folder) as generator:
        base_url = f"http://127.0.0.1:{port}"

        def answers() -> bool:
            if api.poll() is not None:
                raise RuntimeError((folder / "api.log").read_text())
            try:
                return httpx.get(f"{base_url}/healthz", trust_env=False).status_code == 200
            except httpx.TransportError:
                return False

        wait_until(answers, what="the api")
        yield Service(f"{base_url}/v1", key, served.id, settings, served, generator)
    api.kill()
    api.wait(10)


def add_model(settings: Settings, served: ServedModel, *, alias: str = "gpt-4o-mini") -> str:
    """Rows as a finished job leaves them, an alias, and a key that may generate and read."""
    store = Database(settings.database_url)
    config = read_model_config(open_storage(settings.storage_url).directory(served.storage_key) / "model")
    with store.transaction() as session:
        project = keys.ensure_project(session, "test")
        key, _ = keys.create_key(session, project, name="test", scopes=["generate", "read"])
        model = Model(
            name=served.id,
            project_id=project.id,
            root="tiny",
            config=config.model_dump(mode="json"),
            num_parameters=config.num_parameters(),
            metrics={},
            has_chat_template=True,
            storage_key=served.storage_key,
            manifest_sha256=served.manifest_sha256,
            size_bytes=1,
        )
        session.add_all([model, Alias(project_id=project.id, alias=alias, model_name=served.id)])
    store.close()
    return key
