"""Bytes of deleted things go after a grace, unless something that lives still points to them."""

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from core.jobs.database import Database
from core.jobs.dialect import now
from core.jobs.tables import Checkpoint, File, Model, Stored, TokenizerRow
from core.storage import Storage

_SWEPT: tuple[type[Stored], ...] = (File, Checkpoint, Model, TokenizerRow)


def sweep(database: Database, storage: Storage, *, grace_seconds: float, limit: int = 20) -> list[str]:
    """Delete the bytes of rows hidden longer than the grace; returns the storage keys that went."""
    with database.transaction() as session:
        expire_files(session)
        keys = _due(session, grace_seconds=grace_seconds, limit=limit)
    for key in keys:
        storage.delete(key)
    return keys


def expire_files(session: Session) -> None:
    """Hide files whose `expires_after` has come."""
    rows = session.scalars(select(File).where(File.deleted_at.is_(None), File.expires_at < now()).limit(100))
    clock = float(session.scalar(select(now())) or 0.0)
    for row in rows:
        row.deleted_at = clock


def _due(session: Session, *, grace_seconds: float, limit: int) -> list[str]:
    keys: list[str] = []
    clock = float(session.scalar(select(now())) or 0.0)
    for table in _SWEPT:
        rows = session.scalars(
            select(table)
            .where(
                table.deleted_at.is_not(None),
                table.swept_at.is_(None),
                table.deleted_at < clock - grace_seconds,
            )
            .limit(limit)
            .with_for_update(skip_locked=True)
        )
        for row in rows:
            row.swept_at = clock
            if not _is_live(session, row.storage_key):
                keys.append(row.storage_key)
    return keys


def _is_live(session: Session, storage_key: str) -> bool:
    return any(
        session.scalar(
            select(table.storage_key)
            .where(table.storage_key == storage_key, or_(table.deleted_at.is_(None), table.swept_at.is_(None)))
            .limit(1)
        )
        for table in _SWEPT
    )
