"""What a job has to tell: events, live or read afterwards; metric series; its log; its checkpoints."""

from typing import Annotated, Literal

from fastapi import APIRouter, Header, Query
from fastapi.responses import Response, StreamingResponse
from starlette.concurrency import run_in_threadpool

from api import views
from api.dependencies import After, Provided, Reader
from api.schemas import CheckpointOut, EventOut, ListOut, LogsOut, MetricsOut, Series
from core.jobs import listing, metrics, store
from core.jobs.states import TERMINAL

router = APIRouter(prefix="/v1/jobs/{job_id}", tags=["jobs"])
MAX_SERIES = 200


@router.get("/events", summary="What happened, in order")
def list_events(
    job_id: str,
    caller: Reader,
    provided: Provided,
    after: Annotated[str | None, Query(description="id or seq of the last event that was seen")] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    order: Literal["asc", "desc"] = "asc",
) -> ListOut[EventOut]:
    seq = seq_of(after)
    with provided.database.reading() as session:
        store.get(session, caller.project_id, job_id)
        found = listing.events(session, job_id, after=seq, limit=limit, descending=order == "desc")
    return views.page([views.event(row) for row in found.rows], has_more=found.has_more)


@router.get(
    "/events/stream",
    summary="What happens, as it happens (server-sent events)",
    description="A message's id is the event's `seq`; `Last-Event-ID` resumes. Messages `progress` have none. "
    "The stream ends with the event that ends the job; if that was seen already, the answer is 204.",
    response_class=StreamingResponse,
    responses={200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}},
)
async def stream_events(
    job_id: str,
    caller: Reader,
    provided: Provided,
    after: Annotated[str | None, Query(description="as Last-Event-ID, for clients that cannot set headers")] = None,
    last_event_id: Annotated[str | None, Header()] = None,
) -> Response:
    cursor = seq_of(last_event_id or after) or 0

    def is_over() -> bool:
        with provided.database.reading() as session:
            job = store.get(session, caller.project_id, job_id)
            return job.state in TERMINAL and job.event_seq <= cursor

    if await run_in_threadpool(is_over):
        return Response(status_code=204)
    provided.tail.check_room()
    return StreamingResponse(
        provided.tail.stream(job_id, cursor),
        media_type="text/event-stream",
        headers={"x-accel-buffering": "no"},  # nginx would hold the messages back
    )


@router.get("/metrics", summary="Series of metrics, thinned out without losing extremes")
def get_metrics(
    job_id: str,
    caller: Reader,
    provided: Provided,
    names: Annotated[list[str] | None, Query(description="separated by commas, or repeated; default: all")] = None,
    since_step: Annotated[int, Query(ge=0)] = 0,
    max_points: Annotated[int, Query(ge=2, le=20_000, description="of each series, about")] = 1000,
) -> MetricsOut:
    wanted = [name for given in names or [] for name in given.split(",") if name]
    with provided.database.reading() as session:
        store.get(session, caller.project_id, job_id)
        known = metrics.names(session, job_id)
        chosen = [name for name in known if not wanted or name in wanted][:MAX_SERIES]
        series = [
            Series(
                name=name,
                points=[
                    views.point(bucket)
                    for bucket in metrics.read(session, job_id, name, max_points=max_points, since_step=since_step)
                ],
            )
            for name in chosen
        ]
    return MetricsOut(job=job_id, data=series)


@router.get("/logs", summary="What the job's processes printed")
def get_logs(
    job_id: str,
    caller: Reader,
    provided: Provided,
    tail: Annotated[int, Query(ge=1, le=100_000, description="lines from the end")] = 1000,
) -> LogsOut:
    with provided.database.reading() as session:
        store.get(session, caller.project_id, job_id)
        text, truncated = listing.log_tail(session, job_id, lines=tail)
    return LogsOut(job=job_id, text=text, truncated=truncated)


@router.get("/checkpoints", summary="Checkpoints, newest first; each can be generated with by its `model`")
def list_checkpoints(
    job_id: str,
    caller: Reader,
    provided: Provided,
    after: After = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> ListOut[CheckpointOut]:
    with provided.database.reading() as session:
        store.get(session, caller.project_id, job_id)
        found = listing.checkpoints(session, job_id, after=after, limit=limit)
    return views.page([views.checkpoint(row) for row in found.rows], has_more=found.has_more)


def seq_of(cursor: str | None) -> int | None:
    """The number at the end of an event's id, or the number itself.

    Raises:
        InvalidRequest: code `invalid_cursor`.
    """
    if cursor is None:
        return None
    digits = cursor.rpartition("_")[2]
    if not digits.isdecimal() or len(digits) > 18:
        raise listing.no_such_cursor(cursor)
    return int(digits)
