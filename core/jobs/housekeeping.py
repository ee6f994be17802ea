"""The reaper and the dispatcher: one thread in every api process and every Celery main process. No single beat to lose.

Several may run at once: rows are taken with SKIP LOCKED, and doing the same work twice changes nothing.
"""

import logging
import random
import threading
import time
from collections import deque

from celery import Celery
from sqlalchemy import or_, select, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session

from core.jobs import idempotency, queue, store, sweeping, workers
from core.jobs.database import Database
from core.jobs.dialect import now
from core.jobs.tables import Job
from core.settings import Settings
from core.storage import Storage

log = logging.getLogger(__name__)

# So soon a hint is sent again that the broker did not take.
RESEND_SECONDS = 2.0


class Housekeeping:
    """Runs until `stop`. `wake` makes it look at once, or send a hint (after a submit)."""

    def __init__(self, database: Database, celery: Celery, storage: Storage, settings: Settings) -> None:
        self.database, self.celery, self.storage, self.settings = database, celery, storage, settings
        self._wake = threading.Event()
        self._fresh: deque[tuple[str, str]] = deque(maxlen=1000)  # hints to send; more are found by the dispatcher
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="housekeeping", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def wake(self, hint: tuple[str, str] | None = None) -> None:
        """`hint`: a job that was put into a queue just now (id, queue); it is sent without asking the database, until
        the broker takes it."""
        if hint is not None:
            self._fresh.append(hint)
        self._wake.set()

    def stop(self) -> None:
        self._stopping = True
        self._wake.set()
        self._thread.join(timeout=10)

    def _run(self) -> None:
        healthy_since: float | None = None
        next_tick = 0.0
        while not self._stopping:
            try:
                had_fresh = self._send_fresh()
                if time.monotonic() < next_tick:
                    if not had_fresh:
                        self.dispatch()
                else:
                    # After an outage everyone gets a whole lease to renew before anything is reaped.
                    patient = healthy_since is None or time.monotonic() - healthy_since < self.settings.lease_seconds
                    next_tick = time.monotonic() + self.settings.reap_seconds * random.uniform(0.8, 1.2)
                    self.tick(reap=not patient)
                    healthy_since = healthy_since or time.monotonic()
            except (DBAPIError, PoolTimeout) as error:
                healthy_since = None
                log.warning("housekeeping: database away: %s", str(error).splitlines()[0])
            except OSError as error:
                log.warning("housekeeping: storage: %s", error)
            except Exception:  # whatever it was: without this thread nobody would reap or send hints
                log.exception("housekeeping")
            due = min(next_tick, time.monotonic() + RESEND_SECONDS) if self._fresh else next_tick
            self._wake.wait(max(0.0, due - time.monotonic()))
            self._wake.clear()

    def tick(self, *, reap: bool = True) -> None:
        """One look: reap expired leases, send hints that are due, sweep what was deleted."""
        if reap:
            with self.database.transaction() as session:
                reaped = store.reap(
                    session,
                    max_attempts=self.settings.max_attempts,
                    retry_base_seconds=self.settings.retry_base_seconds,
                )
                workers.forget_silent(session)
                idempotency.forget(session)
            for job_id in reaped:
                log.warning("reaped %s: its worker fell silent", job_id)
        self.dispatch()
        sweeping.sweep(self.database, self.storage, grace_seconds=self.settings.delete_grace_seconds)

    def _send_fresh(self) -> bool:
        """False: there were none."""
        had_fresh = bool(self._fresh)
        while self._fresh:
            job_id, name = self._fresh[0]
            if not queue.send_hint(self.celery, name, job_id):
                break
            self._fresh.popleft()
        return had_fresh

    def dispatch(self) -> None:
        """Send a hint for each claimable job that has none, or an old one. Crash in between = sent again later."""
        with self.database.transaction() as session:
            hints = _take_hints(session, rehint_seconds=self.settings.rehint_seconds)
        self._fresh.extend(hints)
        self._send_fresh()


def _take_hints(session: Session, *, rehint_seconds: float, limit: int = 20) -> list[tuple[str, str]]:
    """Stamp the jobs whose hint is due: (id, queue). Few at a time: a hint wakes a worker that idles, and it goes on by
    itself until the queue is empty."""
    due = session.execute(
        select(Job.id, Job.queue)
        .where(
            Job.state.in_(("queued", "validating")),
            Job.desired == "run",
            Job.lease_owner.is_(None),
            Job.run_after <= now(),
            or_(Job.hinted_at.is_(None), Job.hinted_at < now() - rehint_seconds),
        )
        .order_by(Job.priority.desc(), Job.created_at)
        .limit(limit)
        .with_for_update(skip_locked=True)
    ).all()
    if due:
        session.execute(update(Job).where(Job.id.in_([job_id for job_id, _ in due])).values(hinted_at=now()))
    return [(job_id, queue) for job_id, queue in due]
