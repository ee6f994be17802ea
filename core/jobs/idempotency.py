"""Creates that must not happen twice.

A caller's `Idempotency-Key` names a request for a day. An SDK that repeats a request whose answer it never saw sends no
key, but says that it is a repetition: then the same bytes from the same API key within minutes are the same request.
"""

import hashlib
from dataclasses import dataclass

from sqlalchemy import delete, update
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
    _forget_old(session, project_id, sending)
    row = IdempotentRequest(
        project_id=project_id, key=sending.key, body_sha256=sending.body_sha256, object_id=object_id
    )
    if insert_unless_there(session, row):
        return None
    made = session.get(IdempotentRequest, (project_id, sending.key), populate_existing=True)
    assert made is not None
    if made.body_sha256 != sending.body_sha256:
        raise Conflict(
            "This Idempotency-Key was used for another request.",
            code="idempotency_conflict",
            hint="Use a new key for a new request, and the same body to repeat one.",
        )
    if sending.chosen or sending.repeated:
        return made.object_id
    # The same bytes, sent anew on purpose: this one is what a repetition will mean from now on.
    session.execute(
        update(IdempotentRequest)
        .where(IdempotentRequest.project_id == project_id, IdempotentRequest.key == sending.key)
        .values(object_id=object_id, created_at=now())
    )
    return None


def _forget_old(session: Session, project_id: str, sending: Sending) -> None:
    """A key that nobody remembers is free again."""
    age = REMEMBERED_SECONDS if sending.chosen else REPEATED_SECONDS
    session.execute(
        delete(IdempotentRequest).where(
            IdempotentRequest.project_id == project_id,
            IdempotentRequest.key == sending.key,
            IdempotentRequest.created_at < now() - age,
        )
    )


def forget(session: Session) -> None:
    """Drop what is older than a day."""
    session.execute(delete(IdempotentRequest).where(IdempotentRequest.created_at < now() - REMEMBERED_SECONDS))
