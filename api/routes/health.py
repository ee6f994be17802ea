"""Is the process alive, can it work, and its figures."""

from anyio import CapacityLimiter, to_thread
from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse
from sqlalchemy.exc import SQLAlchemyError

from api import errors
from api.dependencies import Provided, Services, Watcher
from core.errors import StorageFull
from core.jobs.database import schema_is_current

router = APIRouter(tags=["health"])
_OWN_THREAD = CapacityLimiter(1)
"""not one of those that wait for the database when it is slow"""


@router.get("/healthz", summary="Is the process alive?")
async def healthz() -> dict[str, str]:
    return {"status": "ok"}


@router.get("/readyz", summary="Can it work? Database reachable, schema current, storage writable")
async def readyz(provided: Provided) -> JSONResponse:
    checks = await to_thread.run_sync(_look, provided, limiter=_OWN_THREAD)
    faults = ", ".join(f"{name}: {said}" for name, said in checks.items() if said != "ok")
    if not faults:
        return JSONResponse({"status": "ok", "checks": checks})
    body = errors.envelope(503, f"Not ready. {faults}.", code="not_ready") | {"checks": checks}
    return JSONResponse(body, 503, errors.retry_headers(503, 2.0))


@router.get("/metrics", summary="Figures in Prometheus' text format", response_class=Response)
def metrics(caller: Watcher, provided: Provided) -> Response:
    return Response(provided.figures.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _look(provided: Services) -> dict[str, str]:
    checks = {"database": "ok", "schema": "ok", "storage": "ok"}
    try:
        if not schema_is_current(provided.probe):
            checks["schema"] = "not current: run `alembic upgrade head`"
    except SQLAlchemyError:
        checks |= {"database": "not reachable", "schema": "unknown"}
    try:
        with provided.storage.writing(".ready") as file:
            file.write(b"1")
    except (OSError, StorageFull):
        checks["storage"] = "not writable"
    return checks
