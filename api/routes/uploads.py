"""Uploads: large files in parts."""

import hashlib
from collections.abc import Iterator

from fastapi import APIRouter, Request
from pydantic import Field
from starlette.concurrency import run_in_threadpool

from api import views
from api.dependencies import Provided, Services, Writer
from api.intake import Intake, check_space
from api.multipart import Sink, receive
from api.routes.files import ExpiresAfter
from api.schemas import PartOut, UploadOut
from core.errors import Conflict, InvalidRequest, TooLarge
from core.jobs import files
from core.jobs.files import Purpose
from core.jobs.ids import new_id
from core.jobs.tables import UploadPart
from core.spec import Spec

router = APIRouter(prefix="/v1/uploads", tags=["files"])
_COPY_BYTES = 4 << 20

MULTIPART = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["data"],
                    "properties": {"data": {"type": "string", "format": "binary"}},
                },
                "example": {"data": "(the bytes)"},
            }
        },
    }
}


class UploadBegin(Spec):
    bytes: int = Field(ge=1)
    filename: str = Field(min_length=1, max_length=1024)
    mime_type: str = Field(default="application/octet-stream", max_length=255)
    purpose: Purpose
    expires_after: ExpiresAfter | None = None


class UploadComplete(Spec):
    part_ids: tuple[str, ...] = Field(min_length=1, max_length=files.MAX_PARTS, description="in the file's order")
    md5: str | None = Field(default=None, pattern=r"^[0-9a-fA-F]{32}$", description="of the whole file, hexadecimal")


@router.post("", summary="Announce a file that comes in parts")
def begin_upload(body: UploadBegin, caller: Writer, provided: Provided) -> UploadOut:
    limit = provided.settings.max_upload_bytes
    if body.bytes > limit:
        raise TooLarge(f"`bytes` is {body.bytes}; at most {limit} are allowed here.", param="bytes")
    check_space(provided.storage, body.bytes + provided.settings.min_free_bytes)
    with provided.database.transaction() as session:
        row = files.begin_upload(
            session,
            caller.project_id,
            filename=body.filename,
            purpose=body.purpose,
            mime_type=body.mime_type,
            size_bytes=body.bytes,
            file_expires_after_seconds=body.expires_after.seconds if body.expires_after else None,
        )
        return views.upload(row)


@router.post("/{upload_id}/parts", summary="Send a part; parts may come in any order", openapi_extra=MULTIPART)
async def add_part(upload_id: str, request: Request, caller: Writer, provided: Provided) -> PartOut:
    part_id = new_id("part_")

    def check() -> None:
        with provided.database.reading() as session:
            files.check_pending(files.get_upload(session, caller.project_id, upload_id))

    await run_in_threadpool(check)
    intakes: list[Intake] = []

    def begin(filename: str) -> Sink:
        intakes.append(_intake(provided, files.part_key(upload_id, part_id), provided.settings.max_post_bytes))
        return intakes[0].write

    def keep() -> PartOut:
        intakes[0].keep(for_training=False)
        try:
            with provided.database.transaction() as session:
                upload = files.get_upload(session, caller.project_id, upload_id, lock=True)
                return views.part(files.add_part(session, upload, part_id=part_id, size_bytes=intakes[0].size_bytes))
        except (Conflict, TooLarge):
            provided.storage.delete(files.part_key(upload_id, part_id))
            raise

    try:
        await receive(request, file_field="data", begin=begin)
        return await run_in_threadpool(keep)
    finally:
        for intake in intakes:
            intake.discard()


@router.post("/{upload_id}/complete", summary="Put the parts together, in the order of `part_ids`")
def complete_upload(upload_id: str, body: UploadComplete, caller: Writer, provided: Provided) -> UploadOut:
    with provided.database.reading() as session:
        upload = files.get_upload(session, caller.project_id, upload_id)
        if upload.status == "completed" and upload.file_id is not None:
            # Asked again because the answer was lost.
            return views.upload(upload, files.get(session, caller.project_id, upload.file_id))
        files.check_pending(upload)
        parts = files.parts_in_order(session, upload, body.part_ids)
    file_id = new_id("file-")
    intake = _intake(provided, files.storage_key(file_id), upload.size_bytes, filename=upload.filename)
    md5 = hashlib.md5(usedforsecurity=False)
    try:
        for block in _blocks(provided, parts):
            md5.update(block)
            intake.write(block)
        if body.md5 is not None and md5.hexdigest() != body.md5.lower():
            raise InvalidRequest(
                f"`md5` is {body.md5}, but the parts together have {md5.hexdigest()}.",
                code="md5_mismatch",
                param="md5",
                hint="Look at the order of `part_ids`, or send the parts again.",
            )
        format = intake.keep(for_training=upload.purpose == "fine-tune")
    finally:
        intake.discard()
    with provided.database.transaction() as session:
        upload = files.get_upload(session, caller.project_id, upload_id, lock=True)
        if upload.status != "pending":
            provided.storage.delete(files.storage_key(file_id))
        files.check_pending(upload)
        row = files.add(
            session,
            caller.project_id,
            file_id=file_id,
            filename=intake.filename,
            purpose=upload.purpose,
            size_bytes=intake.size_bytes,
            sha256=intake.sha256,
            format=format,
            expires_after_seconds=upload.file_expires_after,
        )
        upload.status, upload.file_id = "completed", row.id
        shown = views.upload(upload, row)
    provided.storage.delete(files.upload_key(upload_id))
    return shown


@router.post("/{upload_id}/cancel", summary="Forget an upload and its parts")
def cancel_upload(upload_id: str, caller: Writer, provided: Provided) -> UploadOut:
    with provided.database.transaction() as session:
        upload = files.get_upload(session, caller.project_id, upload_id, lock=True)
        files.check_pending(upload)
        upload.status = "cancelled"
        shown = views.upload(upload)
    provided.storage.delete(files.upload_key(upload_id))
    return shown


def _intake(provided: Services, key: str, max_bytes: int, *, filename: str = "part") -> Intake:
    return Intake(
        provided.storage,
        key,
        filename=filename,
        min_free_bytes=provided.settings.min_free_bytes,
        max_bytes=max_bytes,
    )


def _blocks(provided: Services, parts: list[UploadPart]) -> Iterator[bytes]:
    for part in parts:
        with provided.storage.file(part.storage_key).open("rb") as file:
            while block := file.read(_COPY_BYTES):
                yield block
