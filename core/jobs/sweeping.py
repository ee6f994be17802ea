"""Bytes of deleted things go after a grace, unless something that lives still points to them."""

from sqlalchemy import inspect, or_, select
from sqlalchemy.orm import Session

from core.jobs import files, registry
from core.jobs.database import Database
from core.jobs.dialect import clock, now
from core.jobs.tables import Checkpoint, File, Model, Stored, TokenizerRow, Upload
from core.storage import Storage

_SWEPT: tuple[type[Stored], ...] = (File, Checkpoint, Model, TokenizerRow)


def sweep(database: Database, storage: Storage, *, grace_seconds: float, limit: int = 20) -> list[str]:
    """Delete the bytes of rows hidden longer than the grace; returns the storage keys that went.

    The bytes first, then the mark: who dies in between does it again.
    """
    with database.transaction() as session:
        expire_files(session)
        due = [row for table in _SWEPT for row in _due(session, table, grace_seconds=grace_seconds, limit=limit)]
        keys = sorted({row.storage_key for row in due if not _is_live(session, row.storage_key, grace_seconds)})
        over = files.overdue_uploads(session, limit=limit)
    for key in (*keys, *(files.upload_key(upload.id) for upload in over)):
        storage.delete(key)
    if due or over:
        with database.transaction() as session:
            for row in due:
                session.get_one(type(row), inspect(row).identity).swept_at = clock(session)
            for upload in over:
                session.get_one(Upload, upload.id).status = "expired"
    return keys


def expire_files(session: Session) -> None:
    """Hide files whose `expires_after` has come, when no job still reads them."""
    rows = session.scalars(select(File).where(File.deleted_at.is_(None), File.expires_at < now()).limit(100))
    for row in rows:
        if not registry.users_of(session, row.id):
            row.deleted_at = clock(session)


def _due(session: Session, table: type[Stored], *, grace_seconds: float, limit: int) -> list[Stored]:
    hidden = (table.swept_at.is_(None), table.deleted_at < now() - grace_seconds)
    return list(session.scalars(select(table).where(*hidden).limit(limit)))


def _is_live(session: Session, storage_key: str, grace_seconds: float) -> bool:
    """Whether another row that points to the same bytes is not due (a model and its last checkpoint share them)."""
    return any(
        session.scalar(
            select(table.storage_key)
            .where(
                table.storage_key == storage_key,
                or_(table.deleted_at.is_(None), table.deleted_at >= now() - grace_seconds),
            )
            .limit(1)
        )
        for table in _SWEPT
    )
