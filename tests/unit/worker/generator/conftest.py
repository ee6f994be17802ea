"""One generator for all tests of a module: it takes seconds to start."""

from collections.abc import Iterator

import pytest

from core.generation_request import ServedModel
from core.jobs import database
from core.settings import Settings
from tests.generators import GeneratorProcess, generator_settings, put_model

MAX_WAITING = 8


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    folder = tmp_path_factory.mktemp("generator")
    url = f"sqlite:///{folder / 'weightsmith.db'}"
    database.migrate(url)
    return generator_settings(folder, url, generator_max_waiting=MAX_WAITING, generator_write_timeout_seconds=1.5)


@pytest.fixture(scope="module")
def model(settings: Settings) -> ServedModel:
    return put_model(settings, settings.home / "made")


@pytest.fixture(scope="module")
def generator(settings: Settings) -> Iterator[GeneratorProcess]:
    with GeneratorProcess(settings, settings.home) as process:
        yield process
