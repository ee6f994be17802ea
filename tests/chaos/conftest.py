"""One broker and one database for the module; the seed of every random choice, printed so that it can be repeated."""

import os
import random
import time
from collections.abc import Iterator

import pytest

from core.jobs import database as databases
from tests.services import Postgres, Valkey


@pytest.fixture(scope="session")
def seed() -> int:
    """`CHAOS_SEED=… make chaos` repeats a run."""
    return int(os.environ.get("CHAOS_SEED", time.time_ns() % 1_000_000))


@pytest.fixture
def dice(seed: int, request: pytest.FixtureRequest) -> random.Random:
    print(f"CHAOS_SEED={seed}")  # pytest shows it with a failure
    return random.Random(f"{seed} {request.node.name}")


@pytest.fixture(scope="module")
def broker() -> Iterator[Valkey]:
    with Valkey() as server:
        yield server


@pytest.fixture(scope="module")
def postgres_url(postgres_server: Postgres) -> Iterator[str]:
    postgres_server.start()
    name = postgres_server.create_database()
    databases.migrate(postgres_server.url(name))
    yield postgres_server.url(name)
    postgres_server.start()
    postgres_server.drop_database(name)
