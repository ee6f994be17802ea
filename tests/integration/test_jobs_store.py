"""The job store on both databases: who gets a job, what the trigger refuses, what retries follow, what is swept."""

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from subprocess import PIPE
from typing import Any

import pytest
from sqlalchemy import select, text, update
from sqlalchemy.exc import DBAPIError, IntegrityError

from core.errors import LeaseLost
from core.events import Failed, Finished, Saved
from core.jobs import housekeeping, registry, retry, store, sweeping, workers
from core.jobs.database import Database
from core.jobs.housekeeping import Housekeeping
from core.jobs.states import TRANSITIONS
from core.jobs.tables import Attempt, Checkpoint, File, Job, JobTransition, Model
from core.settings import Settings
from core.storage import Storage
from tests.jobs import add_file, add_project, attempts, check_invariants, events, look, submit, train_spec
from tests.services import wait_until

ROOT = Path(__file__).resolve().parents[2]
RETRY: dict[str, Any] = {"max_attempts": 100, "retry_base_seconds": 10.0}


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    made = Database(database_url)
    yield made
    made.close()


@pytest.fixture
def project(database: Database) -> str:
    return add_project(database)


def claim(database: Database, queue: str = store.LIGHT, worker: str = "w", **given: Any) -> store.Claim | None:
    with database.transaction() as session:
        return store.claim(session, queue=queue, worker=worker, lease_seconds=30.0, **given)


def running(database: Database, project: str, **spec: Any) -> store.Claim:
    """A job that is being trained."""
    submit(database, project, train_spec(**spec))
    validating = claim(database)
    assert validating is not None
    with database.transaction() as session:
        store.finish_validating(session, validating, {"ready": True})
    claimed = claim(database, store.TRAIN)
    assert claimed is not None
    return claimed


def save(database: Database, claim: store.Claim, step: int, *, best: bool = False, key: str | None = None) -> str:
    saved = Saved(step=step, path=f"step-{step}", manifest_sha256="0", size_bytes=1, best=best)
    with database.transaction() as session:
        job = store.held(session, claim)
        row = registry.commit_checkpoint(
            session, job, saved, storage_key=key or f"checkpoints/{job.id}/{claim.fence}-{step}"
        )
    return row.id


# --- claims ---


def test_many_threads_one_claim_each(database: Database, project: str) -> None:
    jobs = {submit(database, project, train_spec()) for _ in range(10)}
    taken: list[str] = []

    def work(number: int) -> None:
        while (got := claim(database, worker=f"w{number}")) is not None:
            taken.append(got.job_id)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # With SKIP LOCKED a worker may see nothing while others hold every row; nobody takes one twice.
    assert sorted(taken) == sorted(set(taken))
    while (got := claim(database)) is not None:
        taken.append(got.job_id)
    assert set(taken) == jobs
    check_invariants(database)


CLAIM = """
import sys
from core.jobs import store
from core.jobs.database import Database
database = Database(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
with database.transaction() as session:
    claim = store.claim(session, queue="light", worker="w", lease_seconds=30.0)
print(claim.job_id if claim else "nothing")
"""


def test_twenty_hints_to_several_processes_are_one_claim(database: Database, project: str) -> None:
    job_id = submit(database, project, train_spec())
    command = [sys.executable, "-c", CLAIM, database.url]
    processes = [subprocess.Popen(command, stdin=PIPE, stdout=PIPE, text=True, cwd=ROOT) for _ in range(3)]
    assert [process.stdout.readline() for process in processes if process.stdout] == ["ready\n"] * 3
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    got = [process.communicate()[0].strip() for process in processes]
    assert sorted(got) == sorted([job_id, "nothing", "nothing"])
    assert [claim(database) for _ in range(17)] == [None] * 17
    assert len(attempts(database, job_id)) == 1


def test_priority_then_age(database: Database, project: str) -> None:
    old, new, urgent = (submit(database, project, train_spec(priority=priority)) for priority in (0, 0, 5))
    taken = [got.job_id for _ in range(3) if (got := claim(database)) is not None]
    assert taken == [urgent, old, new]


def test_a_slot_without_gpu_leaves_the_jobs_that_need_one(database: Database, project: str) -> None:
    needs = submit(database, project, train_spec(resources={"gpus": 1}))
    may = submit(database, project, train_spec(resources={"gpus": 0}))
    got = claim(database, gpu=False)
    assert got is not None
    assert got.job_id == may
    assert claim(database, gpu=False) is None
    got = claim(database, gpu=True)
    assert got is not None
    assert got.job_id == needs


def test_what_is_not_due_waits(database: Database, project: str) -> None:
    job_id = submit(database, project, train_spec())
    with database.transaction() as session:
        session.execute(update(Job).values(run_after=Job.run_after + 3600))
    assert claim(database) is None
    with database.transaction() as session:
        assert housekeeping._take_hints(session, rehint_seconds=30) == []
        session.execute(update(Job).values(run_after=Job.run_after - 3600))
    with database.transaction() as session:
        assert housekeeping._take_hints(session, rehint_seconds=30) == [(job_id, "light")]
        assert housekeeping._take_hints(session, rehint_seconds=30) == [], "a hint is due once in a while"


# --- the fence ---


def test_every_write_of_a_zombie_is_refused(database: Database, project: str) -> None:
    zombie = running(database, project)
    with database.transaction() as session:
        session.execute(update(Job).values(lease_expires_at=1.0))
        assert store.reap(session, **RETRY) == [zombie.job_id]
    failed = Failed(code="x", message="x")
    writes = [
        lambda session: store.renew(session, zombie, lease_seconds=1.0),
        lambda session: store.held(session, zombie),
        lambda session: store.begin_stop(session, zombie),
        lambda session: store.fix_plan(session, zombie, {}),
        lambda session: store.revise_plan(session, zombie, {}, "why"),
        lambda session: store.finish_validating(session, zombie, {}),
        lambda session: store.succeed(session, zombie, Finished()),
        lambda session: store.end_stopped(session, zombie),
        lambda session: store.release(session, zombie, "why"),
        lambda session: store.fail(session, zombie, failed, **RETRY),
    ]
    before = look(database, zombie.job_id)
    for write in writes:
        with pytest.raises(LeaseLost), database.transaction() as session:
            write(session)
    after = look(database, zombie.job_id)
    assert (after.event_seq, after.state, after.plan) == (before.event_seq, before.state, before.plan)


def test_an_expired_lease_that_nobody_reaped_is_revived(database: Database, project: str) -> None:
    claimed = running(database, project)
    with database.transaction() as session:
        session.execute(update(Job).values(lease_expires_at=1.0))
    with database.transaction() as session:
        assert store.renew(session, claimed, lease_seconds=30.0) == "run"
        assert store.reap(session, **RETRY) == []


@pytest.mark.parametrize(("desired", "state"), [("run", "queued"), ("pause", "paused"), ("cancel", "cancelled")])
@pytest.mark.parametrize("stopping", [True, False])
def test_the_reaper_ends_the_attempt_as_the_user_wants(
    database: Database, project: str, desired: str, state: str, stopping: bool
) -> None:
    claimed = running(database, project)
    with database.transaction() as session:
        if desired != "run":
            {"pause": store.request_pause, "cancel": store.request_cancel}[desired](session, project, claimed.job_id)
    with database.transaction() as session:
        if stopping and desired != "run":
            store.begin_stop(session, claimed)
        session.execute(update(Job).values(lease_expires_at=1.0))
    with database.transaction() as session:
        store.reap(session, **RETRY)
    assert look(database, claimed.job_id).state == state
    check_invariants(database)


# --- what the database itself refuses ---


def test_the_trigger_knows_the_same_table(database: Database) -> None:
    with database.reading() as session:
        rows = {(row.from_state, row.to_state) for row in session.scalars(select(JobTransition))}
    assert rows == {(before, after) for before, follow in TRANSITIONS.items() for after in follow}


@pytest.mark.parametrize(
    ("statement", "lawful"),
    [
        ("state = 'running', lease_owner = 'w'", False),
        ("state = 'succeeded'", False),
        ("state = 'queued'", True),
        ("fence = fence - 1", False),
        ("lease_owner = 'w', state = 'queued'", False),
        ("state = 'paused'", True),
    ],
)
def test_illegal_changes_are_refused_by_the_database(
    database: Database, project: str, statement: str, lawful: bool
) -> None:
    submit(database, project, train_spec())
    with database.transaction() as session:
        session.execute(text("UPDATE jobs SET fence = 5"))
    if lawful:
        with database.transaction() as session:
            session.execute(text(f"UPDATE jobs SET {statement}"))
    else:
        with pytest.raises(DBAPIError), database.transaction() as session:
            session.execute(text(f"UPDATE jobs SET {statement}"))


def test_the_database_refuses_a_second_open_attempt(database: Database, project: str) -> None:
    claimed = running(database, project)
    with pytest.raises(IntegrityError), database.transaction() as session:
        session.add(Attempt(job_id=claimed.job_id, fence=99, stage="running", worker="w"))


# --- retries ---


def test_backoff_doubles_and_progress_resets_it(database: Database, project: str) -> None:
    crash = Failed(code="crashed", message="boom", retryable=True)
    claimed: store.Claim | None = running(database, project)
    for expected in (10.0, 20.0):
        assert claimed is not None
        with database.transaction() as session:
            store.fail(session, claimed, crash, **RETRY)
        job = look(database, claimed.job_id)
        assert job.state == "queued"
        assert 0.5 * expected <= job.run_after - time.time() + 1.0 <= expected + 2.0
        with database.transaction() as session:
            session.execute(update(Job).values(run_after=0.0))
        claimed = claim(database, store.TRAIN)
    assert claimed is not None
    save(database, claimed, 5)
    with database.transaction() as session:
        store.fail(session, claimed, crash, **RETRY)
    job = look(database, claimed.job_id)
    assert (job.no_progress_failures, job.state) == (0, "queued")
    assert job.run_after <= time.time() + 1.0, "the first retry after progress is immediate"


def test_last_words() -> None:
    crash = Failed(code="crashed", message="boom", retryable=True)
    given: dict[str, Any] = {"max_attempts": 5, "step": 7}
    assert retry.last_word(crash, no_progress_failures=2, attempts=4, **given) is None
    poison = retry.last_word(crash, no_progress_failures=3, attempts=4, **given)
    assert poison is not None
    assert poison[0] == "poison"
    assert "batch of step 8" in poison[1]
    assert (retry.last_word(crash, no_progress_failures=0, attempts=5, **given) or ("",))[0] == "too_many_attempts"
    fatal = crash.model_copy(update={"retryable": False})
    assert retry.last_word(fatal, no_progress_failures=0, attempts=1, **given) == ("crashed", "boom")
    delays = [retry.delay_seconds(n, base_seconds=10.0) for n in range(20)]
    assert delays[0] == 0.0
    assert max(delays) <= retry.MAX_BACKOFF_SECONDS


# --- checkpoints ---


def test_retention_keeps_the_newest_the_best_and_what_is_in_use(database: Database, project: str) -> None:
    claimed = running(database, project)
    ids = [save(database, claimed, step, best=step == 10) for step in (5, 10, 15, 20, 25, 30)]
    with database.transaction() as session:
        workers.beat(
            session,
            "gen",
            kind="generator",
            host="h",
            pid=1,
            version="0",
            models=[f"checkpoints/{claimed.job_id}/2-15"],
        )
    user = submit(database, project, train_spec())
    with database.transaction() as session:
        session.execute(text("INSERT INTO job_uses VALUES (:job, :used)"), {"job": user, "used": ids[3]})
    with database.transaction() as session:
        registry.retire_checkpoints(session, store.held(session, claimed), keep=2, keep_best=True)
    with database.reading() as session:
        visible = session.scalars(select(Checkpoint.step).where(Checkpoint.deleted_at.is_(None))).all()
    assert sorted(visible) == [10, 15, 20, 25, 30], "best, loaded, used, newest two"


def test_a_checkpoint_committed_twice_is_one(database: Database, project: str) -> None:
    claimed = running(database, project)
    assert save(database, claimed, 5) == save(database, claimed, 5)
    assert [event.kind for event in events(database, claimed.job_id)].count("saved") == 1


# --- housekeeping ---


def test_bytes_go_after_the_grace_unless_something_lives_on_them(
    database: Database, project: str, tmp_path: Path
) -> None:
    storage = Storage(tmp_path / "storage")
    gone = add_file(database, storage, project, "gone")
    kept = add_file(database, storage, project, "kept")
    claimed = running(database, project)
    storage.path("shared").mkdir()
    save(database, claimed, 5, key="shared")
    with database.transaction() as session:
        checkpoint = session.scalars(select(Checkpoint)).one()
        job = store.held(session, claimed)
        model = registry.add_model(session, job, checkpoint, metrics={}, has_chat_template=False)
        checkpoint.deleted_at = 1.0
        session.get_one(File, gone).deleted_at = 1.0
    assert sweeping.sweep(database, storage, grace_seconds=60) == [f"files/{gone}"]
    assert storage.path("shared").exists(), "the model lives on it"
    assert storage.file(f"files/{kept}").exists()
    assert sweeping.sweep(database, storage, grace_seconds=60) == []
    with database.transaction() as session:
        session.get_one(Model, model.name).deleted_at = 1.0
    assert sweeping.sweep(database, storage, grace_seconds=60) == ["shared"]
    assert not storage.path("shared").exists()


def test_files_expire_when_no_job_reads_them(database: Database, project: str, tmp_path: Path) -> None:
    storage = Storage(tmp_path / "storage")
    file_id = add_file(database, storage, project, "some text")
    with database.transaction() as session:
        session.get_one(File, file_id).expires_at = 1.0
    job_id = submit(database, project, train_spec(file_id))
    sweeping.sweep(database, storage, grace_seconds=0)
    assert storage.file(f"files/{file_id}").exists()
    with database.transaction() as session:
        store.request_cancel(session, project, job_id)
    time.sleep(0.01)
    sweeping.sweep(database, storage, grace_seconds=0)
    sweeping.sweep(database, storage, grace_seconds=0)
    assert storage.names("files") == []


class Broker:
    def __init__(self) -> None:
        self.hints: list[str] = []

    def send_task(self, _name: str, *, args: list[str], queue: str, **_: object) -> None:
        self.hints.append(f"{queue}:{args[0]}")


def test_housekeeping_hints_reaps_and_waits_after_an_outage(
    database: Database, project: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker = Broker()
    settings = Settings(home=tmp_path, lease_seconds=1.0, reap_seconds=0.05, retry_base_seconds=0.001)
    keeping = Housekeeping(database, broker, Storage(tmp_path / "storage"), settings)  # type: ignore[arg-type]
    claimed = running(database, project)
    waiting = submit(database, project, train_spec())
    with database.transaction() as session:
        session.execute(update(Job).where(Job.id == claimed.job_id).values(lease_expires_at=1.0))
    begun = time.monotonic()
    keeping.start()
    while look(database, claimed.job_id).state == "running":
        keeping.wake()  # many submits do not make it less patient
        assert time.monotonic() - begun < 20
        time.sleep(0.005)
    assert time.monotonic() - begun >= 1.0, "after an outage everyone gets a whole lease"
    while f"train:{claimed.job_id}" not in broker.hints:
        assert time.monotonic() - begun < 20
        time.sleep(0.02)
    keeping.stop()
    assert broker.hints.count(f"light:{waiting}") == 1


def test_a_hint_that_the_broker_did_not_take_is_sent_again(
    database: Database, project: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Away(Broker):
        def send_task(self, _name: str, *, args: list[str], queue: str, **_: object) -> None:
            if not (tmp_path / "back").exists():
                (tmp_path / "back").touch()
                raise OSError("away")
            super().send_task(_name, args=args, queue=queue)

    monkeypatch.setattr("core.jobs.housekeeping.RESEND_SECONDS", 0.01)
    broker, settings = Away(), Settings(home=tmp_path, reap_seconds=1000.0)
    keeping = Housekeeping(database, broker, Storage(tmp_path / "storage"), settings)  # type: ignore[arg-type]
    keeping.start()
    keeping.wake(("job_1", "light"))
    wait_until(lambda: broker.hints == ["light:job_1"], what="the hint")
    keeping.stop()


def test_a_holder_that_is_known_to_be_dead_is_not_waited_for(database: Database, project: str) -> None:
    claimed = running(database, project)
    with database.transaction() as session:
        store.expire(session, "somebody else")
        assert store.reap(session, **RETRY) == []
        store.expire(session, "w")
        assert store.reap(session, **RETRY) == [claimed.job_id]
