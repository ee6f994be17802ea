"""What routes lean on: the process's services, and the caller whom the key names."""

import hashlib
import re
import threading
from dataclasses import dataclass, field
from typing import Annotated, cast

import httpx
from celery import Celery
from fastapi import Depends, Query, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from api.figures import Figures
from api.tail import Tail
from core.errors import Forbidden, InvalidRequest, Unauthenticated
from core.jobs import keys
from core.jobs.database import Database
from core.jobs.housekeeping import Housekeeping
from core.jobs.idempotency import Sending
from core.jobs.keys import Caller, Scope
from core.settings import Settings
from core.storage import Storage

_BEARER = HTTPBearer(auto_error=False, description="An API key: `weightsmith keys create`.")


@dataclass(frozen=True)
class Services:
    """One of each per process, made when it starts."""

    settings: Settings
    database: Database
    probe: Database
    """a connection apart, for /readyz: it answers when all others are taken"""
    storage: Storage
    celery: Celery
    housekeeping: Housekeeping
    figures: Figures
    tail: Tail
    http: httpx.AsyncClient
    """for generators"""
    grader_places: threading.BoundedSemaphore = field(default_factory=lambda: threading.BoundedSemaphore(2))
    """how many python graders may run here at a time"""


def services(request: Request) -> Services:
    return cast(Services, request.app.state.services)


class Guard:
    """Lets in who has one of the scopes. Runs in the thread pool, before the route and because of the matched route."""

    def __init__(self, *scopes: Scope) -> None:
        self.scopes = scopes

    def __call__(
        self, request: Request, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_BEARER)]
    ) -> Caller:
        if credentials is None:
            raise Unauthenticated(
                "There is no API key in the request.",
                code="missing_api_key",
                hint="Send it as `Authorization: Bearer ws_…`; `weightsmith keys create` makes one.",
            )
        database = services(request).database
        with database.reading() as session:
            caller = keys.authenticate(session, credentials.credentials)
        request.state.caller = caller
        if not caller.used_lately:
            with database.transaction() as session:
                keys.touch(session, caller.key_id)
        if not caller.may(*self.scopes):
            needed = " or ".join(f"`{scope}`" for scope in self.scopes)
            raise Forbidden(
                f"The API key lacks the scope {needed}; it has {', '.join(sorted(caller.scopes))}.",
                hint="Use a key that has it.",
            )
        return caller


Provided = Annotated[Services, Depends(services)]
Reader = Annotated[Caller, Depends(Guard("read"))]
Writer = Annotated[Caller, Depends(Guard("write"))]
Speaker = Annotated[Caller, Depends(Guard("generate"))]
Watcher = Annotated[Caller, Depends(Guard("metrics", "read"))]
Admin = Annotated[Caller, Depends(Guard("admin"))]

After = Annotated[str | None, Query(description="id of the last object of the page before")]
_PAIR = re.compile(r"metadata\[([^\[\]]{1,64})\]")
MAX_IDEMPOTENCY_KEY = 255


@dataclass(frozen=True)
class MetadataFilter:
    """`?metadata[k]=v` (all must fit), or `?metadata=null`: those that have none."""

    pairs: dict[str, str]
    none: bool


def _metadata_filter(request: Request) -> MetadataFilter:
    pairs = {found[1]: value for name, value in request.query_params.items() if (found := _PAIR.fullmatch(name))}
    whole = request.query_params.get("metadata")
    if whole not in (None, "", "null"):
        raise InvalidRequest(
            f"metadata={whole!r} is no filter; give metadata[key]=value, or metadata=null.", param="metadata"
        )
    return MetadataFilter(pairs, none=whole is not None)


Filter = Annotated[MetadataFilter, Depends(_metadata_filter)]


async def _sending(request: Request, caller: Writer) -> Sending:
    """What makes this request the same as one that came before."""
    key = request.headers.get("idempotency-key")
    if key is not None and not 1 <= len(key) <= MAX_IDEMPOTENCY_KEY:
        raise InvalidRequest(f"Idempotency-Key has {len(key)} characters; 1 to {MAX_IDEMPOTENCY_KEY} are allowed.")
    body_sha256 = hashlib.sha256(await request.body()).hexdigest()
    return sending_of(request, caller, body_sha256)


def sending_of(request: Request, caller: Caller, body_sha256: str) -> Sending:
    """The same for a body that was streamed."""
    retries = request.headers.get("x-stainless-retry-count", "0")
    return Sending.of(
        key_id=caller.key_id,
        path=f"{request.method} {request.scope['path']}?{request.url.query}",
        body_sha256=body_sha256,
        idempotency_key=request.headers.get("idempotency-key"),
        retries=int(retries) if retries.isdecimal() and len(retries) < 6 else 0,
    )


Sent = Annotated[Sending, Depends(_sending)]
