"""A pool process without Celery: real SQLite, real storage, real child processes that follow a script."""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import pytest
from celery import Celery

from core.job_spec import TokenizerSpec
from core.jobs import store
from core.jobs.tables import Job
from core.settings import Settings
from tests.jobs import add_file, add_project, look, submit, train_spec
from tests.unit.worker.fake_child import FACTS
from worker.child import Child
from worker.place import Drain, Place
from worker.tasks import work_once

FAKE = "tests.unit.worker.fake_child"


class Hints:
    """Stands for the broker: remembers what was sent."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, str]] = []

    def send_task(self, _name: str, *, args: list[str], queue: str, **_: object) -> None:
        self.sent.append((queue, args[0]))


class PlaceWithFakes(Place):
    """Starts the scripted child whatever program is asked for."""

    started: list[Child]

    def start(self, program: str, run_dir: Path, *, env: Mapping[str, str], threads: int) -> Child:
        child = super().start(program if program in self.spares else FAKE, run_dir, env=env, threads=threads)
        self.started.append(child)
        return child


class Bench:
    """What a test does with it."""

    def __init__(self, settings: Settings) -> None:
        self.read, self.written = os.pipe()
        self.hints = Hints()
        self.place = PlaceWithFakes(
            settings,
            cast(Celery, self.hints),
            worker="train@here:1",
            queues={store.LIGHT, store.TRAIN},
            drain=Drain(self.read),
        )
        self.place.started = []
        self.settings, self.database, self.storage = settings, self.place.database, self.place.storage
        self.project = add_project(self.database)
        self.file = add_file(self.database, self.storage, self.project, "some text\n")

    def submit(self, *script: list[Any], spec: dict[str, Any] | None = None, **scripts: list[list[Any]]) -> str:
        """A train job; `script_2=[…]` for the attempt with fence 2. Fence 1 is that of the validating stage."""
        metadata = {"script": json.dumps(script)} | {name: json.dumps(given) for name, given in scripts.items()}
        return submit(self.database, self.project, train_spec(self.file, metadata=metadata, **(spec or {})))

    def prepare(self) -> None:
        """The validating stage without a process."""
        with self.database.transaction() as session:
            claim = store.claim(session, queue=store.LIGHT, worker="light", lease_seconds=9.0)
            assert claim is not None
            store.finish_validating(session, claim, FACTS)
        self.storage.path("datasets/d1").mkdir(parents=True, exist_ok=True)

    def submit_tokenizer(self, *script: list[Any]) -> str:
        given = {"data": {"train": [{"file": self.file}]}, "metadata": {"script": json.dumps(script)}}
        return submit(self.database, self.project, TokenizerSpec.model_validate(given))

    def work(self, *queues: str) -> None:
        for queue in queues or (store.LIGHT, store.TRAIN):
            work_once(self.place, queue)

    def do(self, *script: list[Any], **given: Any) -> Job:
        """Submit, prepare, run one attempt."""
        job_id = self.submit(*script, **given)
        self.prepare()
        self.work("train")
        return look(self.database, job_id)

    def drain(self) -> None:
        os.close(self.written)
        self.written = -1

    def close(self) -> None:
        if self.written >= 0:
            os.close(self.written)
        os.close(self.read)
        self.place.close()
        assert self.place.slots is not None
        self.place.slots.close()
        self.database.close()


@pytest.fixture
def settings(sqlite_url: str, tmp_path: Path) -> Settings:
    return Settings(
        home=tmp_path,
        database_url=sqlite_url,
        lease_seconds=3.0,
        poll_seconds=0.1,
        drain_seconds=5.0,
        step_timeout_seconds=20.0,
        retry_base_seconds=0.0001,
        slot_threads=1,
        slot_memory_bytes=1 << 30,
        warm_spare=False,
    )


@pytest.fixture
def bench(settings: Settings) -> Iterator[Bench]:
    made = Bench(settings)
    yield made
    made.close()
