"""The api over both databases; with PostgreSQL alone where the test is about the api and not about SQL.

One app for each database serves a whole test run: between two tests only the rows go.
"""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.apis import Api, running_api
from tests.services import Postgres


@pytest.fixture(scope="session")
def running_apis() -> Iterator[tuple[ExitStack, dict[str, Api]]]:
    with ExitStack() as stack:
        yield stack, {}


@pytest.fixture
def api(
    postgres: Postgres,
    migrated_postgres: str,
    running_apis: tuple[ExitStack, dict[str, Api]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Api:
    stack, apis = running_apis
    if "postgresql" not in apis:
        url = postgres.url(postgres.create_database(template=migrated_postgres))
        apis["postgresql"] = stack.enter_context(running_api(tmp_path_factory.mktemp("home"), url))
    return apis["postgresql"].cleaned()


@pytest.fixture(params=["sqlite", "postgresql"])
def any_api(
    request: pytest.FixtureRequest,
    running_apis: tuple[ExitStack, dict[str, Api]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Api:
    """On SQLite and on PostgreSQL."""
    if request.param == "postgresql":
        found: Api = request.getfixturevalue("api")
        return found
    stack, apis = running_apis
    if "sqlite" not in apis:
        from core.jobs import database

        home = tmp_path_factory.mktemp("home")
        url = f"sqlite:///{home / 'weightsmith.db'}"
        database.migrate(url)
        apis["sqlite"] = stack.enter_context(running_api(home, url))
    return apis["sqlite"].cleaned()
