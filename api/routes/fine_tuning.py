"""OpenAI's fine-tuning routes over our jobs: those that train and start from a model."""

from typing import Annotated

from fastapi import APIRouter, Query
from sqlalchemy.orm import Session

from api import fine_tuning, views
from api.dependencies import After, Filter, Provided, Reader, Sent, Services, Writer
from api.fine_tuning import FineTuningCheckpoint, FineTuningEvent, FineTuningJob, FineTuningRequest
from api.routes.events import seq_of
from api.schemas import ListOut
from core.errors import Conflict, InvalidRequest, NotFound, StorageFull
from core.jobs import idempotency, listing, registry, results, store, submit
from core.jobs.ids import new_id
from core.jobs.keys import Caller
from core.jobs.tables import Job

router = APIRouter(prefix="/v1/fine_tuning/jobs", tags=["fine-tuning (OpenAI)"])
Limit = Annotated[int, Query(ge=1, le=100)]


@router.post("", summary="Fine-tune a model on conversations")
def create_job(body: FineTuningRequest, caller: Writer, provided: Provided, sent: Sent) -> FineTuningJob:
    fine_tuning.check_available(body)
    with provided.database.transaction() as session:
        job_id = new_id("job_")
        made = idempotency.claim(session, caller.project_id, sent, object_id=job_id)
        row = store.get(session, caller.project_id, made) if made else _submit(session, caller, body, job_id)
        session.flush()
        shown = fine_tuning.job(row)
    provided.housekeeping.wake((row.id, row.queue))
    return shown


@router.get("", summary="List fine-tuning jobs, newest first")
def list_jobs(
    caller: Reader, provided: Provided, metadata: Filter, after: After = None, limit: Limit = 20
) -> ListOut[FineTuningJob]:
    with provided.database.reading() as session:
        found = listing.jobs(
            session,
            caller.project_id,
            after=None if after is None else fine_tuning.job_id_of(after),
            limit=limit,
            metadata=metadata.pairs,
            no_metadata=metadata.none,
            fine_tuning=True,
        )
    return views.page([_with_results(provided, row) for row in found.rows], has_more=found.has_more)


@router.get("/{job_id}", summary="One fine-tuning job")
def get_job(job_id: str, caller: Reader, provided: Provided) -> FineTuningJob:
    with provided.database.reading() as session:
        row = _find(session, caller, job_id)
    return _with_results(provided, row)


@router.post("/{job_id}/cancel", summary="End a job for good")
def cancel_job(job_id: str, caller: Writer, provided: Provided) -> FineTuningJob:
    with provided.database.transaction() as session:
        row = _find(session, caller, job_id)
        try:
            return fine_tuning.job(store.request_cancel(session, caller.project_id, row.id))
        except Conflict as error:
            # OpenAI answers 400 here, and clients count on it.
            raise InvalidRequest(error.message, code=error.code) from None


@router.post("/{job_id}/pause", summary="Save a job's work and set it aside")
def pause_job(job_id: str, caller: Writer, provided: Provided) -> FineTuningJob:
    with provided.database.transaction() as session:
        row = _find(session, caller, job_id)
        return fine_tuning.job(store.request_pause(session, caller.project_id, row.id))


@router.post("/{job_id}/resume", summary="Put a paused job back into the queue")
def resume_job(job_id: str, caller: Writer, provided: Provided) -> FineTuningJob:
    with provided.database.transaction() as session:
        row = _find(session, caller, job_id)
        shown = fine_tuning.job(store.request_resume(session, caller.project_id, row.id))
    provided.housekeeping.wake((row.id, row.queue))
    return shown


@router.get("/{job_id}/events", summary="What happened, newest first")
def list_events(
    job_id: str, caller: Reader, provided: Provided, after: After = None, limit: Limit = 20
) -> ListOut[FineTuningEvent]:
    with provided.database.reading() as session:
        row = _find(session, caller, job_id)
        behind = seq_of(None if after is None else fine_tuning.seq_of(after))
        found = listing.events(session, row.id, after=behind, limit=limit, descending=True)
    return views.page([fine_tuning.event(one) for one in found.rows], has_more=found.has_more)


@router.get("/{job_id}/checkpoints", summary="Checkpoints, newest first; also while the job runs")
def list_checkpoints(
    job_id: str, caller: Reader, provided: Provided, after: After = None, limit: Limit = 10
) -> ListOut[FineTuningCheckpoint]:
    with provided.database.reading() as session:
        row = _find(session, caller, job_id)
        behind = fine_tuning.checkpoint_id_of(after)
        found = listing.checkpoints(session, row.id, after=behind, limit=limit)
    return views.page([fine_tuning.checkpoint(one) for one in found.rows], has_more=found.has_more)


def _submit(session: Session, caller: Caller, body: FineTuningRequest, job_id: str) -> Job:
    try:
        base = registry.resolve_model(session, caller.project_id, body.model)
    except NotFound as error:
        raise InvalidRequest(error.message, code=error.code, param="model", hint=error.hint) from None
    request = body.model_dump(mode="json", exclude_none=True)
    try:
        return submit.submit(
            session, caller.project_id, fine_tuning.spec_of(body, base), job_id=job_id, request=request
        )
    except InvalidRequest as error:
        raise fine_tuning.in_its_words(error) from None


def _find(session: Session, caller: Caller, outside: str) -> Job:
    """
    Raises:
        NotFound: also for jobs that OpenAI would not call fine-tuning.
    """
    try:
        row = store.get(session, caller.project_id, fine_tuning.job_id_of(outside))
    except NotFound:
        raise fine_tuning.no_such_job(outside) from None
    if row.kind != "train" or row.base_model is None:
        raise fine_tuning.no_such_job(outside)
    return row


def _with_results(provided: Services, row: Job) -> FineTuningJob:
    try:
        return fine_tuning.job(row, result_files=results.ensure(provided.database, provided.storage, row))
    except StorageFull:  # the job is worth showing without them
        return fine_tuning.job(row, result_files=[])
