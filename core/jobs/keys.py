"""Projects and API keys: who asks, and what the key allows."""

import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from sqlalchemy import delete, or_, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from core.errors import Conflict, InvalidRequest, NotFound, Unauthenticated
from core.jobs.dialect import now
from core.jobs.ids import key_hash, key_lookup, new_id, new_key
from core.jobs.tables import Alias, ApiKey, File, IdempotentRequest, Job, Model, Project, TokenizerRow, Upload

Scope = Literal["read", "write", "generate", "metrics", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
TOUCH_SECONDS = 60.0


@dataclass(frozen=True)
class Caller:
    """Whoever sent a key that was valid when the request came."""

    key_id: str
    project_id: str
    project: str
    scopes: frozenset[str]
    used_lately: bool
    """`last_used_at` needs no writing"""

    def may(self, *scopes: Scope) -> bool:
        """One of the scopes is enough; `admin` implies all."""
        return bool(self.scopes.intersection((*scopes, "admin")))


def authenticate(session: Session, key: str) -> Caller:
    """
    Raises:
        Unauthenticated: unknown, mistyped, expired or revoked. Only the holder of the right key learns which.
    """
    lookup = key_lookup(key)
    row = None
    if lookup is not None:
        found = select(ApiKey, Project.name, now()).join(Project, Project.id == ApiKey.project_id)
        row = session.execute(found.where(ApiKey.lookup == lookup)).first()
    if row is None or not hmac.compare_digest(row[0].sha256, key_hash(key)):
        raise Unauthenticated(
            "The API key is not valid.", hint="Check it for missing characters, or ask for a new one."
        )
    api_key, project, clock = row
    if api_key.revoked_at is not None:
        raise Unauthenticated("The API key has been revoked.", hint="Use another key, or ask for a new one.")
    if api_key.expires_at is not None and api_key.expires_at <= clock:
        raise Unauthenticated("The API key has expired.", code="expired_api_key", hint="Ask for a new one.")
    used = api_key.last_used_at
    return Caller(
        key_id=api_key.id,
        project_id=api_key.project_id,
        project=project,
        scopes=frozenset(api_key.scopes),
        used_lately=used is not None and clock - used < TOUCH_SECONDS,
    )


def touch(session: Session, key_id: str) -> None:
    """Note that a key was used, at most once a minute."""
    stale = or_(ApiKey.last_used_at.is_(None), ApiKey.last_used_at < now() - TOUCH_SECONDS)
    session.execute(update(ApiKey).where(ApiKey.id == key_id, stale).values(last_used_at=now()))


def ensure_project(session: Session, name: str) -> Project:
    """The project of this name, made if there is none."""
    row = session.scalar(select(Project).where(Project.name == name))
    return row or create_project(session, name)


def create_project(session: Session, name: str) -> Project:
    """
    Raises:
        Conflict: code `project_exists`.
    """
    row = Project(id=new_id("proj_"), name=name)
    session.add(row)
    try:
        session.flush()
    except IntegrityError:
        raise Conflict(f"There is already a project named {name!r}.", code="project_exists", param="name") from None
    return row


def get_project(session: Session, name_or_id: str) -> Project:
    row = session.scalar(select(Project).where(or_(Project.id == name_or_id, Project.name == name_or_id)))
    if row is None:
        raise NotFound(f"No project {name_or_id!r}.", code="project_not_found", hint="GET /v1/projects lists them.")
    return row


def list_projects(session: Session) -> list[Project]:
    return list(session.scalars(select(Project).order_by(Project.created_at, Project.id)))


def delete_project(session: Session, project: Project) -> None:
    """Remove a project that holds nothing, with its revoked keys.

    Raises:
        Conflict: code `in_use`; the message says what it holds.
    """
    holds = [
        name
        for name, query in {
            "jobs": select(Job.id).where(Job.project_id == project.id),
            "files": select(File.id).where(File.project_id == project.id),
            "models": select(Model.name).where(Model.project_id == project.id),
            "tokenizers": select(TokenizerRow.id).where(TokenizerRow.project_id == project.id),
            "uploads": select(Upload.id).where(Upload.project_id == project.id),
            "valid keys": select(ApiKey.id).where(ApiKey.project_id == project.id, ApiKey.revoked_at.is_(None)),
        }.items()
        if session.scalar(query.limit(1)) is not None
    ]
    if holds:
        raise Conflict(
            f"Project {project.name!r} still has {', '.join(holds)}.",
            code="in_use",
            hint="A project that has been worked in stays; revoke its keys to close it.",
        )
    for table in (ApiKey, Alias, IdempotentRequest):
        session.execute(delete(table).where(table.project_id == project.id))
    session.delete(project)


def create_key(
    session: Session,
    project: Project,
    *,
    name: str,
    scopes: Sequence[Scope],
    expires_in_seconds: float | None = None,
) -> tuple[str, ApiKey]:
    """A new key and its row. The key itself is shown now and never again."""
    unknown = [scope for scope in scopes if scope not in SCOPES]
    if unknown or not scopes:
        raise InvalidRequest(
            f"scopes {list(scopes)!r} cannot be given; choose among {', '.join(SCOPES)}", param="scopes"
        )
    key, lookup = new_key()
    clock = float(session.scalar(select(now())) or 0.0)
    row = ApiKey(
        id=new_id("key_"),
        project_id=project.id,
        lookup=lookup,
        sha256=key_hash(key),
        name=name,
        scopes=sorted(set(scopes)),
        created_at=clock,
        expires_at=None if expires_in_seconds is None else clock + expires_in_seconds,
    )
    session.add(row)
    session.flush()
    return key, row


def get_key(session: Session, key_id: str) -> ApiKey:
    row = session.get(ApiKey, key_id)
    if row is None:
        raise NotFound(f"No key {key_id!r}.", code="key_not_found", hint="GET /v1/keys lists them.")
    return row


def list_keys(session: Session) -> list[tuple[ApiKey, str]]:
    """Every key with its project's name, newest first."""
    query = select(ApiKey, Project.name).join(Project, Project.id == ApiKey.project_id)
    return [
        (key, project) for key, project in session.execute(query.order_by(ApiKey.created_at.desc(), ApiKey.id.desc()))
    ]


def revoke_key(session: Session, row: ApiKey) -> None:
    """The key stops working at once; its row stays, to show that it was.

    Raises:
        Conflict: code `last_admin_key`.
    """
    if "admin" in row.scopes and row.revoked_at is None:
        lasting = (ApiKey.revoked_at.is_(None), ApiKey.expires_at.is_(None))
        others = session.scalars(select(ApiKey).where(ApiKey.id != row.id, *lasting).with_for_update())
        if not any("admin" in other.scopes for other in others):
            raise Conflict(
                "This is the last lasting key with the scope `admin`.",
                code="last_admin_key",
                hint="Create another one first.",
            )
    row.revoked_at = row.revoked_at or float(session.scalar(select(now())) or 0.0)
