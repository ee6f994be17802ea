"""One run, many accidents, in random order: the numbers at its end are those of a run that nothing happened to."""

import random
import signal
from collections.abc import Callable, Iterator
from typing import Any

import psutil
import pytest
from sqlalchemy import select

from core.jobs import store
from core.jobs.tables import Checkpoint
from core.models.config import Dimensions, ModelConfig
from core.training import plan
from core.training.plan import Slot
from tests.jobs import attempts, events, look, train_spec
from tests.lab import DIMENSIONS, STEPS, Lab
from tests.services import Postgres, Valkey
from tests.stack import QUICK, Process, Stack, gone, kill_tree

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(900)]
ACCIDENTS = 4


class World:
    """A lab, its worker, and everything that can go wrong."""

    def __init__(self, lab: Lab, broker: Valkey, postgres: Postgres, dice: random.Random) -> None:
        self.lab, self.broker, self.postgres, self.dice = lab, broker, postgres, dice
        self.worker: Process = lab.stack.start_worker()

    def close(self) -> None:
        for process in self.lab.stack.started:
            kill_tree(process.pid)
        self.broker.start()
        self.postgres.start()

    def accidents(self) -> list[Callable[[str], None]]:
        return [
            *(self.trainer_killed, self.supervisor_killed, self.worker_killed, self.worker_drained, self.paused),
            *(self.broker_forgets, self.database_crashes, self.trainer_frozen),
        ]

    def trainer_killed(self, job_id: str) -> None:
        for trainer in self.lab.stack.trainers():
            trainer.kill()

    def supervisor_killed(self, job_id: str) -> None:
        for trainer in self.lab.stack.trainers():
            if (supervisor := trainer.parent()) is not None and supervisor.pid != self.worker.pid:
                supervisor.kill()

    def worker_killed(self, job_id: str) -> None:
        trainers = self.lab.stack.trainers()
        kill_tree(self.worker.pid)
        self.lab.stack.wait_for(lambda: gone(trainers), what="no orphan trains on", timeout=2)
        self.worker = self.lab.stack.start_worker(f"worker-{len(self.lab.stack.started)}")

    def worker_drained(self, job_id: str) -> None:
        self.worker.terminate()
        assert self.worker.wait(60) == 0
        self.worker = self.lab.stack.start_worker(f"worker-{len(self.lab.stack.started)}")

    def paused(self, job_id: str) -> None:
        try:
            with self.lab.database.transaction() as session:
                store.request_pause(session, self.lab.project, job_id)
            self.lab.stack.wait_for_state(job_id, "paused")
            with self.lab.database.transaction() as session:
                store.request_resume(session, self.lab.project, job_id)
        except AssertionError:  # it was done before
            assert look(self.lab.database, job_id).state == "succeeded"

    def broker_forgets(self, job_id: str) -> None:
        self.broker.restart()
        self.broker.flush()

    def database_crashes(self, job_id: str) -> None:
        self.postgres.restart(self.dice.choice(["fast", "immediate"]))

    def trainer_frozen(self, job_id: str) -> None:
        for trainer in self.lab.stack.trainers():
            trainer.send_signal(signal.SIGSTOP)
            trainer.send_signal(signal.SIGCONT)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory, postgres_url: str, broker: Valkey) -> Iterator[Lab]:
    folder = tmp_path_factory.mktemp("stack")
    with Stack(folder, database_url=postgres_url, redis_url=broker.url) as stack:
        yield Lab(stack)


@pytest.fixture
def world(lab: Lab, broker: Valkey, postgres_server: Postgres, dice: random.Random) -> Iterator[World]:
    broker.start()
    postgres_server.start()
    made = World(lab, broker, postgres_server, dice)
    yield made
    made.close()


def memory_for(micro_batch: int) -> int:
    """How much memory makes the plan take so few sequences at once."""
    config = ModelConfig.from_dimensions("llama", Dimensions.model_validate(DIMENSIONS), vocab_size=300)
    spec = train_spec(batch={"sequences": 8})
    for mebibytes in range(1, 1024):
        slot = Slot(device="cpu", device_name="", threads=1, memory_bytes=mebibytes << 20)
        if plan.micro_batch(spec, config, slot) >= micro_batch:
            return mebibytes << 20
    raise AssertionError("no such memory")


CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "fp32": {"precision": "fp32", "dropout": 0.0},
    "fp32 with dropout": {"precision": "fp32", "dropout": 0.2},
    "bf16 with dropout": {"precision": "bf16", "dropout": 0.2},
    "accumulation": {"precision": "fp32", "dropout": 0.1, "resources": {"memory_bytes": memory_for(3)}},
    "over the end of an epoch": {"precision": "bf16", "budget": {"epochs": 3.3}},
    "validation and samples": {
        "precision": "fp32",
        "data": {"validation": {"fraction": 0.05}},
        "evaluation": {"every": 15, "samples": 1},
        "checkpoints": {"every": 20, "keep": 1},
    },
}


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_accidents_do_not_change_a_bit(world: World, name: str) -> None:
    lab, given = world.lab, dict(CONFIGURATIONS[name])
    if "data" in given:
        given["data"] = given["data"] | {"train": [{"file": lab.file}]}
    undisturbed = lab.finish(lab.submit(**given))
    job_id = lab.submit(**given)
    done: list[str] = []
    for accident in world.dice.sample(world.accidents(), ACCIDENTS):
        step = look(lab.database, job_id).step + world.dice.randint(5, STEPS // ACCIDENTS)
        lab.stack.wait_for(
            lambda step=step: (
                look(lab.database, job_id).step >= min(step, STEPS - 20)
                or look(lab.database, job_id).state == "succeeded"
            ),
            what=f"step {step} after {done}",
        )
        done.append(f"{accident.__name__} at {look(lab.database, job_id).step}")
        accident(job_id)
    assert lab.finish(job_id, timeout=180) == undisturbed, done
    print(done, lab.outcomes(job_id))


def test_a_run_that_hangs_is_ended_and_resumes(lab: Lab, world: World) -> None:
    undisturbed = lab.finish(lab.submit())
    world.close()
    world.worker = lab.stack.start_worker("impatient", step_timeout_seconds=15.0)
    job_id = lab.submit()
    lab.wait_until_somewhere(job_id)
    lab.trainer().suspend()
    lab.stack.wait_for(lambda: len(attempts(lab.database, job_id)) == 3, what="a new attempt", timeout=60)
    assert (attempts(lab.database, job_id)[1].reason or "").startswith("hung")
    assert lab.finish(job_id) == undisturbed


def test_a_database_that_is_away_for_several_leases_starts_no_reaping_storm(lab: Lab, world: World) -> None:
    undisturbed = lab.finish(lab.submit())
    job_id = lab.submit(budget={"steps": 3000})
    lab.wait_until_somewhere(job_id)
    world.postgres.stop("immediate")
    trainer = lab.trainer()
    with pytest.raises(psutil.TimeoutExpired):
        trainer.wait(5 * QUICK["lease_seconds"])  # it trains on
    world.postgres.start()
    before = 200
    lab.stack.wait_for(lambda: look(lab.database, job_id).step > before, what="the spooled steps arrive")
    assert trainer.is_running()
    assert lab.outcomes(job_id) == ["prepared", None], "the same attempt goes on"
    with lab.database.transaction() as session:
        store.request_cancel(session, lab.project, job_id)
    lab.stack.wait_for_state(job_id, "cancelled")
    assert lab.finish(lab.submit()) == undisturbed


def test_an_altered_checkpoint_is_never_used(lab: Lab, world: World) -> None:
    undisturbed = lab.finish(lab.submit())
    job_id = lab.submit()
    lab.wait_until_somewhere(job_id)
    with lab.database.transaction() as session:
        store.request_pause(session, lab.project, job_id)
    lab.stack.wait_for_state(job_id, "paused")
    newest = look(lab.database, job_id).checkpoint_id
    with lab.database.reading() as session:
        stored = lab.storage.directory(
            session.scalars(select(Checkpoint).where(Checkpoint.id == newest)).one().storage_key
        )
    files = sorted(path for path in stored.rglob("*") if path.is_file())
    victim = world.dice.choice(files)
    data = bytearray(victim.read_bytes())
    data[world.dice.randrange(len(data))] ^= 1
    victim.unlink()
    victim.write_bytes(data)
    with lab.database.transaction() as session:
        store.request_resume(session, lab.project, job_id)
    lab.stack.wait_for_state(job_id, "succeeded", timeout=90)
    assert lab.tensors(job_id) == undisturbed, victim.name
    assert "checkpoint_rejected" in [event.kind for event in events(lab.database, job_id)]


def test_a_disk_that_is_full_for_a_while_costs_no_step(lab: Lab, world: World) -> None:
    """No file may grow: the trainer's own saves fail, later the supervisor's copies into storage."""
    undisturbed = lab.finish(lab.submit())
    job_id = lab.submit()
    lab.wait_until_somewhere(job_id)
    trainer = lab.trainer()
    trainer.rlimit(psutil.RLIMIT_FSIZE, (20_000, psutil.RLIM_INFINITY))

    def warned() -> bool:
        found = [event for event in events(lab.database, job_id) if event.kind == "warned"]
        return any(event.data["code"] == "storage_full" for event in found) or not trainer.is_running()

    lab.stack.wait_for(warned, what="it has noticed")
    if trainer.is_running():
        trainer.rlimit(psutil.RLIMIT_FSIZE, (psutil.RLIM_INFINITY, psutil.RLIM_INFINITY))
    assert lab.finish(job_id) == undisturbed
