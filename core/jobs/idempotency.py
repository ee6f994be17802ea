"""Creates that must not happen twice.

A caller's `Idempotency-Key` names a request for a day. An SDK that repeats a request whose answer it never saw sends no
key, but says that it is a repetition: then the same bytes from the same API key within minutes are the same request.
"""

import hashlib
from dataclasses import dataclass

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from core.errors import Conflict
from core.jobs.dialect import insert_unless_there, now
from core.jobs.tables import IdempotentRequest

REMEMBERED_SECONDS = 86_400.0
REPEATED_SECONDS = 600.0


@dataclass(frozen=True)
class Sending:
    """What identifies a request: `key` by the caller's choice or by the bytes, and the hash of path and body."""

    key: str
    body_sha256: str
    chosen: bool
    """the caller chose the key; else it stands for the bytes"""
    repeated: bool
    """the SDK says that it has sent this before"""

    @classmethod
    def of(cls, *, key_id: str, path: str, body_sha256: str, idempotency_key: str | None, retries: int) -> "Sending":
        content = hashlib.sha256(f"{path}\n{body_sha256}".encode()).hexdigest()
        if idempotency_key is not None:
            chosen = hashlib.sha256(idempotency_key.encode()).hexdigest()
            return cls(f"chosen:{chosen}", content, chosen=True, repeated=retries > 0)
        return cls(f"bytes:{key_id}:{content}", content, chosen=False, repeated=retries > 0)


def claim(session: Session, project_id: str, sending: Sending, *, object_id: str) -> str | None:
    """Say that this request makes `object_id`, in the transaction that makes it.

    Returns the id of what an earlier sending of the request has made; then nothing must be made. Two at the same time:
    the second waits here for the first one's commit.

    Raises:
        Conflict: code `idempotency_conflict`: the key was used for another request.
    """
    row = IdempotentRequest(
        project_id=project_id, key=sending.key, body_sha256=sending.body_sha256, object_id=object_id
    )
    if insert_unless_there(session, row):
        return None
    remembered = REMEMBERED_SECONDS if sending.chosen else REPEATED_SECONDS
    age = now() - IdempotentRequest.created_at
    there = (IdempotentRequest.project_id == project_id, IdempotentRequest.key == sending.key)
    made, seconds = session.execute(select(IdempotentRequest, age).where(*there)).one()
    if seconds > remembered:
        _rename(session, made, sending, object_id)
        return None
    if made.body_sha256 != sending.body_sha256:
        raise Conflict(
            "This Idempotency-Key was used for another request.",
            code="idempotency_conflict",
            hint="Use a new key for a new request, and the same body to repeat one.",
        )
    if sending.chosen or sending.repeated:
        return made.object_id
    _rename(session, made, sending, object_id)
    return None


def _rename(session: Session, made: IdempotentRequest, sending: Sending, object_id: str) -> None:
    """From now on the key means the new object: it was forgotten, or the same bytes were sent anew on purpose."""
    made.body_sha256, made.object_id = sending.body_sha256, object_id
    made.created_at = float(session.scalar(select(now())) or 0.0)


def forget(session: Session) -> None:
    """Drop what is older than a day."""
    session.execute(delete(IdempotentRequest).where(IdempotentRequest.created_at < now() - REMEMBERED_SECONDS))
