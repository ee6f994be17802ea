"""Metric series: packed, thinned without losing a spike, and cut off where a younger attempt went on."""

from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import select, update

from core.events import Evaluated, Resumed, Saved, Started, Step
from core.jobs import journal, metrics, registry, store
from core.jobs.database import Database
from core.jobs.metrics import FAN, PER_BLOCK, Bucket
from core.jobs.store import Claim
from core.jobs.tables import Attempt, Job, MetricBlock
from tests.jobs import add_project, losses, submit, train_spec


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    made = Database(database_url)
    yield made
    made.close()


class Run:
    """A job whose attempts the test plays."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.job_id = submit(database, add_project(database), train_spec(steps=100_000))
        self.claim = self._claim(store.LIGHT)
        with database.transaction() as session:
            store.finish_validating(session, self.claim, {"ready": True})
        self.next()

    def _claim(self, queue: str) -> Claim:
        with self.database.transaction() as session:
            claim = store.claim(session, queue=queue, worker="w", lease_seconds=30.0)
        assert claim is not None
        return claim

    def next(self) -> None:
        """The next attempt; the one before it, if any, falls silent."""
        with self.database.transaction() as session:
            session.execute(update(Job).where(Job.lease_owner.is_not(None)).values(lease_expires_at=1.0))
            store.reap(session, max_attempts=100, retry_base_seconds=0.0)
            session.execute(update(Job).values(no_progress_failures=0))
        self.claim = self._claim(store.TRAIN)

    def record(self, *events: Any) -> None:
        with self.database.transaction() as session:
            job = store.held(session, self.claim)
            journal.record(session, job, events, offset=journal.recorded_offset(session, job) + 1)

    def train(self, first: int, last: int, *, spike: int | None = None) -> None:
        self.record(*(a_step(n, 1000.0 if n == spike else 1.0 / n) for n in range(first, last + 1)))

    def save(self, step: int) -> None:
        saved = Saved(step=step, path=f"step-{step}", manifest_sha256="0", size_bytes=1)
        with self.database.transaction() as session:
            job = store.held(session, self.claim)
            registry.commit_checkpoint(session, job, saved, storage_key=f"{self.claim.fence}/{step}")

    def read(self, name: str = "train_loss", **given: Any) -> list[Bucket]:
        with self.database.reading() as session:
            return metrics.read(session, self.job_id, name, **given)


def a_step(step: int, loss: float) -> Step:
    return Step(step=step, loss=loss, learning_rate=0.1, grad_norm=1.0, tokens=step, tokens_per_second=1.0, seconds=0.1)


@pytest.fixture
def run(database: Database) -> Run:
    return Run(database)


def test_a_series_is_read_back_point_by_point(run: Run) -> None:
    run.train(1, 3)
    run.train(4, 40)
    assert losses(run.database, run.job_id) == [(n, 1.0 / n) for n in range(1, 41)]
    assert [bucket.last_step for bucket in run.read(since_step=38)] == [38, 39, 40]
    with run.database.reading() as session:
        names = ["grad_norm", "learning_rate", "tokens_per_second", "train_loss"]
        assert metrics.names(session, run.job_id) == names


def test_thinning_keeps_the_spike_the_sum_and_both_ends(run: Run) -> None:
    total = 5 * PER_BLOCK + 7
    for first in range(1, total + 1, 500):
        run.train(first, min(first + 499, total), spike=1234)
    points = run.read(max_points=10**6)
    assert [p.last_step for p in points] == list(range(1, total + 1))
    for max_points in (10, 50, 500):
        thin = run.read(max_points=max_points)
        assert len(thin) <= max_points + 4 * FAN
        assert thin[0].first_step == 1
        assert thin[-1].last_step == total
        assert max(bucket.max for bucket in thin) == 1000.0
        assert sum(bucket.count for bucket in thin) == total
        assert sum(bucket.sum for bucket in thin) == pytest.approx(sum(p.sum for p in points))
        steps = [step for bucket in thin for step in (bucket.first_step, bucket.last_step)]
        assert steps == sorted(steps)


def test_a_long_run_is_read_from_few_rows(run: Run) -> None:
    for first in range(1, 20_001, 2000):
        run.train(first, first + 1999)
    with run.database.reading() as session:
        rows = session.scalars(select(MetricBlock).where(MetricBlock.name == "train_loss")).all()
    by_level = {level: sum(row.num_entries for row in rows if row.level == level) for level in range(4)}
    assert by_level == {0: 20_000, 1: 1250, 2: 78, 3: 4}
    assert len(run.read(max_points=100)) <= 100 + 3 * FAN


def test_a_resume_hides_what_the_older_attempt_had_beyond_it(run: Run) -> None:
    run.record(Started(total_steps=100))
    run.train(1, 50, spike=45)
    run.save(40)
    run.train(51, 55)
    run.next()
    assert [p.last_step for p in run.read(max_points=1000)] == list(range(1, 41)), "from the claim on"
    run.record(Started(total_steps=100), Resumed(step=40))
    run.train(41, 60)
    visible = run.read(max_points=1000)
    assert [p.last_step for p in visible] == list(range(1, 61))
    assert max(p.max for p in visible) == 1.0, "the hidden spike is hidden"
    with run.database.reading() as session:
        hidden = session.scalars(select(MetricBlock).where(MetricBlock.fence == run.claim.fence - 2)).all()
    assert hidden, "but it is kept"
    for max_points in (1, 3, 20):
        thin = run.read(max_points=max_points)
        assert sum(bucket.count for bucket in thin) == 60


def test_attempts_that_die_before_they_report_hide_nothing_more(run: Run) -> None:
    run.train(1, 30)
    run.save(20)
    for _ in range(3):
        run.next()
    assert [p.last_step for p in run.read()] == list(range(1, 21))
    run.record(Started(), Resumed(step=20))
    run.train(21, 25)
    assert [p.last_step for p in run.read()] == list(range(1, 26))


def test_a_still_older_checkpoint_hides_more(run: Run) -> None:
    run.train(1, 30)
    run.save(10)
    run.save(20)
    run.next()
    with run.database.transaction() as session:
        registry.reject_newest_checkpoint(session, store.held(session, run.claim), "altered")
    assert [p.last_step for p in run.read()] == list(range(1, 11))
    run.record(Started(), Resumed(step=10))
    run.train(11, 12)
    assert [p.last_step for p in run.read()] == list(range(1, 13))
    with run.database.reading() as session:
        assert session.get_one(Job, run.job_id).step == 12
        assert session.get_one(Attempt, (run.job_id, run.claim.fence)).first_step == 10


def test_evaluations_are_series_of_their_own(run: Run) -> None:
    run.train(1, 10)
    run.record(Evaluated(step=10, metrics={"validation_loss": 2.0, "validation_perplexity": 7.4}))
    assert [(p.last_step, p.last) for p in run.read("validation_loss")] == [(10, 2.0)]
    with run.database.reading() as session:
        latest = session.get_one(Job, run.job_id).latest
    assert latest["validation_perplexity"] == 7.4
    assert latest["train_loss"] == 0.1
