"""Jobs: submit, look, steer."""

from typing import Annotated, Any

from fastapi import APIRouter, Body, Query, Response
from fastapi.responses import JSONResponse
from sqlalchemy.orm import Session

from api import views
from api.dependencies import After, Filter, Provided, Reader, Sent, Writer
from api.faults import parse_spec
from api.schemas import EstimateOut, JobOut, ListOut
from core.job_spec import JobSpec
from core.jobs import idempotency, listing, store, submit
from core.jobs.estimate import estimate
from core.jobs.idempotency import Sending
from core.jobs.ids import new_id
from core.jobs.receipt import receipt
from core.jobs.states import JobState
from core.jobs.tables import Job

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])


@router.post("", status_code=201, summary="Submit a job; with ?dry_run=true only resolve and estimate it")
def create_job(
    spec: Annotated[JobSpec, Body()],
    caller: Writer,
    provided: Provided,
    sent: Sent,
    response: Response,
    dry_run: Annotated[bool, Query(description="create nothing")] = False,
) -> JobOut | EstimateOut:
    if dry_run:
        response.status_code = 200
        with provided.database.reading() as session:
            found = submit.resolve(session, caller.project_id, spec)
            return _estimated(found, estimate(session, caller.project_id, found))
    with provided.database.transaction() as session:
        shown = _create(session, caller.project_id, spec, sent)
    provided.housekeeping.wake((shown.id, store.LIGHT))
    return shown


@router.get("", summary="List jobs, newest first")
def list_jobs(
    caller: Reader,
    provided: Provided,
    metadata: Filter,
    after: After = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    state: JobState | None = None,
    kind: str | None = None,
) -> ListOut[JobOut]:
    with provided.database.reading() as session:
        found = listing.jobs(
            session,
            caller.project_id,
            after=after,
            limit=limit,
            state=state,
            kind=kind,
            metadata=metadata.pairs,
            no_metadata=metadata.none,
        )
        return views.job_page(found, listing.queue_positions(session, found.rows))


@router.get("/{job_id}", summary="One job with its progress and its attempts")
def get_job(job_id: str, caller: Reader, provided: Provided) -> JobOut:
    with provided.database.reading() as session:
        return shown_whole(session, store.get(session, caller.project_id, job_id))


@router.post("/{job_id}/cancel", summary="End a job for good")
def cancel_job(job_id: str, caller: Writer, provided: Provided) -> JobOut:
    with provided.database.transaction() as session:
        return shown_whole(session, store.request_cancel(session, caller.project_id, job_id))


@router.post("/{job_id}/pause", summary="Save a job's work and set it aside")
def pause_job(job_id: str, caller: Writer, provided: Provided) -> JobOut:
    with provided.database.transaction() as session:
        return shown_whole(session, store.request_pause(session, caller.project_id, job_id))


@router.post("/{job_id}/resume", summary="Put a paused job back into the queue")
def resume_job(job_id: str, caller: Writer, provided: Provided) -> JobOut:
    with provided.database.transaction() as session:
        row = store.request_resume(session, caller.project_id, job_id)
        shown = shown_whole(session, row)
    provided.housekeeping.wake((row.id, row.queue))
    return shown


@router.post("/{job_id}/clone", status_code=201, summary="Submit the same job again, with changes if there are any")
def clone_job(
    job_id: str,
    caller: Writer,
    provided: Provided,
    sent: Sent,
    changes: Annotated[dict[str, Any] | None, Body(description="merged into the spec (RFC 7396)")] = None,
) -> JobOut:
    with provided.database.transaction() as session:
        parent = store.get(session, caller.project_id, job_id)
        spec = parse_spec(merged(parent.spec, changes or {}))
        shown = _create(session, caller.project_id, spec, sent, parent_id=parent.id)
    provided.housekeeping.wake((shown.id, store.LIGHT))
    return shown


@router.get("/{job_id}/receipt", summary="All that is needed to run it again", response_class=JSONResponse)
def get_receipt(job_id: str, caller: Reader, provided: Provided) -> dict[str, Any]:
    with provided.database.reading() as session:
        return receipt(session, store.get(session, caller.project_id, job_id))


def _create(session: Session, project_id: str, spec: JobSpec, sent: Sending, *, parent_id: str | None = None) -> JobOut:
    """The job that this request makes, or the one that an earlier sending of it has made."""
    job_id = new_id("job_")
    made = idempotency.claim(session, project_id, sent, object_id=job_id)
    if made is not None:
        return shown_whole(session, store.get(session, project_id, made))
    row = submit.submit(session, project_id, spec, job_id=job_id, parent_id=parent_id)
    return views.job(row, queue_position=listing.queue_positions(session, [row]).get(row.id), history=[])


def shown_whole(session: Session, row: Job) -> JobOut:
    session.flush()
    place = listing.queue_positions(session, [row]).get(row.id)
    return views.job(row, queue_position=place, history=listing.attempts(session, row.id))


def _estimated(found: submit.Resolved, figures: dict[str, float | None]) -> EstimateOut:
    return EstimateOut(
        spec=found.spec.model_dump(mode="json"),
        model=found.config.model_dump(mode="json") if found.config else None,
        parameters=found.config.num_parameters() if found.config else None,
        estimate=figures,
    )


def merged(whole: Any, changes: Any) -> Any:
    """JSON merge patch: objects are merged, null removes, anything else replaces."""
    if not isinstance(changes, dict):
        return changes
    result = dict(whole) if isinstance(whole, dict) else {}
    for name, change in changes.items():
        if change is None:
            result.pop(name, None)
        else:
            result[name] = merged(result.get(name), change)
    return result
