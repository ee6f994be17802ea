"""The row that says that a worker lives: which slots it has, and which jobs its pool processes hold."""

import logging
import os
import socket
import threading
from collections.abc import Callable

import psutil
from sqlalchemy import select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session

from core.jobs import store, workers
from core.jobs.database import Database
from core.jobs.tables import Job
from core.settings import Settings
from worker.slots import shares

log = logging.getLogger(__name__)
BEAT_SECONDS = 5.0


class Heartbeat:
    """A thread of the main process."""

    def __init__(self, database: Database, name: str, settings: Settings, *, trains: bool, version: str) -> None:
        self.database, self.name, self.version = database, name, version
        self.kind = "train" if trains else "light"
        self.slots = [share.slot.model_dump() for share in shares(settings)] if trains else []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._ended.set()
        self._thread.join(timeout=10)

    def _run(self) -> None:
        while not self._ended.is_set():
            self._try(self._beat)
            self._ended.wait(BEAT_SECONDS)
        self._try(lambda session: workers.leave(session, self.name))

    def _try(self, body: Callable[[Session], None]) -> None:
        try:
            with self.database.transaction() as session:
                body(session)
        except (DBAPIError, PoolTimeout) as error:
            log.warning("no heartbeat, the database is away: %s", str(error).splitlines()[0])

    def _beat(self, session: Session) -> None:
        held = select(Job).where(Job.lease_owner.startswith(f"{self.name}/", autoescape=True)).order_by(Job.id)
        jobs = []
        for job in session.scalars(held):
            owner = str(job.lease_owner)
            if psutil.pid_exists(int(owner.rpartition("/")[2])):
                jobs.append(job.id)
            else:
                store.expire(session, owner)
        slots = [
            slot | {"job_id": job} for slot, job in zip(self.slots, [*jobs, *[None] * len(self.slots)], strict=False)
        ]
        workers.beat(
            session,
            self.name,
            kind=self.kind,
            host=socket.gethostname(),
            pid=os.getpid(),
            version=self.version,
            slots=slots,
            job_id=jobs[0] if jobs else None,
        )
