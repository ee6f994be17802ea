"""The live feed of jobs: one look a moment at all jobs that somebody watches, for all streams of this process.

A stream has a cursor of its own and never holds a session. What a look finds is formatted once and handed to every
stream of the job; a stream that comes later, or was too slow, reads what it missed from the database.
"""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from pydantic import BaseModel
from sqlalchemy import and_, or_, select
from sqlalchemy.exc import SQLAlchemyError
from starlette.concurrency import run_in_threadpool

from api import views
from api.schemas import ProgressOut
from core.errors import CapacityExceeded
from core.jobs import listing
from core.jobs.database import Database
from core.jobs.states import TERMINAL
from core.jobs.tables import Job, JobEvent

log = logging.getLogger(__name__)
LOOK_SECONDS = 0.5
PING_SECONDS = 15.0
MAX_STREAMS = 1000
_KEPT = 512
"""newest events of a watched job that are held for all its streams"""
_CHUNK = 500
_PING = b": ping\n\n"


@dataclass(frozen=True)
class Message:
    seq: int
    text: bytes
    last: bool
    """the job is over"""


@dataclass
class Watched:
    """A job that somebody watches, as the last look found it."""

    seq: int | None = None
    """of the newest event; None before the first look"""
    kept: deque[Message] = field(default_factory=lambda: deque(maxlen=_KEPT))
    progress: bytes | None = None
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    streams: int = 0

    def after(self, cursor: int) -> list[Message] | None:
        """What is new behind the cursor; None: not known here, ask the database."""
        if self.seq is None:
            return None
        if self.seq <= cursor:
            return []
        return [m for m in self.kept if m.seq > cursor] if self.kept and self.kept[0].seq <= cursor + 1 else None

    def update(self, sight: "Sight") -> None:
        if sight.seq == self.seq and sight.progress == self.progress:
            return
        if sight.seq != self.seq and not sight.messages:
            self.kept.clear()  # too many at once to be held; what is held has no gaps
        self.seq, self.progress = sight.seq, sight.progress
        self.kept.extend(sight.messages)
        self.changed.set()
        self.changed = asyncio.Event()


@dataclass(frozen=True)
class Sight:
    seq: int
    progress: bytes
    messages: list[Message]


class Tail:
    """Start `run` once per process."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self._watched: dict[str, Watched] = {}
        self._wanted = asyncio.Event()

    async def run(self) -> None:
        while True:
            await self._wanted.wait()
            known = {job_id: watched.seq for job_id, watched in self._watched.items()}
            try:
                sights = await run_in_threadpool(look, self.database, known)
            except SQLAlchemyError as error:
                log.warning("tail: database away: %s", str(error).partition("\n")[0])
            else:
                for job_id, sight in sights.items():
                    if job_id in self._watched:
                        self._watched[job_id].update(sight)
            await asyncio.sleep(LOOK_SECONDS)

    async def stream(self, job_id: str, cursor: int) -> AsyncIterator[bytes]:
        """Server-sent events behind the cursor until the job is over."""
        with self._watching(job_id) as watched:
            shown: bytes | None = None
            while True:
                changed = watched.changed  # taken before reading, so that nothing new is slept over
                messages = await self._after(job_id, watched, cursor)
                for message in messages:
                    yield message.text
                    cursor = message.seq
                    if message.last:
                        return
                if messages:
                    continue
                if watched.progress is not None and watched.progress != shown:
                    shown = watched.progress
                    yield shown
                try:
                    await asyncio.wait_for(changed.wait(), PING_SECONDS)
                except TimeoutError:
                    yield _PING

    async def _after(self, job_id: str, watched: Watched, cursor: int) -> list[Message]:
        known = watched.after(cursor)
        if known is not None:
            return known
        try:
            return await run_in_threadpool(read_behind, self.database, job_id, cursor)
        except SQLAlchemyError as error:  # the stream outlives it, and reads again when something has changed
            log.warning("tail: database away: %s", str(error).partition("\n")[0])
            return []

    def check_room(self) -> None:
        """
        Raises:
            CapacityExceeded: too many streams already.
        """
        if sum(watched.streams for watched in self._watched.values()) >= MAX_STREAMS:
            raise CapacityExceeded("Too many event streams are open.", retry_after_seconds=10.0)

    @contextmanager
    def _watching(self, job_id: str) -> Iterator[Watched]:
        watched = self._watched.setdefault(job_id, Watched())
        watched.streams += 1
        self._wanted.set()
        try:
            yield watched
        finally:
            watched.streams -= 1
            if not watched.streams:
                del self._watched[job_id]
            if not self._watched:
                self._wanted.clear()


def look(database: Database, known: Mapping[str, int | None]) -> dict[str, Sight]:
    """All watched jobs, and the events of those that have moved on since the last look."""
    with database.reading() as session:
        jobs = session.scalars(select(Job).where(Job.id.in_(known))).all()
        moved = {
            job.id: seq for job in jobs if (seq := known[job.id]) is not None and seq < job.event_seq <= seq + _CHUNK
        }
        news: dict[str, list[Message]] = {job.id: [] for job in jobs}
        if moved:
            behind = or_(*(and_(JobEvent.job_id == job_id, JobEvent.seq > seq) for job_id, seq in moved.items()))
            for event in session.scalars(select(JobEvent).where(behind).order_by(JobEvent.job_id, JobEvent.seq)):
                news[event.job_id].append(message_of(event))
    return {job.id: Sight(job.event_seq, progress_of(job), news[job.id]) for job in jobs}


def read_behind(database: Database, job_id: str, cursor: int) -> list[Message]:
    with database.reading() as session:
        return [message_of(event) for event in listing.events(session, job_id, after=cursor, limit=_CHUNK).rows]


def message_of(event: JobEvent) -> Message:
    last = event.kind == "state" and event.data.get("state") in TERMINAL
    return Message(event.seq, _format(event.kind, views.event(event), id=event.seq), last)


def progress_of(job: Job) -> bytes:
    """Without an id: a stream that resumes has missed nothing by missing these."""
    shown = ProgressOut(
        job=job.id,
        state=job.state,
        desired=job.desired,
        phase=job.phase,
        progress=views.progress(job),
        metrics=views.finites(job.latest),
    )
    return _format("progress", shown)


def _format(kind: str, data: BaseModel, *, id: int | None = None) -> bytes:
    head = f"id: {id}\n" if id is not None else ""
    return f"{head}event: {kind}\ndata: {data.model_dump_json()}\n\n".encode()
