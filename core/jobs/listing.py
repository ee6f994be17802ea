"""Reading many rows: pages with a stable cursor, and where jobs stand in their queues."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from sqlalchemy import Select, and_, func, or_, select, tuple_
from sqlalchemy.orm import Session

from core.errors import InvalidRequest
from core.jobs.dialect import has_pair
from core.jobs.tables import Attempt, Checkpoint, Job, JobEvent, LogChunk

MAX_LOG_CHARACTERS = 4 << 20

Row = TypeVar("Row")


@dataclass(frozen=True)
class Page(Generic[Row]):
    rows: list[Row]
    has_more: bool

    @classmethod
    def of(cls, rows: Sequence[Row], limit: int) -> "Page[Row]":
        """`rows` were asked for with a limit of one more."""
        return cls(list(rows[:limit]), len(rows) > limit)


def page(
    session: Session,
    query: Select[Any],
    table: Any,
    *,
    project_id: str,
    after: str | None,
    limit: int,
    ascending: bool = False,
) -> Page[Any]:
    """A page by time of creation, newest first. What is added meanwhile never moves what comes behind the cursor.

    Raises:
        InvalidRequest: the cursor is not an id that this project has.
    """
    if after is not None:
        place = select(table.created_at).where(table.id == after, table.project_id == project_id)
        created_at = session.scalar(place)
        if created_at is None:
            raise no_such_cursor(after)
        key, cursor = tuple_(table.created_at, table.id), tuple_(created_at, after)
        query = query.where(key > cursor if ascending else key < cursor)
    order = (table.created_at, table.id) if ascending else (table.created_at.desc(), table.id.desc())
    return Page.of(session.scalars(query.order_by(*order).limit(limit + 1)).all(), limit)


def no_such_cursor(after: str) -> InvalidRequest:
    return InvalidRequest(
        f"after={after!r} is not the id of an object in this list.",
        code="invalid_cursor",
        param="after",
        hint="Give the id of the last object of the page before.",
    )


def jobs(
    session: Session,
    project_id: str,
    *,
    after: str | None = None,
    limit: int = 20,
    state: str | None = None,
    kind: str | None = None,
    metadata: Mapping[str, str] | None = None,
    no_metadata: bool = False,
    fine_tuning: bool = False,
) -> Page[Job]:
    """Jobs of a project, newest first. `fine_tuning`: only those that train and start from a model."""
    query = select(Job).where(Job.project_id == project_id)
    if state is not None:
        query = query.where(Job.state == state)
    if kind is not None:
        query = query.where(Job.kind == kind)
    if fine_tuning:
        query = query.where(Job.kind == "train", Job.base_model.is_not(None))
    if no_metadata:
        query = query.where(Job.metadata_ == {})
    for key, value in (metadata or {}).items():
        query = query.where(has_pair(Job.metadata_, key, value))
    return page(session, query, Job, project_id=project_id, after=after, limit=limit)


def queue_positions(session: Session, rows: Sequence[Job]) -> dict[str, int]:
    """1 for whoever is next. Jobs that nobody may claim now have no place."""
    waiting = [
        job
        for job in rows
        if job.state in ("queued", "validating") and job.desired == "run" and job.lease_owner is None
    ]
    if not waiting:
        return {}
    in_line = and_(Job.state.in_(("queued", "validating")), Job.desired == "run", Job.lease_owner.is_(None))
    if len(waiting) == 1:
        (job,) = waiting
        earlier = tuple_(Job.created_at, Job.id) < tuple_(job.created_at, job.id)
        before = or_(Job.priority > job.priority, and_(Job.priority == job.priority, earlier))
        return {job.id: 1 + (session.scalar(select(func.count()).where(in_line, Job.queue == job.queue, before)) or 0)}
    order = (Job.priority.desc(), Job.created_at, Job.id)
    place = func.row_number().over(partition_by=Job.queue, order_by=order).label("place")
    queues = select(Job.id, place).where(in_line).subquery()
    found = session.execute(select(queues.c.id, queues.c.place).where(queues.c.id.in_([job.id for job in waiting])))
    return {row.id: row.place for row in found}


def attempts(session: Session, job_id: str) -> list[Attempt]:
    return list(session.scalars(select(Attempt).where(Attempt.job_id == job_id).order_by(Attempt.fence)))


def events(
    session: Session, job_id: str, *, after: int | None = None, limit: int = 100, descending: bool = False
) -> Page[JobEvent]:
    """Events by `seq`; `after` is the last one that was seen, from either end."""
    query = select(JobEvent).where(JobEvent.job_id == job_id)
    if after is not None:
        query = query.where(JobEvent.seq < after if descending else JobEvent.seq > after)
    order = JobEvent.seq.desc() if descending else JobEvent.seq
    return Page.of(session.scalars(query.order_by(order).limit(limit + 1)).all(), limit)


def checkpoints(session: Session, job_id: str, *, after: str | None = None, limit: int = 100) -> Page[Checkpoint]:
    """Committed checkpoints that are still there, newest first."""
    query = select(Checkpoint).where(Checkpoint.job_id == job_id, Checkpoint.deleted_at.is_(None))
    if after is not None:
        last = session.scalar(select(Checkpoint).where(Checkpoint.id == after, Checkpoint.job_id == job_id))
        if last is None:
            raise no_such_cursor(after)
        query = query.where(tuple_(Checkpoint.step, Checkpoint.fence) < tuple_(last.step, last.fence))
    order = (Checkpoint.step.desc(), Checkpoint.fence.desc())
    return Page.of(session.scalars(query.order_by(*order).limit(limit + 1)).all(), limit)


def log_tail(session: Session, job_id: str, *, lines: int) -> tuple[str, bool]:
    """The last lines of what the job's processes printed, all attempts in order; and whether there are earlier ones."""
    newest = (LogChunk.fence.desc(), LogChunk.offset.desc())
    pieces: list[str] = []
    newlines = characters = 0
    for chunk in session.scalars(select(LogChunk).where(LogChunk.job_id == job_id).order_by(*newest).limit(10_000)):
        if newlines > lines or characters > MAX_LOG_CHARACTERS:
            break
        pieces.append(chunk.text)
        newlines += chunk.text.count("\n")
        characters += len(chunk.text)
    whole = "".join(reversed(pieces)).splitlines(keepends=True)
    first = session.scalar(select(func.sum(func.length(LogChunk.text))).where(LogChunk.job_id == job_id)) or 0
    text = "".join(whole[-lines:])
    return text, first > len(text)
