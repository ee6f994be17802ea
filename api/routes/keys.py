"""Projects and API keys, for whoever has the scope `admin`."""

from typing import Annotated

from fastapi import APIRouter
from pydantic import Field, StringConstraints

from api import views
from api.dependencies import Admin, Provided
from api.schemas import Deleted, KeyOut, ListOut, ProjectOut
from core.jobs import keys
from core.jobs.keys import Scope
from core.jobs.tables import Project
from core.spec import Spec

router = APIRouter(prefix="/v1", tags=["keys"])
Name = Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=r"^[^\x00-\x1f\x7f]+$")]
DAY_SECONDS = 86_400.0


class ProjectCreate(Spec):
    name: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,39}$")] = Field(
        description="part of the names of its models: small letters, digits, dashes"
    )


class KeyCreate(Spec):
    name: Name
    project: str | None = Field(default=None, max_length=64, description="id or name; default: that of the caller")
    scopes: tuple[Scope, ...] = Field(default=("read", "write", "generate"), min_length=1)
    expires_in_days: float | None = Field(default=None, gt=0.0, le=36_500.0)


@router.post("/projects", status_code=201, summary="Create a project")
def create_project(body: ProjectCreate, caller: Admin, provided: Provided) -> ProjectOut:
    with provided.database.transaction() as session:
        return views.project(keys.create_project(session, body.name))


@router.get("/projects", summary="List projects")
def list_projects(caller: Admin, provided: Provided) -> ListOut[ProjectOut]:
    with provided.database.reading() as session:
        return views.page([views.project(row) for row in keys.list_projects(session)])


@router.delete("/projects/{project_id}", summary="Delete a project in which nothing was ever done")
def delete_project(project_id: str, caller: Admin, provided: Provided) -> Deleted:
    with provided.database.transaction() as session:
        row = keys.get_project(session, project_id)
        keys.delete_project(session, row)
        return Deleted(id=row.id, object="project")


@router.post("/keys", status_code=201, summary="Create a key; it is shown in this answer and never again")
def create_key(body: KeyCreate, caller: Admin, provided: Provided) -> KeyOut:
    with provided.database.transaction() as session:
        project = keys.get_project(session, body.project or caller.project_id)
        seconds = None if body.expires_in_days is None else body.expires_in_days * DAY_SECONDS
        key, row = keys.create_key(session, project, name=body.name, scopes=body.scopes, expires_in_seconds=seconds)
        return views.key(row, project=project.name, value=key)


@router.get("/keys", summary="List keys, revoked ones too; of each only its beginning is shown")
def list_keys(caller: Admin, provided: Provided) -> ListOut[KeyOut]:
    with provided.database.reading() as session:
        return views.page([views.key(row, project=project) for row, project in keys.list_keys(session)])


@router.get("/keys/{key_id}", summary="One key")
def get_key(key_id: str, caller: Admin, provided: Provided) -> KeyOut:
    with provided.database.reading() as session:
        row = keys.get_key(session, key_id)
        return views.key(row, project=session.get_one(Project, row.project_id).name)


@router.delete("/keys/{key_id}", summary="Revoke a key at once")
def revoke_key(key_id: str, caller: Admin, provided: Provided) -> Deleted:
    with provided.database.transaction() as session:
        keys.revoke_key(session, keys.get_key(session, key_id))
    return Deleted(id=key_id, object="api_key")
