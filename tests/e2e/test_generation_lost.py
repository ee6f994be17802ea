"""What clients are told when the generator dies under them, and when there is none."""

import signal
from pathlib import Path

import openai
import pytest

from core.jobs import workers
from core.jobs.database import Database
from tests.e2e.conftest import serving
from tests.e2e.test_generation import ENDLESS


def test_a_generator_that_dies(tmp_path: Path) -> None:
    with serving(tmp_path) as service:
        client, process = service.client(), service.generator.process
        assert process is not None
        options = {"model": service.model, "prompt": "x", "max_tokens": 3000, "logit_bias": ENDLESS}
        chunks = iter(client.completions.create(**options, stream=True))  # type: ignore[call-overload]
        next(chunks)
        process.send_signal(signal.SIGKILL)
        process.wait(10)
        with pytest.raises(openai.APIError) as lost:  # an event, not a cut socket
            list(chunks)
        assert lost.value.code == "generator_lost"

        with pytest.raises(openai.APIStatusError) as unreachable:  # its heartbeat row is still fresh
            client.completions.create(model=service.model, prompt="x")
        assert (unreachable.value.status_code, unreachable.value.code) == (503, "unavailable")
        assert float(unreachable.value.response.headers["retry-after"]) >= 1

        database = Database(service.settings.database_url)
        with database.transaction() as session:
            for row in workers.alive(session, kind="generator"):
                workers.leave(session, row.id)
        database.close()
        with pytest.raises(openai.APIStatusError) as missing:
            client.completions.create(model=service.model, prompt="x")
        assert (missing.value.status_code, missing.value.code) == (503, "no_generator")
        assert float(missing.value.response.headers["retry-after"]) >= 1
