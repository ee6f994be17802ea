"""The row of a worker: its slots, its jobs, and the pool process that has died."""

import os

from sqlalchemy import update

from core.jobs import store, workers
from core.jobs.tables import Job
from tests.jobs import look
from tests.unit.worker.conftest import Bench
from worker.heartbeat import Heartbeat

NO_PROCESS = 2**22 + 1
"""above the largest process number of Linux"""


def beat(bench: Bench, *, trains: bool = True) -> None:
    heartbeat = Heartbeat(bench.database, "train@here:1", bench.settings, trains=trains, version="9")
    heartbeat._try(heartbeat._beat)


def hold(bench: Bench, pid: int) -> str:
    job_id = bench.submit()
    bench.prepare()
    with bench.database.transaction() as session:
        claim = store.claim(session, queue=store.TRAIN, worker=f"train@here:1/{pid}", lease_seconds=30.0)
        assert claim is not None
    return job_id


def test_a_worker_shows_its_slots_and_its_job(bench: Bench) -> None:
    job_id = hold(bench, os.getpid())
    beat(bench)
    with bench.database.reading() as session:
        (row,) = workers.alive(session, kind="train")
    assert (row.job_id, row.version, row.pid) == (job_id, "9", os.getpid())
    assert [(slot["device"], slot["threads"], slot["job_id"]) for slot in row.slots] == [("cpu", 1, job_id)]
    with bench.database.transaction() as session:
        workers.leave(session, "train@here:1")
        assert workers.alive(session) == []


def test_a_light_worker_has_no_slots(bench: Bench) -> None:
    beat(bench, trains=False)
    with bench.database.reading() as session:
        assert [(row.kind, row.slots, row.job_id) for row in workers.alive(session)] == [("light", [], None)]


def test_the_lease_of_a_dead_pool_process_ends_now(bench: Bench) -> None:
    job_id = hold(bench, NO_PROCESS)
    beat(bench)
    with bench.database.transaction() as session:
        assert store.reap(session, max_attempts=100, retry_base_seconds=1.0) == [job_id]
    assert look(bench.database, job_id).state == "queued"


def test_other_workers_leases_are_left_alone(bench: Bench) -> None:
    hold(bench, os.getpid())
    with bench.database.transaction() as session:
        session.execute(update(Job).values(lease_owner=f"train@here:11/{NO_PROCESS}"))
    beat(bench)
    with bench.database.transaction() as session:
        assert store.reap(session, max_attempts=100, retry_base_seconds=1.0) == []
