"""Processes that do work, known by their heartbeats."""

from typing import Any

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from core.jobs.dialect import clock, now
from core.jobs.tables import Worker

ALIVE_SECONDS = 30.0


def beat(
    session: Session,
    worker_id: str,
    *,
    kind: str,
    host: str,
    pid: int,
    version: str,
    address: str | None = None,
    slots: list[Any] | None = None,
    models: list[Any] | None = None,
    job_id: str | None = None,
) -> None:
    """Say that this process lives. Inserted at the first beat."""
    instant = clock(session)
    row = session.get(Worker, worker_id)
    if row is None:
        row = Worker(id=worker_id, started_at=instant)
        session.add(row)
    row.kind, row.host, row.pid, row.version = kind, host, pid, version
    row.address, row.slots, row.models, row.job_id = address, slots or [], models or [], job_id
    row.heartbeat_at = instant


def leave(session: Session, worker_id: str) -> None:
    """A clean exit."""
    session.execute(delete(Worker).where(Worker.id == worker_id))


def alive(session: Session, *, kind: str | None = None) -> list[Worker]:
    """Those heard of in the last half minute, newest beat first."""
    query = select(Worker).where(Worker.heartbeat_at > now() - ALIVE_SECONDS)
    if kind is not None:
        query = query.where(Worker.kind == kind)
    return list(session.scalars(query.order_by(Worker.heartbeat_at.desc())))


def forget_silent(session: Session, *, after_seconds: float = 86_400.0) -> None:
    """Drop rows of processes that have been silent for a day."""
    session.execute(delete(Worker).where(Worker.heartbeat_at < now() - after_seconds))
