"""The api process: `uvicorn --factory api.app:create_app`. It loads no torch and trains nothing."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
from fastapi import FastAPI

from api import errors, openapi
from api.dependencies import Services
from api.figures import Figures
from api.middleware import BodyLimit, Exchange
from api.routes import (
    catalog,
    classifications,
    docs,
    embeddings,
    events,
    files,
    fine_tuning,
    generate,
    graders,
    health,
    jobs,
    keys,
    models,
    previews,
    tokenizers,
    uploads,
    workers,
)
from api.tail import Tail
from core import logs
from core.jobs.database import Database
from core.jobs.housekeeping import Housekeeping
from core.jobs.queue import make_celery
from core.settings import Settings, settings
from core.storage import open_storage

ROUTERS = [
    module.router
    for module in (
        jobs,
        events,
        fine_tuning,
        graders,
        files,
        previews,
        uploads,
        models,
        tokenizers,
        generate,
        embeddings,
        classifications,
        catalog,
        workers,
        keys,
        health,
        docs,
    )
]


def create_app(given: Settings | None = None) -> FastAPI:
    """Connects to nothing yet: the process starts, and answers /healthz, while the database is away."""
    chosen = given or settings()
    logs.configure(chosen.log_level)
    database, probe = Database(chosen.database_url), Database(chosen.database_url, pool_size=1)
    storage = open_storage(chosen.storage_url)
    celery = make_celery(chosen.redis_url)
    figures = Figures(database, storage)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        housekeeping = Housekeeping(database, celery, storage, chosen)
        timeout, limits = httpx.Timeout(600.0, connect=5.0), httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(timeout=timeout, limits=limits, trust_env=False) as http:
            tail = Tail(database)
            app.state.services = Services(chosen, database, probe, storage, celery, housekeeping, figures, tail, http)
            housekeeping.start()
            tailing = asyncio.create_task(tail.run())
            try:
                yield
            finally:
                tailing.cancel()
                housekeeping.stop()
                database.close()
                probe.close()

    app = FastAPI(
        title="Weightsmith",
        summary="Train, fine-tune and serve language models on machines you own.",
        version="0.1.0",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
    )
    for router in ROUTERS:
        app.include_router(router)
    errors.install(app)
    openapi.install(app)
    app.add_middleware(BodyLimit, max_body_bytes=chosen.max_body_bytes, max_post_bytes=chosen.max_post_bytes)
    app.add_middleware(Exchange, figures=figures, allowed_hosts=chosen.allowed_hosts)
    return app
