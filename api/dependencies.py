"""What routes lean on: the process's services, and the caller whom the key names."""

from dataclasses import dataclass
from typing import Annotated, cast

import httpx
from celery import Celery
from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from api.figures import Figures
from core.errors import Forbidden, Unauthenticated
from core.jobs import keys
from core.jobs.database import Database
from core.jobs.housekeeping import Housekeeping
from core.jobs.keys import Caller, Scope
from core.settings import Settings
from core.storage import Storage

_BEARER = HTTPBearer(auto_error=False, description="An API key: `weightsmith keys create`.")


@dataclass(frozen=True)
class Services:
    """One of each per process, made when it starts."""

    settings: Settings
    database: Database
    storage: Storage
    celery: Celery
    housekeeping: Housekeeping
    figures: Figures
    http: httpx.AsyncClient
    """for generators"""


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
