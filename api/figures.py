"""Figures for Prometheus: requests as they pass, and what the database says at the moment of the scrape.

Figures of the database are the same from every api process; those of requests are each process's own. No label holds
an id: series would multiply. `docs/operating.md` says what each is good for, `deploy/grafana` shows them.
"""

from collections import Counter as Tally
from collections.abc import Iterator
from contextlib import suppress
from importlib.metadata import version

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from api.generator_figures import figures_of
from core.jobs import workers
from core.jobs.database import Database
from core.jobs.dialect import now
from core.jobs.states import TRANSITIONS
from core.jobs.tables import Attempt, Job
from core.storage import Storage

_BUCKETS = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0)
QUEUES = ("light", "train")
disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each, of no use to anyone


class Figures:
    """Of one api process."""

    def __init__(self, database: Database, storage: Storage) -> None:
        self.database, self.storage = database, storage
        self.registry = CollectorRegistry()
        self.registry.register(self)
        ProcessCollector(registry=self.registry)
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
        self._first = Histogram(
            "weightsmith_http_first_byte_seconds",
            "Time to the first piece of a streamed answer",
            ["route"],
            buckets=_BUCKETS,
            registry=self.registry,
        )

    def count_request(self, method: str, route: str, status: int, seconds: float) -> None:
        """`route` is the template, so that ids do not multiply the series."""
        known = method if method in ("GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH") else "other"
        self._requests.labels(known, route or "none", str(status)).inc()
        self._seconds.labels(known, route or "none").observe(seconds)

    def count_first_byte(self, route: str, seconds: float) -> None:
        self._first.labels(route or "none").observe(seconds)

    def text(self) -> bytes:
        return generate_latest(self.registry)

    def describe(self) -> list[Metric]:
        """Nothing: asking the database when a process starts would make it wait for the database."""
        return []

    def collect(self) -> Iterator[Metric]:
        build = GaugeMetricFamily("weightsmith_build_info", "1, with the version as its label", labels=["version"])
        build.add_metric([version("weightsmith")], 1)
        yield build
        with suppress(OSError):  # then /readyz says so
            free = self.storage.free_bytes()
            yield GaugeMetricFamily("weightsmith_storage_free_bytes", "Free space where models and data lie", free)
        with self.database.reading() as session:
            yield from _of_jobs(session)
            yield from _of_queues(session)
            yield from _of_running_jobs(session)
            yield from _of_attempts(session)
            yield from _of_workers(session)
            addresses = [row.address for row in workers.alive(session, kind="generator") if row.address]
        yield from figures_of(addresses)


def _of_jobs(session: Session) -> Iterator[Metric]:
    counted = session.execute(select(Job.state, func.count(), func.sum(Job.tokens)).group_by(Job.state)).all()
    counts = {state: (number, tokens) for state, number, tokens in counted}
    jobs = GaugeMetricFamily("weightsmith_jobs", "Jobs by state", labels=["state"])
    for state in TRANSITIONS:
        jobs.add_metric([state], counts.get(state, (0, 0))[0])
    yield jobs
    tokens = CounterMetricFamily("weightsmith_training_tokens", "Tokens that all jobs have learned from")
    tokens.add_metric([], sum(float(number) for _, number in counts.values()))
    yield tokens
    failed = GaugeMetricFamily("weightsmith_jobs_failed", "Jobs that failed, by their error's code", labels=["code"])
    by_code = select(Job.error_code, func.count()).where(Job.state == "failed").group_by(Job.error_code)
    for code, number in session.execute(by_code):
        failed.add_metric([code or "none"], number)
    yield failed


def _of_queues(session: Session) -> Iterator[Metric]:
    waiting = (Job.state.in_(("queued", "validating")), Job.desired == "run", Job.lease_owner.is_(None))
    depth = GaugeMetricFamily("weightsmith_queue_depth", "Jobs that wait for a worker", labels=["queue"])
    age = GaugeMetricFamily("weightsmith_queue_age_seconds", "How long the first of them has waited", labels=["queue"])
    since = func.coalesce(Job.queued_at, Job.created_at)
    rows = session.execute(select(Job.queue, func.count(), now() - func.min(since)).where(*waiting).group_by(Job.queue))
    found = {queue: (number, max(0.0, float(seconds))) for queue, number, seconds in rows}
    for queue in QUEUES:
        number, seconds = found.get(queue, (0, 0.0))
        depth.add_metric([queue], number)
        age.add_metric([queue], seconds)
    yield depth
    yield age


def _of_running_jobs(session: Session) -> Iterator[Metric]:
    """Those that a worker holds. A lease that is not renewed, a run without progress: the first signs of trouble."""
    held = select(now() - func.min(Job.heartbeat_at)).where(Job.lease_owner.is_not(None))
    running = select(func.sum(Job.tokens_per_second), now() - func.min(Job.progress_at)).where(Job.state == "running")
    speed, silence = session.execute(running).one()
    yield GaugeMetricFamily(
        "weightsmith_lease_age_seconds",
        "Longest time since the lease of a held job was renewed",
        max(0.0, float(session.scalar(held) or 0.0)),
    )
    yield GaugeMetricFamily(
        "weightsmith_training_tokens_per_second", "Speed of all running jobs together", float(speed or 0.0)
    )
    yield GaugeMetricFamily(
        "weightsmith_progress_age_seconds",
        "Longest time since a running job has reported a step",
        max(0.0, float(silence or 0.0)),
    )


def _of_attempts(session: Session) -> Iterator[Metric]:
    attempts = GaugeMetricFamily(
        "weightsmith_attempts", "Claims of jobs, by stage and how they ended", labels=["stage", "outcome"]
    )
    by_outcome = select(Attempt.stage, Attempt.outcome, func.count()).group_by(Attempt.stage, Attempt.outcome)
    for stage, outcome, number in session.execute(by_outcome):
        attempts.add_metric([stage, outcome or "open"], number)
    yield attempts


def _of_workers(session: Session) -> Iterator[Metric]:
    rows = workers.alive(session)
    alive = GaugeMetricFamily("weightsmith_workers", "Processes heard of lately", labels=["kind"])
    kinds = Tally(row.kind for row in rows)
    for kind in ("train", "light", "generator"):
        alive.add_metric([kind], kinds[kind])
    yield alive
    slots = GaugeMetricFamily("weightsmith_slots", "Places for runs, by whether a job holds them", labels=["state"])
    places = [place for row in rows for place in row.slots if isinstance(place, dict)]
    used = sum(place.get("job_id") is not None for place in places)
    slots.add_metric(["used"], used)
    slots.add_metric(["free"], len(places) - used)
    yield slots
