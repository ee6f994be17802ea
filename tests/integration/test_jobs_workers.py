"""Real Celery workers, brokers, databases, training: what is killed resumes, and ends with the same bits.

Every test submits the same little job; whatever happens to it, its weights and its optimizer's state must be those of
a run that nothing happened to. The whole matrix of accidents is in tests/chaos.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from core.jobs import database as databases
from core.jobs import store
from tests.jobs import attempts, check_invariants, events, look
from tests.lab import STEPS, Lab
from tests.services import Postgres, Valkey
from tests.stack import TRAINER, Process, Stack, gone, kill_tree

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def postgres_url(postgres_server: Postgres) -> Iterator[str]:
    postgres_server.start()
    name = postgres_server.create_database()
    databases.migrate(postgres_server.url(name))
    yield postgres_server.url(name)
    postgres_server.start()
    postgres_server.drop_database(name)


@pytest.fixture(scope="module")
def broker() -> Iterator[Valkey]:
    """Its own, without a disk: what it forgets is forgotten."""
    with Valkey() as server:
        yield server


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, postgres_url: str, broker: Valkey) -> Iterator[Lab]:
    folder = tmp_path_factory.mktemp("stack")
    with Stack(folder, database_url=postgres_url, redis_url=broker.url) as stack:
        yield Lab(stack)


@pytest.fixture(scope="module")
def undisturbed(shared: Lab) -> dict[str, str]:
    """The bits of a run that nothing happens to."""
    worker = shared.stack.start_worker("quiet")
    job_id = shared.submit()
    tensors = shared.finish(job_id)
    assert len(attempts(shared.database, job_id)) == 2, "one to validate, one to train"
    kill_tree(worker.pid)
    return tensors


@pytest.fixture
def lab(shared: Lab, broker: Valkey, postgres_server: Postgres, undisturbed: dict[str, str]) -> Iterator[Lab]:
    broker.start()
    postgres_server.start()
    yield shared
    for process in shared.stack.started:
        kill_tree(process.pid)


@pytest.fixture
def worker(lab: Lab) -> Process:
    return lab.stack.start_worker()


def test_a_killed_trainer_resumes_then_pauses_then_ends_with_the_same_bits(
    lab: Lab, worker: Process, undisturbed: dict[str, str]
) -> None:
    job_id = lab.submit()
    lab.wait_until_somewhere(job_id)
    lab.trainer().kill()
    lab.stack.wait_for(lambda: len(attempts(lab.database, job_id)) == 3, what="a new attempt")
    lab.wait_until_somewhere(job_id)
    with lab.database.transaction() as session:
        store.request_pause(session, lab.project, job_id)
    paused = lab.stack.wait_for_state(job_id, "paused")
    saved = [event.data["step"] for event in events(lab.database, job_id) if event.kind == "saved"]
    assert saved[-1] == paused.step, "no step is lost"
    with lab.database.transaction() as session:
        store.request_resume(session, lab.project, job_id)
    assert lab.finish(job_id) == undisturbed
    assert lab.outcomes(job_id) == ["prepared", "failed", "stopped", "succeeded"]


def test_a_killed_supervisor_takes_its_trainer_along(lab: Lab, worker: Process, undisturbed: dict[str, str]) -> None:
    job_id = lab.submit()
    lab.wait_until_somewhere(job_id)
    trainer = lab.trainer()
    supervisor = trainer.parent()
    assert supervisor is not None
    supervisor.kill()
    lab.stack.wait_for(lambda: gone([trainer]), what="the trainer is dead", timeout=2)
    assert lab.finish(job_id) == undisturbed
    assert lab.outcomes(job_id) == ["prepared", "failed", "succeeded"]
    assert (attempts(lab.database, job_id)[1].reason or "").startswith("worker_lost")


def test_a_worker_that_is_shut_down_loses_no_step_and_one_that_is_killed_few(
    lab: Lab, worker: Process, undisturbed: dict[str, str]
) -> None:
    job_id = lab.submit()
    lab.wait_until_somewhere(job_id)
    worker.terminate()
    assert worker.wait(30) == 0
    released = look(lab.database, job_id)
    assert (released.state, released.attempts) == ("queued", 1), "validating counts, this attempt does not"
    saved = [event.data["step"] for event in events(lab.database, job_id) if event.kind == "saved"]
    assert saved[-1] == released.step
    assert lab.stack.trainers() == []

    second = lab.stack.start_worker("second")
    lab.stack.wait_for_step(job_id, min(released.step + 15, STEPS - 20))
    trainer = lab.trainer()
    kill_tree(second.pid)
    lab.stack.wait_for(lambda: gone([trainer]), what="the trainer is dead", timeout=2)
    lab.stack.start_worker("third")
    assert lab.finish(job_id) == undisturbed
    assert lab.outcomes(job_id) == ["prepared", "released", "failed", "succeeded"]


def test_a_frozen_worker_that_wakes_up_writes_nothing(lab: Lab, worker: Process, undisturbed: dict[str, str]) -> None:
    job_id = lab.submit()
    lab.wait_until_somewhere(job_id)
    frozen = [psutil.Process(worker.pid), *psutil.Process(worker.pid).children(recursive=True)]
    for process in frozen:
        process.suspend()
    # The frozen trainer holds its slot, so the other worker has scratch of its own, as another machine would.
    lab.stack.start_worker("other", scratch=lab.stack.folder / "other-scratch")
    lab.stack.wait_for(lambda: len(attempts(lab.database, job_id)) == 3, what="a new attempt")
    lab.stack.wait_for(
        lambda: look(lab.database, job_id).phase == "training", what="the new attempt trains", timeout=60
    )
    zombie = [process for process in frozen if "core.training.run" in process.cmdline()]
    for process in reversed(frozen):
        process.resume()
    lab.stack.wait_for(lambda: gone(zombie), what="the zombie's trainer is killed")
    assert lab.finish(job_id) == undisturbed
    assert lab.outcomes(job_id) == ["prepared", "failed", "succeeded"]


def test_the_broker_may_be_away_forget_everything_and_speak_nonsense(
    lab: Lab, worker: Process, broker: Valkey, undisturbed: dict[str, str]
) -> None:
    broker.kill()
    job_id = lab.submit()
    broker.start()
    lab.stack.wait_for_step(job_id, 12, timeout=90)
    broker.restart()
    broker.flush()
    with broker.connect() as client:
        for junk in ("junk", '{"body": 1}', json.dumps({"body": "gAR9lC4=", "content-type": "application/x-python"})):
            client.lpush("ws:train", junk)
            client.lpush("ws:light", junk)
    second = lab.submit()
    assert lab.finish(job_id) == undisturbed
    assert lab.outcomes(job_id) == ["prepared", "succeeded"], "the run did not notice"
    assert lab.finish(second) == undisturbed
    assert worker.poll() is None


def test_the_database_may_crash_while_a_job_runs(
    lab: Lab, worker: Process, postgres_server: Postgres, undisturbed: dict[str, str]
) -> None:
    job_id = lab.submit()
    lab.wait_until_somewhere(job_id)
    trainer = lab.trainer()
    postgres_server.restart("immediate")
    lab.stack.wait_for(lambda: look(lab.database, job_id).step > 20, what="it goes on")
    assert trainer.is_running()
    assert lab.finish(job_id) == undisturbed
    assert lab.outcomes(job_id) == ["prepared", "succeeded"], "nothing was reaped"


def test_cancel_in_every_state(lab: Lab, worker: Process) -> None:
    def cancel(job_id: str) -> None:
        with lab.database.transaction() as session:
            store.request_cancel(session, lab.project, job_id)

    running, queued, paused = lab.submit(), lab.submit(), lab.submit()
    lab.stack.wait_for_step(running, 1)
    for job_id in (queued, paused):
        lab.stack.wait_for_state(job_id, "queued")
    with lab.database.transaction() as session:
        store.request_pause(session, lab.project, paused)
    trainer = lab.trainer()
    for job_id in (queued, paused, running):
        cancel(job_id)
    assert look(lab.database, queued).state == look(lab.database, paused).state == "cancelled"
    lab.stack.wait_for_state(running, "cancelled", timeout=10)
    assert gone([trainer])
    validating = lab.submit()
    cancel(validating)
    lab.stack.wait_for_state(validating, "cancelled", timeout=10)
    check_invariants(lab.database, lab.storage)


def test_on_sqlite_too_and_a_warm_spare_begins_at_once(
    sqlite_url: str, broker: Valkey, tmp_path: Path, undisturbed: dict[str, str]
) -> None:
    broker.start()
    with Stack(tmp_path, database_url=sqlite_url, redis_url=broker.url, warm_spare=True) as stack:
        lab = Lab(stack)
        stack.start_worker()
        job_id = lab.submit()
        lab.wait_until_somewhere(job_id)
        lab.trainer().kill()
        assert lab.finish(job_id) == undisturbed
        assert lab.outcomes(job_id) == ["prepared", "failed", "succeeded"]
        stack.wait_for_spares(TRAINER, 2)
        second = lab.submit()
        stack.wait_for_step(second, 1)
        begun = look(lab.database, second).queued_at or 0.0
        (first_step,) = [e for e in events(lab.database, second) if e.kind == "step" and e.data["step"] == 1]
        # 0.1 to 0.3 s on an idle machine; importing torch alone takes 2 s there.
        assert first_step.created_at - begun < 2.0
        assert lab.finish(second) == undisturbed
