"""Rows of files and of uploads that arrive in parts. The bytes are core.storage's."""

from collections.abc import Sequence
from typing import Literal, get_args

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from core.data.formats import FormatName
from core.errors import Conflict, InvalidRequest, NotFound, TooLarge
from core.jobs import listing
from core.jobs.dialect import now
from core.jobs.ids import new_id
from core.jobs.listing import Page
from core.jobs.tables import File, Upload, UploadPart

Purpose = Literal["assistants", "batch", "fine-tune", "vision", "user_data", "evals"]
PURPOSES: tuple[Purpose, ...] = get_args(Purpose)
RESULTS = "fine-tune-results"
"""purpose of files that the server makes"""
UPLOAD_SECONDS = 3600.0
MAX_PARTS = 10_000


def storage_key(file_id: str) -> str:
    return f"files/{file_id}"


def upload_key(upload_id: str) -> str:
    return f"uploads/{upload_id}"


def part_key(upload_id: str, part_id: str) -> str:
    return f"{upload_key(upload_id)}/{part_id}"


def add(
    session: Session,
    project_id: str,
    *,
    file_id: str,
    filename: str,
    purpose: str,
    size_bytes: int,
    sha256: str,
    format: FormatName | None,
    expires_after_seconds: float | None = None,
) -> File:
    """The row of a file whose bytes lie in storage."""
    clock = _clock(session)
    row = File(
        id=file_id,
        project_id=project_id,
        filename=filename,
        purpose=purpose,
        size_bytes=size_bytes,
        sha256=sha256,
        format=format,
        status="processed",
        created_at=clock,
        expires_at=None if expires_after_seconds is None else clock + expires_after_seconds,
        storage_key=storage_key(file_id),
    )
    session.add(row)
    session.flush()
    return row


def get(session: Session, project_id: str, file_id: str) -> File:
    row = session.scalar(
        select(File).where(File.id == file_id, File.project_id == project_id, File.deleted_at.is_(None))
    )
    if row is None:
        raise NotFound(
            f"No file {file_id!r} in this project.",
            code="file_not_found",
            hint="GET /v1/files lists the files; deleted and expired ones are gone.",
        )
    return row


def page(
    session: Session, project_id: str, *, after: str | None, limit: int, ascending: bool, purpose: str | None
) -> Page[File]:
    query = select(File).where(File.project_id == project_id, File.deleted_at.is_(None))
    if purpose is not None:
        query = query.where(File.purpose == purpose)
    return listing.page(session, query, File, project_id=project_id, after=after, limit=limit, ascending=ascending)


# --- uploads ---


def begin_upload(
    session: Session,
    project_id: str,
    *,
    filename: str,
    purpose: str,
    mime_type: str,
    size_bytes: int,
    file_expires_after_seconds: float | None,
) -> Upload:
    clock = _clock(session)
    row = Upload(
        id=new_id("upload_"),
        project_id=project_id,
        filename=filename,
        purpose=purpose,
        mime_type=mime_type,
        size_bytes=size_bytes,
        status="pending",
        file_expires_after=file_expires_after_seconds,
        created_at=clock,
        expires_at=clock + UPLOAD_SECONDS,
    )
    session.add(row)
    session.flush()
    return row


def get_upload(session: Session, project_id: str, upload_id: str, *, lock: bool = False) -> Upload:
    """The upload as it stands; one whose time is over is `expired`."""
    query = select(Upload).where(Upload.id == upload_id, Upload.project_id == project_id)
    row = session.scalar(query.with_for_update().execution_options(populate_existing=True) if lock else query)
    if row is None:
        raise NotFound(f"No upload {upload_id!r} in this project.", code="upload_not_found")
    if row.status == "pending" and row.expires_at < _clock(session):
        row.status = "expired"
    return row


def overdue_uploads(session: Session, *, limit: int) -> list[Upload]:
    """Uploads that can no longer be completed; the grace is for a part or a completion that is under way."""
    overdue = (Upload.status == "pending", Upload.expires_at < now() - UPLOAD_SECONDS)
    return list(session.scalars(select(Upload).where(*overdue).limit(limit)))


def check_pending(row: Upload) -> None:
    if row.status != "pending":
        raise Conflict(f"The upload is {row.status}.", code="upload_not_pending", hint="Begin a new one.")


def add_part(session: Session, row: Upload, *, part_id: str, size_bytes: int) -> UploadPart:
    """
    Raises:
        Conflict: the upload takes no more parts.
        TooLarge: more bytes than were announced.
    """
    check_pending(row)
    sums = select(func.count(), func.coalesce(func.sum(UploadPart.size_bytes), 0))
    number, there = session.execute(sums.where(UploadPart.upload_id == row.id)).one()
    if number >= MAX_PARTS:
        raise TooLarge(f"The upload has {number} parts already.", hint="Send larger parts.")
    # A part may be sent again after a lost answer, so more may lie here than the file will have.
    if there + size_bytes > 2 * row.size_bytes:
        raise TooLarge(
            f"With this part the upload would have {there + size_bytes} bytes; {row.size_bytes} were announced.",
            param="data",
        )
    part = UploadPart(
        id=part_id,
        upload_id=row.id,
        size_bytes=size_bytes,
        storage_key=part_key(row.id, part_id),
        created_at=_clock(session),
    )
    session.add(part)
    session.flush()
    return part


def parts_in_order(session: Session, row: Upload, part_ids: Sequence[str]) -> list[UploadPart]:
    """The parts as the caller orders them.

    Raises:
        InvalidRequest: an unknown part, one named twice, or not as many bytes as were announced.
    """
    found = {part.id: part for part in session.scalars(select(UploadPart).where(UploadPart.upload_id == row.id))}
    for part_id in part_ids:
        if part_id not in found:
            raise InvalidRequest(f"{part_id!r} is not a part of this upload.", code="part_not_found", param="part_ids")
    if len(set(part_ids)) != len(part_ids):
        raise InvalidRequest("part_ids names a part twice.", param="part_ids")
    ordered = [found[part_id] for part_id in part_ids]
    total = sum(part.size_bytes for part in ordered)
    if total != row.size_bytes:
        raise InvalidRequest(
            f"The parts have {total} bytes together; {row.size_bytes} were announced.",
            code="upload_size_mismatch",
            param="part_ids",
        )
    return ordered


def _clock(session: Session) -> float:
    return float(session.scalar(select(now())) or 0.0)
