"""The life of a job under everything that may happen to it, in any order, on both databases: a state machine that
Hypothesis drives, with crashes, expired leases and zombies as rules, and the invariants checked after every step."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, rule, run_state_machine_as_test
from sqlalchemy import select, update
from sqlalchemy.orm import Session

from core.errors import Conflict, LeaseLost
from core.events import Failed, Finished, Resumed, Saved, Started, Step
from core.job_spec import TokenizerSpec
from core.jobs import journal, registry, store
from core.jobs.database import Database
from core.jobs.states import TERMINAL
from core.jobs.store import Claim
from core.jobs.tables import Checkpoint, Job, Table
from tests.jobs import add_project, check_invariants, look, submit, train_spec

TOKENIZER = TokenizerSpec.model_validate({"kind": "tokenizer", "data": {"train": [{"file": "file-none"}]}})
NO_MEMORY = Failed(code="out_of_memory", message="no memory", retryable=True)
BAD_DATA = Failed(code="invalid_data", message="line 3 is no JSON")
RETRY: dict[str, Any] = {"max_attempts": 100, "retry_base_seconds": 10.0}


def forget_jobs(database: Database) -> None:
    with database.transaction() as session:
        for name in ("metric_blocks", "log_chunks", "job_events", "job_uses", "attempts", "checkpoints", "jobs"):
            session.execute(Table.metadata.tables[name].delete())


class LifeOfJobs(RuleBasedStateMachine):
    """Claims are kept for ever: those whose attempt is over are the zombies."""

    database: Database
    project: str
    claims = Bundle("claims")
    jobs = Bundle("jobs")

    def __init__(self) -> None:
        super().__init__()
        forget_jobs(self.database)
        self.steps: dict[Claim, int] = {}

    # --- users ---

    @initialize(target=jobs)
    def first_job(self) -> str:
        return submit(self.database, self.project, train_spec())

    @rule(target=jobs, kind=st.sampled_from(["train", "train", "tokenizer"]))
    def submit(self, kind: str) -> str:
        return submit(self.database, self.project, train_spec() if kind == "train" else TOKENIZER)

    @rule(job=jobs, verb=st.sampled_from([store.request_pause, store.request_resume, store.request_cancel]))
    def ask(self, job: str, verb: Callable[..., Job]) -> None:
        before = look(self.database, job)
        try:
            with self.database.transaction() as session:
                verb(session, self.project, job)
        except Conflict:
            assert look(self.database, job).desired == before.desired
        self.check()

    # --- workers ---

    @rule(target=claims, queue=st.sampled_from([store.LIGHT, store.TRAIN, store.TRAIN]))
    def claim(self, queue: str) -> Claim | None:
        with self.database.transaction() as session:
            claim = store.claim(session, queue=queue, worker="w", lease_seconds=100.0)
        if claim is not None:
            with self.database.transaction() as session:
                job = store.held(session, claim)
                start = session.get(Checkpoint, job.checkpoint_id) if job.checkpoint_id else None
                self.steps[claim] = start.step if start else 0
        self.check()
        return claim

    def write(self, claim: Claim | None, body: Callable[[Session, Claim, Job], None]) -> None:
        """One transaction of a lease holder; a zombie must be turned away at its first statement."""
        if claim is None:
            return
        with self.database.reading() as session:
            row = session.get_one(Job, claim.job_id)
        holds = row.fence == claim.fence and row.lease_owner is not None
        try:
            with self.database.transaction() as session:
                job = store.held(session, claim)
                assert holds, "a zombie was let in"
                body(session, claim, job)
        except LeaseLost:
            assert not holds
        self.check()

    @rule(claim=claims)
    def renew(self, claim: Claim | None) -> None:
        def body(session: Session, claim: Claim, job: Job) -> None:
            assert store.renew(session, claim, lease_seconds=100.0) == job.desired

        self.write(claim, body)

    @rule(claim=claims, count=st.integers(1, 4))
    def train(self, claim: Claim | None, count: int) -> None:
        def body(session: Session, claim: Claim, job: Job) -> None:
            if claim.stage == "running" and job.kind == "train":
                at = self.steps[claim]
                start = Resumed(step=at) if at else Started(total_steps=100)
                made = [a_step(at + n + 1) for n in range(count)]
                journal.record(session, job, [start, *made], offset=journal.recorded_offset(session, job) + 1)
                self.steps[claim] = at + count

        self.write(claim, body)

    @rule(claim=claims, best=st.booleans())
    def save(self, claim: Claim | None, best: bool) -> None:
        def body(session: Session, claim: Claim, job: Job) -> None:
            if claim.stage == "running" and job.kind == "train" and self.steps[claim]:
                step = self.steps[claim]
                saved = Saved(step=step, path=f"step-{step}", manifest_sha256="0", size_bytes=1, best=best)
                registry.commit_checkpoint(session, job, saved, storage_key=f"{job.id}/{claim.fence}/{step}")
                registry.retire_checkpoints(session, job, keep=1, keep_best=True)

        self.write(claim, body)

    @rule(claim=claims)
    def begin_stop(self, claim: Claim | None) -> None:
        def body(session: Session, claim: Claim, job: Job) -> None:
            if job.desired != "run":
                store.begin_stop(session, claim)

        self.write(claim, body)

    @rule(claim=claims)
    def finish(self, claim: Claim | None) -> None:
        def body(session: Session, claim: Claim, job: Job) -> None:
            if claim.stage == "validating":
                store.finish_validating(session, claim, {"ready": True} if job.kind == "train" else None)
            else:
                assert store.succeed(session, claim, Finished()) == (job.state == "succeeded")

        self.write(claim, body)

    @rule(claim=claims)
    def stop(self, claim: Claim | None) -> None:
        def body(session: Session, claim: Claim, job: Job) -> None:
            if job.desired != "run":
                store.end_stopped(session, claim)

        self.write(claim, body)

    @rule(claim=claims)
    def drain(self, claim: Claim | None) -> None:
        self.write(claim, lambda session, claim, job: store.release(session, claim, "the worker stops"))

    @rule(claim=claims, failure=st.sampled_from([NO_MEMORY, NO_MEMORY, BAD_DATA]))
    def fail(self, claim: Claim | None, failure: Failed) -> None:
        self.write(claim, lambda session, claim, job: store.fail(session, claim, failure, **RETRY))

    # --- time ---

    @rule(job=jobs)
    def lease_runs_out(self, job: str) -> None:
        with self.database.transaction() as session:
            silent = update(Job).where(Job.id == job, Job.lease_owner.is_not(None))
            session.execute(silent.values(lease_expires_at=1.0))
        self.check()

    @rule()
    def reap(self) -> None:
        with self.database.transaction() as session:
            store.reap(session, **RETRY)
        self.check()

    @rule()
    def backoff_passes(self) -> None:
        with self.database.transaction() as session:
            session.execute(update(Job).values(run_after=0.0))

    def check(self) -> None:
        check_invariants(self.database)

    def teardown(self) -> None:
        """Whatever happened: with everybody alive and nothing else going wrong, each job comes to an end."""
        with self.database.transaction() as session:
            session.execute(update(Job).where(Job.lease_owner.is_not(None)).values(lease_expires_at=1.0))
            store.reap(session, **RETRY)
        with self.database.transaction() as session:
            for job in session.scalars(select(Job).where(Job.state == "paused")):
                store.request_resume(session, self.project, job.id)
            session.execute(update(Job).values(run_after=0.0))
        for queue in (store.LIGHT, store.TRAIN, store.LIGHT):
            while (claim := self.claim_one(queue)) is not None:
                with self.database.transaction() as session:
                    if claim.stage == "validating":
                        store.finish_validating(session, claim, {"ready": True})
                    else:
                        store.succeed(session, claim, Finished())
        self.check()
        with self.database.reading() as session:
            assert not session.scalars(select(Job).where(Job.state.not_in(TERMINAL))).all(), "I4: a job is stuck"

    def claim_one(self, queue: str) -> Claim | None:
        with self.database.transaction() as session:
            return store.claim(session, queue=queue, worker="last", lease_seconds=100.0)


def a_step(step: int) -> Step:
    return Step(
        step=step, loss=1.0 / step, learning_rate=0.1, grad_norm=1.0, tokens=step, tokens_per_second=1.0, seconds=1.0
    )


@pytest.fixture
def machine(database_url: str) -> Iterator[type[LifeOfJobs]]:
    opened = Database(database_url)

    class Here(LifeOfJobs):
        database = opened
        project = add_project(opened)

    yield Here
    opened.close()


# No shrinking: each step is a transaction, and the failing steps are printed anyway.
LONG = settings(max_examples=8, stateful_step_count=30, phases=[Phase.generate])


def test_invariants_hold_in_any_order_of_events(machine: type[LifeOfJobs]) -> None:
    run_state_machine_as_test(machine, settings=LONG)  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_the_machine_sees_a_missing_fence(machine: type[LifeOfJobs], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "_held", lambda claim: Job.id == claim.job_id)
    with pytest.raises(AssertionError, match="zombie"):
        run_state_machine_as_test(machine, settings=LONG)  # type: ignore[no-untyped-call]
