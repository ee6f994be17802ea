"""The fleet: processes that do the work."""

from fastapi import APIRouter
from sqlalchemy import select

from api import views
from api.dependencies import Provided, Reader
from api.schemas import ListOut, WorkerOut
from core.jobs import workers
from core.jobs.tables import Job

router = APIRouter(prefix="/v1/workers", tags=["workers"])


@router.get("", summary="Workers and generators that were heard of in the last half minute")
def list_workers(caller: Reader, provided: Provided) -> ListOut[WorkerOut]:
    with provided.database.reading() as session:
        rows = workers.alive(session)
        busy = [row.job_id for row in rows if row.job_id is not None]
        # Which jobs others run is not this project's business.
        own = set(session.scalars(select(Job.id).where(Job.id.in_(busy), Job.project_id == caller.project_id)))
    return views.page([views.worker(row, job=row.job_id if row.job_id in own else None) for row in rows])
