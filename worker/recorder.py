"""From a child's files to the database: events, output and checkpoints, in transactions that name their fence.

Metrics are recorded before or together with the checkpoint that follows them, so a run that resumes from it has no
hole. When the database is away nothing is lost: the events stay in their file until it is back.
"""

import logging
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from sqlalchemy import select
from sqlalchemy.exc import InterfaceError, InternalError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session

from core.errors import StorageFull
from core.events import Event, Saved, Step, Warned, parse_event
from core.jobs import journal, registry, store
from core.jobs.database import Database
from core.jobs.store import Claim
from core.jobs.tables import Checkpoint, Job
from core.run_dir import EVENTS, LOG, RunDir
from core.settings import Settings
from core.storage import Storage
from worker import checkpoints

_log = logging.getLogger(__name__)
AWAY = (OperationalError, InterfaceError, InternalError, PoolTimeout)
LOG_PIECE_BYTES = 64 << 10
HASTE_SECONDS = 0.05
"""between two transactions while the run starts: people wait for the first step"""
STORE_TRIES, STORE_WAIT_INTERVALS = 5, 5
T = TypeVar("T")


class DatabaseGone(Exception):
    """Away for longer than the settings allow: this attempt gives up, and its lease runs out."""


@dataclass
class Shipment:
    """A checkpoint on its way into storage."""

    saved: Saved
    end: int
    """of its line in the events file"""
    key: str
    done: Future[None]


class Recorder:
    """One attempt's."""

    def __init__(self, database: Database, storage: Storage, settings: Settings, claim: Claim, run_dir: RunDir) -> None:
        self.database, self.storage, self.settings, self.claim, self.run_dir = (
            database,
            storage,
            settings,
            claim,
            run_dir,
        )
        self.log = logging.LoggerAdapter(_log, {"job": claim.job_id, "attempt": claim.fence})
        self.desired = "run"
        self.keep, self.keep_best = 1, False
        self.committed: dict[str, str] = {}
        """path in the run directory -> storage key"""
        self.interval = min(settings.poll_seconds, settings.lease_seconds / 6)
        self._read_to = self._log_read_to = 0
        self._pending: list[tuple[int, Event]] = []
        self._shipments: deque[Shipment] = deque()
        self._warnings: list[Warned] = []
        self._lost: tuple[Saved, int] | None = None
        """the newest checkpoint, when it could not be stored"""
        self._shipping = ThreadPoolExecutor(max_workers=1, thread_name_prefix="storage")
        self._synced_at = self._renewed_at = 0.0
        self._away_since: float | None = None
        self._has_stepped = False

    # --- from the files ---

    def read(self) -> list[Event]:
        """The events that are new, up to the last whole line; checkpoints among them start for storage."""
        new: list[Event] = []
        for end, line in _whole_lines(self.run_dir.path / EVENTS, self._read_to):
            event = parse_event(line)
            self._read_to = end
            self._pending.append((end, event))
            if isinstance(event, Saved):
                self._ship(event, end)
            new.append(event)
        return new

    def _ship(self, saved: Saved, end: int) -> None:
        key = f"{checkpoints.folder(self.claim.job_id)}/{self.claim.fence}-{saved.step}"
        source = self.run_dir.path / saved.path
        done = self._shipping.submit(checkpoints.store_whole, self.storage, key, source, saved.manifest_sha256)
        self._shipments.append(Shipment(saved, end, key, done))

    # --- to the database ---

    def is_due(self) -> bool:
        """Whether it is time for a transaction: at the beginning at once, then once an interval."""
        since = time.monotonic() - self._synced_at
        return since >= self.interval or (bool(self._pending) and not self._has_stepped and since >= HASTE_SECONDS)

    def sync(self) -> bool:
        """One transaction: everything that is new. False when the database is away.

        Raises:
            LeaseLost: nothing was written, and nothing more will be.
            DatabaseGone: it has been away for too long.
        """
        self._synced_at = time.monotonic()
        renews = self._synced_at - self._renewed_at >= self.settings.lease_seconds / 6
        try:
            with self.database.transaction() as session:
                job = store.held(session, self.claim)
                if renews:
                    store.renew(session, self.claim, lease_seconds=self.settings.lease_seconds)
                self._record_events(session, job)
                log_read_to = self._record_output(session, job)
                arrived = self._commit_checkpoints(session, job)
                self.desired = job.desired
        except AWAY as error:
            self._note_outage(error)
            return False
        self._away_since = None
        self._renewed_at = self._synced_at if renews else self._renewed_at
        self._has_stepped = self._has_stepped or any(isinstance(event, Step) for _, event in self._pending)
        self._pending.clear()
        self._warnings.clear()
        self._log_read_to = log_read_to
        self._forget(arrived)
        return True

    def _record_events(self, session: Session, job: Job) -> None:
        recorded = journal.recorded_offset(session, job)
        new = [(end, event) for end, event in self._pending if end > recorded]
        if new:
            journal.record(session, job, [event for _, event in new], offset=new[-1][0])
        for warning in self._warnings:
            journal.append(session, job, "warned", warning.message, level="warn", data=warning.model_dump())

    def _record_output(self, session: Session, job: Job) -> int:
        piece = _piece(self.run_dir.path / LOG, self._log_read_to)
        journal.append_log(session, job, piece.decode(errors="replace"), offset=self._log_read_to)
        return self._log_read_to + len(piece)

    def _commit_checkpoints(self, session: Session, job: Job) -> list[Shipment]:
        """In the order in which they were saved."""
        arrived = []
        for shipment in self._shipments:
            if not shipment.done.done() or shipment.done.exception() is not None:
                break
            registry.commit_checkpoint(session, job, shipment.saved, storage_key=shipment.key)
            registry.retire_checkpoints(session, job, keep=self.keep, keep_best=self.keep_best)
            arrived.append(shipment)
        return arrived

    def _forget(self, arrived: list[Shipment]) -> None:
        """Note what is committed, drop its local predecessors, and say which one could not be stored."""
        for shipment in arrived:
            self._lost = None
            for path in self.committed:
                checkpoints.remove_local(self.run_dir.path / path)
            self.committed[shipment.saved.path] = shipment.key
            self._shipments.popleft()
        if self._shipments and self._shipments[0].done.done() and (lost := self._shipments[0].done.exception()):
            shipment = self._shipments.popleft()
            self._lost, step = (shipment.saved, shipment.end), shipment.saved.step
            code = lost.code if isinstance(lost, StorageFull) else "checkpoint_not_stored"
            message = f"The checkpoint of step {step} could not be stored: {lost} The next one is tried again."
            self._warnings.append(Warned(code=code, message=message))
            self.log.warning("%s", message)

    def insist(self, body: Callable[[Session], T]) -> T:
        """A transaction that must land: tried again while the database is away.

        Raises:
            LeaseLost: also when an earlier try has landed and its answer was lost; either way there is nothing to do.
            DatabaseGone: it has been away for too long.
        """
        while True:
            try:
                with self.database.transaction() as session:
                    return body(session)
            except AWAY as error:
                self._note_outage(error)
                time.sleep(self.interval)

    def finish(self) -> None:
        """The child is dead: bring everything that it said and saved home; space in storage is waited for a little."""
        self.read()
        self._sync_all()
        for _ in range(STORE_TRIES):
            if self._lost is None:
                break
            self.meanwhile(lambda: time.sleep(STORE_WAIT_INTERVALS * self.interval))
            self._ship(*self._lost)
            self._sync_all()

    def _sync_all(self) -> None:
        while not self.sync() or self._shipments or self._warnings or self._has_output():
            copying = [shipment.done for shipment in self._shipments]
            if self._away_since is not None or not copying:
                time.sleep(HASTE_SECONDS if self._away_since is None else self.interval)
            else:
                wait(copying, timeout=self.interval)

    def meanwhile(self, work: Callable[[], T]) -> T:
        """Do something long in another thread, and keep the lease."""
        done = self._shipping.submit(work)
        while not done.done():
            if self.is_due():
                self.sync()
            time.sleep(HASTE_SECONDS)
        return done.result()

    def take_back(self) -> None:
        """The lease is lost: remove from storage what was put there and never committed."""
        self._shipping.shutdown(wait=True, cancel_futures=True)
        try:
            with self.database.reading() as session:
                own = {shipment.key for shipment in self._shipments}
                known = set(session.scalars(select(Checkpoint.storage_key).where(Checkpoint.storage_key.in_(own))))
        except AWAY:
            return  # the next attempt tidies up
        for key in own - known:
            self.storage.delete(key)

    def close(self) -> None:
        self._shipping.shutdown(wait=False, cancel_futures=True)

    def _has_output(self) -> bool:
        return bool(_piece(self.run_dir.path / LOG, self._log_read_to))

    def _note_outage(self, error: Exception) -> None:
        now = time.monotonic()
        if self._away_since is None:
            self._away_since = now
            self.log.warning("database away: %s", str(error).splitlines()[0])
        if now - self._away_since > self.settings.max_offline_seconds:
            raise DatabaseGone(f"The database has been away for {now - self._away_since:.0f} s.")


def _whole_lines(path: Path, offset: int) -> list[tuple[int, bytes]]:
    """The complete lines behind a byte offset, each with the offset of its end."""
    try:
        if path.stat().st_size <= offset:
            return []
        with path.open("rb") as file:
            file.seek(offset)
            text = file.read()
    except FileNotFoundError:
        return []
    lines = []
    for line in text[: text.rfind(b"\n") + 1].splitlines(keepends=True):
        offset += len(line)
        lines.append((offset, line))
    return lines


def _piece(path: Path, offset: int) -> bytes:
    """The next piece of the output; ends with a line where there is one."""
    if offset >= journal.MAX_LOG_BYTES:
        return b""
    try:
        with path.open("rb") as file:
            file.seek(offset)
            piece = file.read(LOG_PIECE_BYTES)
    except FileNotFoundError:
        return b""
    return piece[: piece.rfind(b"\n") + 1] or piece
