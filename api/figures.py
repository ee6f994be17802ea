"""Figures for Prometheus: requests as they pass, and what the database says at the moment of the scrape."""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from core.jobs import workers
from core.jobs.database import Database
from core.jobs.dialect import now
from core.jobs.states import TRANSITIONS
from core.jobs.tables import Attempt, Job

_BUCKETS = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0)


class Figures:
    """Of one api process."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.registry = CollectorRegistry()
        self.registry.register(self)
        self._requests = Counter(
            "weightsmith_http_requests", "Requests answered", ["method", "route", "status"], registry=self.registry
        )
        self._seconds = Histogram(
            "weightsmith_http_request_seconds",
            "Time to the last byte",
            ["method", "route"],
            buckets=_BUCKETS,
            registry=self.registry,
        )

    def count_request(self, method: str, route: str, status: int, seconds: float) -> None:
        """`route` is the template, so that ids do not multiply the series."""
        known = method if method in ("GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH") else "other"
        self._requests.labels(known, route or "none", str(status)).inc()
        self._seconds.labels(known, route or "none").observe(seconds)

    def text(self) -> bytes:
        return generate_latest(self.registry)

    def describe(self) -> list[Metric]:
        """Nothing: asking the database when a process starts would make it wait for the database."""
        return []

    def collect(self) -> Iterator[Metric]:
        with self.database.reading() as session:
            yield from _of_jobs(session)
            yield from _of_workers(session)


def _of_jobs(session: Session) -> Iterator[Metric]:
    jobs = GaugeMetricFamily("weightsmith_jobs", "Jobs by state", labels=["state"])
    counted = select(Job.state, func.count()).group_by(Job.state)
    counts: dict[str, int] = dict(session.execute(counted).all())
    for state in TRANSITIONS:
        jobs.add_metric([state], counts.get(state, 0))
    yield jobs
    waiting = (Job.state.in_(("queued", "validating")), Job.desired == "run", Job.lease_owner.is_(None))
    depth = GaugeMetricFamily("weightsmith_queue_depth", "Jobs that wait for a worker", labels=["queue"])
    age = GaugeMetricFamily("weightsmith_queue_age_seconds", "How long the first of them has waited", labels=["queue"])
    since = func.coalesce(Job.queued_at, Job.created_at)
    rows = session.execute(select(Job.queue, func.count(), now() - func.min(since)).where(*waiting).group_by(Job.queue))
    for queue, number, seconds in rows:
        depth.add_metric([queue], number)
        age.add_metric([queue], max(0.0, float(seconds)))
    yield depth
    yield age
    attempts = GaugeMetricFamily(
        "weightsmith_attempts", "Claims of jobs, by stage and how they ended", labels=["stage", "outcome"]
    )
    by_outcome = select(Attempt.stage, Attempt.outcome, func.count()).group_by(Attempt.stage, Attempt.outcome)
    for stage, outcome, number in session.execute(by_outcome):
        attempts.add_metric([stage, outcome or "open"], number)
    yield attempts


def _of_workers(session: Session) -> Iterator[Metric]:
    alive = GaugeMetricFamily("weightsmith_workers", "Processes heard of lately", labels=["kind"])
    kinds = [worker.kind for worker in workers.alive(session)]
    for kind in ("train", "light", "generator"):
        alive.add_metric([kind], kinds.count(kind))
    yield alive
