"""Files: bytes that were uploaded, or taken over from a folder that the operator allows."""

import threading
import time
from pathlib import Path
from typing import Annotated, Literal, cast
from urllib.parse import unquote, urlsplit

from fastapi import APIRouter, Query, Request
from fastapi.responses import FileResponse, JSONResponse
from pydantic import Field
from starlette.concurrency import run_in_threadpool

from api import views
from api.dependencies import After, Provided, Reader, Sent, Services, Writer, sending_of
from api.intake import Intake
from api.multipart import Sink, receive
from api.schemas import Deleted, FileOut, ListOut
from core.data.check import check_file
from core.data.formats import FormatName
from core.errors import CapacityExceeded, Forbidden, InvalidRequest, NotFound
from core.jobs import files, idempotency, registry
from core.jobs.files import PURPOSES, Purpose
from core.jobs.idempotency import Sending
from core.jobs.ids import new_id
from core.spec import Spec

router = APIRouter(prefix="/v1/files", tags=["files"])
MIN_LIFE_SECONDS, MAX_LIFE_SECONDS = 3600, 2_592_000
REPORT_SECONDS = 60.0
_reporting = threading.BoundedSemaphore(2)
_COPY_BYTES = 4 << 20

MULTIPART = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file", "purpose"],
                    "properties": {
                        "file": {"type": "string", "format": "binary"},
                        "purpose": {"type": "string", "enum": list(PURPOSES)},
                        "expires_after[anchor]": {"type": "string", "enum": ["created_at"]},
                        "expires_after[seconds]": {
                            "type": "integer",
                            "minimum": MIN_LIFE_SECONDS,
                            "maximum": MAX_LIFE_SECONDS,
                        },
                    },
                },
                "example": {"file": "(the bytes)", "purpose": "fine-tune", "expires_after[seconds]": 86400},
            }
        },
    }
}


class ExpiresAfter(Spec):
    """When a file goes by itself."""

    anchor: Literal["created_at"] = "created_at"
    seconds: int = Field(ge=MIN_LIFE_SECONDS, le=MAX_LIFE_SECONDS)


class FileImport(Spec):
    uri: str = Field(min_length=1, max_length=4096, description="path or file:// URL on the server")
    purpose: Purpose = "fine-tune"
    expires_after: ExpiresAfter | None = None


@router.post("", summary="Upload a file", openapi_extra=MULTIPART)
async def create_file(request: Request, caller: Writer, provided: Provided) -> FileOut:
    file_id = new_id("file-")
    intakes: list[Intake] = []

    def begin(filename: str) -> Sink:
        intakes.append(_intake(provided, file_id, filename, max_bytes=provided.settings.max_post_bytes))
        return intakes[0].write

    try:
        form = await receive(request, file_field="file", begin=begin)
        purpose = purpose_of(form.fields)
        seconds = _life_of(form.fields)
        intake = intakes[0]
        sent = sending_of(request, caller, f"{intake.sha256} {purpose} {intake.filename}")
        return await run_in_threadpool(_keep, provided, caller.project_id, file_id, intake, purpose, seconds, sent)
    finally:
        for intake in intakes:
            intake.discard()


@router.post("/import", summary="Take over a file from a folder that the operator allows")
def import_file(body: FileImport, caller: Writer, provided: Provided, sent: Sent) -> FileOut:
    path = allowed_path(body.uri, provided.settings.import_folders, param="uri")
    if not path.is_file():
        raise InvalidRequest(f"{body.uri!r} is not a file.", code="not_a_file", param="uri")
    file_id = new_id("file-")
    intake = _intake(provided, file_id, path.name, max_bytes=provided.settings.max_upload_bytes)
    seconds = body.expires_after.seconds if body.expires_after else None
    # Copied: what training reads must not change, and a folder of others may.
    try:
        with path.open("rb") as source:
            while block := source.read(_COPY_BYTES):
                intake.write(block)
        return _keep(provided, caller.project_id, file_id, intake, body.purpose, seconds, sent)
    finally:
        intake.discard()


@router.get("", summary="List files, newest first")
def list_files(
    caller: Reader,
    provided: Provided,
    after: After = None,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 10_000,
    order: Literal["asc", "desc"] = "desc",
    purpose: Annotated[str | None, Query(max_length=64)] = None,
) -> ListOut[FileOut]:
    with provided.database.reading() as session:
        found = files.page(
            session, caller.project_id, after=after, limit=limit, ascending=order == "asc", purpose=purpose
        )
    return views.page([views.file(row) for row in found.rows], has_more=found.has_more)


@router.get("/{file_id}", summary="One file")
def get_file(file_id: str, caller: Reader, provided: Provided) -> FileOut:
    with provided.database.reading() as session:
        return views.file(files.get(session, caller.project_id, file_id))


@router.get("/{file_id}/content", summary="Its bytes", response_class=FileResponse)
def get_content(file_id: str, caller: Reader, provided: Provided) -> FileResponse:
    with provided.database.reading() as session:
        row = files.get(session, caller.project_id, file_id)
    return FileResponse(
        provided.storage.file(row.storage_key), media_type="application/octet-stream", filename=row.filename
    )


@router.get("/{file_id}/report", summary="What a look at every row finds: counts, and each bad line")
def get_report(file_id: str, caller: Reader, provided: Provided) -> JSONResponse:
    with provided.database.reading() as session:
        row = files.get(session, caller.project_id, file_id)
    if row.format is None:
        raise NotFound(
            f"File {file_id!r} was uploaded with purpose {row.purpose!r}; only files for training have a report.",
            code="no_report",
        )
    if not _reporting.acquire(blocking=False):
        raise CapacityExceeded("Other files are being looked at.", retry_after_seconds=5.0)
    try:
        deadline = time.monotonic() + REPORT_SECONDS
        found = check_file(
            provided.storage.file(row.storage_key),
            row.filename,
            cast(FormatName, row.format),
            progress=lambda fraction: _hurry(deadline, fraction),
        )
    finally:
        _reporting.release()
    return JSONResponse({"object": "file.report", "file": row.id, **found.model_dump(mode="json")})


@router.delete("/{file_id}", summary="Delete a file that no job needs")
def delete_file(file_id: str, caller: Writer, provided: Provided) -> Deleted:
    with provided.database.transaction() as session:
        registry.delete(session, files.get(session, caller.project_id, file_id), file_id)
    return Deleted(id=file_id, object="file")


def purpose_of(fields: dict[str, str]) -> Purpose:
    purpose = fields.get("purpose")
    if purpose not in PURPOSES:
        raise InvalidRequest(
            f"`purpose` is {purpose!r}; allowed: {', '.join(PURPOSES)}."
            if purpose
            else "`purpose` is missing; `fine-tune` is the one for training.",
            param="purpose",
        )
    return purpose


def allowed_path(uri: str, folders: list[Path], *, param: str) -> Path:
    """The real path, links resolved, if it lies in a folder from which may be imported.

    Raises:
        Forbidden: it does not, or nothing may be imported here.
    """
    parts = urlsplit(uri)
    if parts.scheme not in ("", "file") or parts.netloc not in ("", "localhost") or "\x00" in uri:
        raise InvalidRequest(
            f"{uri!r} cannot be imported; give a path on the server, or file:///path.", code="bad_uri", param=param
        )
    path = Path(unquote(parts.path) if parts.scheme else uri).resolve()
    if not any(path.is_relative_to(folder.resolve()) for folder in folders):
        allowed = ", ".join(map(str, folders)) or "none"
        raise Forbidden(
            f"{uri!r} lies in no folder from which may be imported; these may: {allowed}.",
            code="import_not_allowed",
            hint="The operator names such folders in WEIGHTSMITH_IMPORT_FOLDERS.",
        )
    if not path.exists():
        raise InvalidRequest(f"There is nothing at {uri!r}.", code="not_a_file", param=param)
    return path


def _intake(provided: Services, file_id: str, filename: str, *, max_bytes: int) -> Intake:
    return Intake(
        provided.storage,
        files.storage_key(file_id),
        filename=filename,
        min_free_bytes=provided.settings.min_free_bytes,
        max_bytes=max_bytes,
    )


def _keep(
    provided: Services,
    project_id: str,
    file_id: str,
    intake: Intake,
    purpose: Purpose,
    seconds: int | None,
    sent: Sending,
) -> FileOut:
    """Check what has come and give it a row; or find the file that an earlier sending of the same has made."""
    format = intake.keep(for_training=purpose == "fine-tune")
    with provided.database.transaction() as session:
        made = idempotency.claim(session, project_id, sent, object_id=file_id)
        row = (
            files.get(session, project_id, made)
            if made is not None
            else files.add(
                session,
                project_id,
                file_id=file_id,
                filename=intake.filename,
                purpose=purpose,
                size_bytes=intake.size_bytes,
                sha256=intake.sha256,
                format=format,
                expires_after_seconds=seconds,
            )
        )
        shown = views.file(row)
    if made is not None:
        provided.storage.delete(files.storage_key(file_id))
    return shown


def _life_of(fields: dict[str, str]) -> int | None:
    anchor, seconds = fields.get("expires_after[anchor]"), fields.get("expires_after[seconds]")
    if anchor is None and seconds is None:
        return None
    if anchor not in (None, "created_at"):
        raise InvalidRequest(
            f"`expires_after.anchor` is {anchor!r}; allowed: 'created_at'.", param="expires_after.anchor"
        )
    whole = int(seconds) if seconds is not None and seconds.isdecimal() and len(seconds) < 12 else -1
    if not MIN_LIFE_SECONDS <= whole <= MAX_LIFE_SECONDS:
        raise InvalidRequest(
            f"`expires_after.seconds` is {seconds!r}; allowed: {MIN_LIFE_SECONDS} to {MAX_LIFE_SECONDS}.",
            param="expires_after.seconds",
        )
    return whole


def _hurry(deadline: float, fraction: float) -> None:
    if time.monotonic() > deadline:
        raise InvalidRequest(
            f"The file is too large for a report while you wait: {fraction:.0%} of it took {REPORT_SECONDS:.0f} s.",
            code="file_too_large_for_report",
            hint="Submit the job: its validating stage looks at every row and names the bad ones.",
        )
