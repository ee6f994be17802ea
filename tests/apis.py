"""The api in this process, over a real database and a real folder: for tests that need no worker."""

import contextlib
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from fastapi.testclient import TestClient

from api.app import create_app
from core.jobs import keys, store
from core.jobs.database import Database
from core.jobs.keys import SCOPES, Scope
from core.jobs.store import Claim
from core.jobs.tables import Table
from core.settings import Settings
from core.storage import Storage
from tests.services import wait_until

NO_BROKER = "redis://127.0.0.1:1/0"
TEXT = "It was the best of times, it was the worst of times.\n" * 40
CHAT = b'{"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]}\n' * 12
TINY = {"hidden_size": 32, "num_layers": 1, "num_heads": 2, "context_length": 64}


class Api:
    """A running app, a client with a key of project `lab`, and what an operator sees."""

    def __init__(self, folder: Path, database_url: str, **settings: Any) -> None:
        given: dict[str, Any] = {"redis_url": NO_BROKER, "min_free_bytes": 0, "log_level": "error"} | settings
        self.settings = Settings(home=folder, database_url=database_url, **given)
        self.app = create_app(self.settings)
        self.http = TestClient(self.app, raise_server_exceptions=False)

    def cleaned(self) -> "Api":
        """As if nothing had ever been done: no rows but a new key of the client's own."""
        with self.database.transaction() as session:
            for table in reversed(Table.metadata.sorted_tables):
                if table.name != "job_transitions":
                    session.execute(table.delete())
        self.http.headers.update(self.headers())
        return self

    @property
    def database(self) -> Database:
        return self.app.state.services.database  # type: ignore[no-any-return]

    @property
    def storage(self) -> Storage:
        return self.app.state.services.storage  # type: ignore[no-any-return]

    def key(self, project: str = "lab", *, scopes: Sequence[Scope] = SCOPES, seconds: float | None = None) -> str:
        with self.database.transaction() as session:
            row = keys.ensure_project(session, project)
            return keys.create_key(session, row, name="test", scopes=scopes, expires_in_seconds=seconds)[0]

    def headers(self, project: str = "lab", *, scopes: Sequence[Scope] = SCOPES) -> dict[str, str]:
        return {"authorization": f"Bearer {self.key(project, scopes=scopes)}"}

    def project_id(self, name: str = "lab") -> str:
        with self.database.reading() as session:
            return keys.get_project(session, name).id

    def put(self, content: bytes | str = TEXT, *, filename: str = "times.txt", purpose: str = "fine-tune") -> Any:
        """Upload a file; returns the file object."""
        raw = content.encode() if isinstance(content, str) else content
        answer = self.http.post("/v1/files", files={"file": (filename, raw)}, data={"purpose": purpose})
        assert answer.status_code == 200, answer.text
        return answer.json()

    def submit(self, **fields: Any) -> Any:
        """Submit a tiny train job; returns the job object."""
        answer = self.http.post("/v1/jobs", json=train(fields.pop("file", None) or self.put()["id"], **fields))
        assert answer.status_code == 201, answer.text
        return answer.json()

    def claim(self, queue: str = "light", worker: str = "w") -> Claim:
        """What a worker does first. (The dispatcher may hold the row for the blink of an eye.)"""
        found: list[Claim] = []

        def take() -> bool:
            with self.database.transaction() as session:
                claim = store.claim(session, queue=queue, worker=worker, lease_seconds=60)
            found.extend([claim] if claim else [])
            return bool(found)

        wait_until(take, what="a claim")
        return found[0]


def train(file_id: str, **fields: Any) -> dict[str, Any]:
    return {
        "kind": "train",
        "model": {"init": "random", "dimensions": TINY, "tokenizer": "bytes"},
        "data": {"train": [{"file": file_id}]},
        "budget": {"steps": 20},
    } | fields


@contextlib.contextmanager
def running_api(folder: Path, database_url: str, **settings: Any) -> Iterator[Api]:
    """The app with its lifespan; its client sends a key that may do everything."""
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    api = Api(folder, database_url, **settings)
    try:
        with api.http:
            api.http.headers.update(api.headers())
            yield api
    finally:
        root.handlers = before
        root.setLevel(level)
