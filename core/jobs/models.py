"""Models and aliases of a project: listed, looked up by any of their names, deleted."""

from sqlalchemy import delete as sql_delete
from sqlalchemy import select
from sqlalchemy.orm import Session

from core.errors import Conflict, NotFound
from core.jobs import registry
from core.jobs.dialect import now
from core.jobs.states import TERMINAL
from core.jobs.tables import Alias, Checkpoint, Job, Model, TokenizerRow


def list_models(session: Session, project_id: str) -> list[Model]:
    """Finished and imported ones, newest first."""
    query = select(Model).where(Model.project_id == project_id, Model.deleted_at.is_(None))
    return list(session.scalars(query.order_by(Model.created_at.desc(), Model.name)))


def list_tokenizers(session: Session, project_id: str) -> list[TokenizerRow]:
    query = select(TokenizerRow).where(TokenizerRow.project_id == project_id, TokenizerRow.deleted_at.is_(None))
    return list(session.scalars(query.order_by(TokenizerRow.created_at.desc(), TokenizerRow.id)))


def list_aliases(session: Session, project_id: str) -> list[Alias]:
    return list(session.scalars(select(Alias).where(Alias.project_id == project_id).order_by(Alias.alias)))


def aliases_by_model(session: Session, project_id: str) -> dict[str, list[str]]:
    names: dict[str, list[str]] = {}
    for row in list_aliases(session, project_id):
        names.setdefault(row.model_name, []).append(row.alias)
    return names


def get_alias(session: Session, project_id: str, alias: str) -> Alias:
    row = session.get(Alias, (project_id, alias))
    if row is None:
        raise NotFound(
            f"No alias {alias!r} in this project.", code="alias_not_found", hint="GET /v1/aliases lists them."
        )
    return row


def get_model(session: Session, project_id: str, name: str) -> tuple[Model, None] | tuple[Checkpoint, Job]:
    """The row behind a name: a model's, or a committed checkpoint's with its job.

    Raises:
        NotFound: code `model_not_found`.
    """
    servable = registry.resolve_model(session, project_id, name)
    model = session.get(Model, servable.object_id)
    if model is not None:
        return model, None
    checkpoint = session.get_one(Checkpoint, servable.object_id)
    return checkpoint, session.get_one(Job, checkpoint.job_id)


def trained_length(session: Session, model: registry.Servable) -> int | None:
    """Tokens of the rows that it was trained on; None for one that was imported."""
    row = session.get(Model, model.object_id) or session.get(Checkpoint, model.object_id)
    job = session.get(Job, row.job_id) if row is not None and row.job_id is not None else None
    length = job.spec.get("data", {}).get("sequence_length") if job is not None else None
    return length if isinstance(length, int) else None


def delete_model(session: Session, project_id: str, name: str) -> None:
    """Hide a model and the checkpoints of its run that nobody uses; or one checkpoint. Aliases of it go too.

    Raises:
        Conflict: `in_use` with the users' names; `is_alias`.
    """
    if session.get(Alias, (project_id, name)) is not None:
        raise Conflict(
            f"{name!r} is an alias.",
            code="is_alias",
            hint="Name the model itself, or remove the alias: DELETE /v1/models/{alias}/alias.",
        )
    row, job = get_model(session, project_id, name)
    if job is not None:
        assert isinstance(row, Checkpoint)
        _delete_checkpoint(session, row, job)
        object_name = row.model_name
    else:
        assert isinstance(row, Model)
        registry.delete(session, row, row.name)
        _hide_checkpoints(session, row)
        object_name = row.name
    session.execute(sql_delete(Alias).where(Alias.project_id == project_id, Alias.model_name == object_name))


def _delete_checkpoint(session: Session, row: Checkpoint, job: Job) -> None:
    if job.state not in TERMINAL and job.checkpoint_id == row.id:
        raise Conflict(
            f"{row.model_name} is where {job.id} goes on after an interruption.",
            code="in_use",
            hint="Cancel the job or wait until it is over.",
        )
    registry.delete(session, row, row.id)


def _hide_checkpoints(session: Session, model: Model) -> None:
    if model.job_id is None:
        return
    clock = float(session.scalar(select(now())) or 0.0)
    rows = session.scalars(select(Checkpoint).where(Checkpoint.job_id == model.job_id, Checkpoint.deleted_at.is_(None)))
    for row in rows:
        if not registry.users_of(session, row.id):
            row.deleted_at = clock
