"""Fixtures shared by all tests: databases and servers that are real, cheap and gone afterwards."""

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

# Before anything imports torch or tokenizers: test workers share the cores, and no test reaches a hub.
os.environ.update(OMP_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false", HF_HUB_OFFLINE="1")

import pytest
from hypothesis import settings

from core.settings import ask_for_steady_products
from tests.services import Postgres, Valkey, die_with_parent

ask_for_steady_products()  # as the generator does

settings.register_profile("weightsmith", deadline=None, derandomize=True)
settings.load_profile("weightsmith")

# A shell that puts a test run into the background has it ignore Ctrl-C, and all that it starts.
signal.signal(signal.SIGINT, signal.default_int_handler)

TEMPLATE = "migrated"

if "PYTEST_XDIST_WORKER" in os.environ:
    die_with_parent()  # a killed pytest would leave its workers in the middle of a test


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Postgres]:
    """One cluster for each pytest-xdist worker; tests take `postgres`."""
    with Postgres() as server:
        yield server


@pytest.fixture
def postgres(postgres_server: Postgres) -> Postgres:
    """The running server, whatever the test before has done to it."""
    postgres_server.start()
    return postgres_server


@pytest.fixture(scope="session")
def valkey_server() -> Iterator[Valkey]:
    """One Redis-protocol server for each pytest-xdist worker; tests take `valkey`."""
    with Valkey(appendonly=True) as server:
        yield server


@pytest.fixture
def valkey(valkey_server: Valkey) -> Valkey:
    """The running server, empty."""
    valkey_server.start()
    valkey_server.flush()
    return valkey_server


@pytest.fixture(scope="session")
def migrated_postgres(postgres_server: Postgres) -> str:
    """Name of a database with the newest schema, to be copied."""
    from core.jobs import database

    postgres_server.start()
    name = postgres_server.create_database(name=TEMPLATE)
    database.migrate(postgres_server.url(name))
    return name


@pytest.fixture(scope="session")
def migrated_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file with the newest schema, to be copied."""
    from core.jobs import database

    path = tmp_path_factory.mktemp("schema") / f"{TEMPLATE}.db"
    database.migrate(f"sqlite:///{path}")
    return path


@pytest.fixture
def sqlite_url(migrated_sqlite: Path, tmp_path: Path) -> str:
    path = tmp_path / "weightsmith.db"
    shutil.copy(migrated_sqlite, path)
    return f"sqlite:///{path}"


@pytest.fixture
def postgresql_url(postgres: Postgres, migrated_postgres: str) -> Iterator[str]:
    name = postgres.create_database(template=migrated_postgres)
    yield postgres.url(name)
    postgres.start()
    postgres.drop_database(name)


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str:
    """A new database with the newest schema, on each kind in turn.

    For one kind only: `@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)`.
    """
    return str(request.getfixturevalue(f"{request.param}_url"))


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A new database without any table, for tests of the migrations."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'empty.db'}"
        return
    postgres: Postgres = request.getfixturevalue("postgres")
    name = postgres.create_database()
    yield postgres.url(name)
    postgres.start()
    postgres.drop_database(name)


def pytest_make_parametrize_id(config: pytest.Config, val: object, argname: str) -> str | None:
    """Bytes in a test's name would differ between xdist's workers (gzip writes the time into them)."""
    return f"{len(val)} bytes" if isinstance(val, bytes) else None
