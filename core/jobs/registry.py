"""Names and what they stand for: models, checkpoints, aliases, tokenizers; which of them are in use; which may go."""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from core.adapters.spec import LoRA
from core.errors import Conflict, NotFound
from core.events import Saved
from core.jobs import journal, store
from core.jobs.dialect import clock, insert_unless_there
from core.jobs.ids import new_id, random_text
from core.jobs.states import TERMINAL
from core.jobs.tables import (
    Alias,
    Attempt,
    Checkpoint,
    Dataset,
    File,
    Job,
    JobUse,
    Model,
    Project,
    TokenizerRow,
    Worker,
)
from core.models.config import ModelConfig


@dataclass(frozen=True)
class Base:
    """The whole model that an adapter stands on."""

    name: str
    storage_key: str
    manifest_sha256: str
    object_id: str


@dataclass(frozen=True)
class Servable:
    """A model that can be loaded: a finished one, or a committed checkpoint."""

    name: str
    """resolved: the alias is gone"""
    storage_key: str
    """directory that holds `model/` and `manifest.json`"""
    manifest_sha256: str
    config: ModelConfig
    root: str
    object_id: str
    """what a job that uses it must hold: the model's name or the checkpoint's id"""
    adapter: LoRA | None = None
    base: Base | None = None
    """what an adapter needs besides its own bytes"""

    @property
    def uses(self) -> tuple[str, ...]:
        """All that a job that reads it must hold."""
        return (self.object_id,) if self.base is None else (self.object_id, self.base.object_id)

    @property
    def whole(self) -> Base:
        """The model to put an adapter on: itself, or what it stands on."""
        return self.base or Base(self.name, self.storage_key, self.manifest_sha256, self.object_id)


def resolve_model(session: Session, project_id: str, name: str) -> Servable:
    """Find a model by its name, its alias, or `…:ckpt-step-n` (the newest committed attempt's).

    Raises:
        NotFound: code `model_not_found`; the message says how to alias an unknown name.
    """
    alias = session.get(Alias, (project_id, name))
    target = alias.model_name if alias else name
    model = session.scalar(
        select(Model).where(Model.name == target, Model.project_id == project_id, Model.deleted_at.is_(None))
    )
    if model is not None:
        return Servable(
            name=model.name,
            storage_key=model.storage_key,
            manifest_sha256=model.manifest_sha256,
            config=ModelConfig.model_validate(model.config),
            root=model.root,
            object_id=model.name,
            adapter=LoRA.model_validate(model.adapter) if model.adapter else None,
            base=_base(session, model.stands_on),
        )
    found = session.execute(
        select(Checkpoint, Job)
        .join(Job, Job.id == Checkpoint.job_id)
        .where(
            Checkpoint.model_name == target,
            Checkpoint.project_id == project_id,
            Checkpoint.deleted_at.is_(None),
        )
        .order_by(Checkpoint.fence.desc())
        .limit(1)
    ).first()
    if found is not None:
        checkpoint, job = found
        return Servable(
            name=target,
            storage_key=checkpoint.storage_key,
            manifest_sha256=checkpoint.manifest_sha256,
            config=ModelConfig.model_validate(job.config),
            root=_root(session, job),
            object_id=checkpoint.id,
            adapter=LoRA.model_validate(job.spec["adapter"]) if job.stands_on else None,
            base=_base(session, job.stands_on),
        )
    raise NotFound(
        f"The model {name!r} does not exist in this project. To let a name of your own stand for one of your models: "
        f"weightsmith models alias {name} MODEL",
        code="model_not_found",
        param="model",
        hint="GET /v1/models lists the models.",
    )


def _base(session: Session, object_id: str | None) -> Base | None:
    """Found also when it is hidden: that cannot be while something stands on it."""
    if object_id is None:
        return None
    model = session.get(Model, object_id)
    if model is not None:
        return Base(model.name, model.storage_key, model.manifest_sha256, object_id)
    row = session.get_one(Checkpoint, object_id)
    return Base(row.model_name, row.storage_key, row.manifest_sha256, object_id)


def new_model_name(session: Session, project_id: str, *, suffix: str | None, base: Servable | None) -> str:
    """`pt:{project}:{suffix}:{id8}` from random weights, else `ft:{root}:{project}:{suffix}:{id8}`."""
    project = session.get_one(Project, project_id)
    parts = ["pt"] if base is None else ["ft", base.root]
    return ":".join([*parts, slug(project.name), suffix or "", random_text(8).lower()])


def slug(text: str) -> str:
    """Lower case letters, digits, dots and dashes: fit for a part of a model's name."""
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-")[:40] or "model"


def _root(session: Session, job: Job) -> str:
    """The slug that stands for the lineage of what this job trains."""
    if job.base_model is None:
        return slug(str(job.spec.get("suffix") or (job.model_name or "").rsplit(":", 1)[-1]))
    base = session.get(Model, job.base_model.split(":ckpt-step-")[0])
    return base.root if base else slug(job.base_model)


def name_outputs(session: Session, claim: store.Claim, labels: Sequence[str]) -> None:
    """The classes or tags that were found in the data are the outputs of the model's head."""
    job = store.held(session, claim)
    if labels and job.config is not None:
        job.config = job.config | {"labels": list(labels)}


def commit_checkpoint(session: Session, job: Job, saved: Saved, *, storage_key: str) -> Checkpoint:
    """From now on the checkpoint exists. `job` is `store.held` in this transaction.

    Asked twice (the first commit's answer was lost), it finds the one that is there.
    """
    there = session.scalar(
        select(Checkpoint).where(
            Checkpoint.job_id == job.id, Checkpoint.fence == job.fence, Checkpoint.step == saved.step
        )
    )
    if there is not None:
        return there
    checkpoint = Checkpoint(
        id=new_id("ckpt_"),
        job_id=job.id,
        project_id=job.project_id,
        fence=job.fence,
        step=saved.step,
        model_name=f"{job.model_name}:ckpt-step-{saved.step}",
        metrics={name: value for name, value in job.latest.items() if name.startswith("train_")} | saved.metrics,
        best=saved.best,
        storage_key=storage_key,
        manifest_sha256=saved.manifest_sha256,
        size_bytes=saved.size_bytes,
    )
    session.add(checkpoint)
    if saved.best:
        session.execute(
            update(Checkpoint).where(Checkpoint.job_id == job.id, Checkpoint.id != checkpoint.id).values(best=False)
        )
    job.checkpoint_id = checkpoint.id
    data = saved.model_dump() | {"checkpoint": checkpoint.id, "model": checkpoint.model_name}
    journal.append(session, job, "saved", f"Checkpoint at step {saved.step}", data=data)
    return checkpoint


def reject_newest_checkpoint(session: Session, job: Job, why: str) -> None:
    """It cannot be used: hide it, and let the job go on from the one before it, or from the start."""
    broken = session.get_one(Checkpoint, job.checkpoint_id)
    broken.deleted_at = clock(session)
    before = session.scalar(
        select(Checkpoint)
        .where(Checkpoint.job_id == job.id, Checkpoint.deleted_at.is_(None), Checkpoint.id != broken.id)
        .order_by(Checkpoint.step.desc(), Checkpoint.fence.desc())
        .limit(1)
    )
    job.checkpoint_id = before.id if before else None
    resumes_at = before.step if before else 0
    session.execute(
        update(Attempt).where(Attempt.job_id == job.id, Attempt.fence == job.fence).values(first_step=resumes_at)
    )
    journal.append(
        session,
        job,
        "checkpoint_rejected",
        f"The checkpoint of step {broken.step} cannot be used ({why}); going on from step {resumes_at}.",
        level="warn",
        data={"checkpoint": broken.id, "step": broken.step, "resumes_at": resumes_at},
    )


def retire_checkpoints(session: Session, job: Job, *, keep: int, keep_best: bool) -> None:
    """Hide all but the newest `keep` (and the best). What a generator or another job holds stays."""
    rows = session.scalars(
        select(Checkpoint)
        .where(Checkpoint.job_id == job.id, Checkpoint.deleted_at.is_(None))
        .order_by(Checkpoint.step.desc(), Checkpoint.fence.desc())
    ).all()
    for row in rows[keep:]:
        if row.id == job.checkpoint_id or (keep_best and row.best):
            continue
        if not users_of(session, row.id) and not _is_loaded(session, row.storage_key):
            row.deleted_at = clock(session)


def add_model(
    session: Session, job: Job, checkpoint: Checkpoint, *, metrics: dict[str, float], has_chat_template: bool
) -> Model:
    """The result of a train job: its final checkpoint under its model name. Same transaction as `store.succeed`."""
    assert job.model_name is not None
    assert job.config is not None
    config = ModelConfig.model_validate(job.config)
    model = Model(
        name=job.model_name,
        project_id=job.project_id,
        job_id=job.id,
        parent=job.base_model,
        stands_on=job.stands_on,
        adapter=job.spec["adapter"] if job.stands_on else None,
        root=_root(session, job),
        config=job.config,
        num_parameters=config.num_parameters(),
        metrics=metrics,
        has_chat_template=has_chat_template,
        storage_key=checkpoint.storage_key,
        manifest_sha256=checkpoint.manifest_sha256,
        size_bytes=checkpoint.size_bytes,
    )
    session.add(model)
    job.result = {"model": model.name, "checkpoint": checkpoint.id, "metrics": metrics}
    return model


def add_tokenizer(
    session: Session, job: Job, *, vocab_size: int, storage_key: str, sha256: str, metrics: dict[str, float]
) -> TokenizerRow:
    """The result of a tokenizer job. Same transaction as `store.succeed`."""
    row = TokenizerRow(
        id=new_id("tok_"),
        project_id=job.project_id,
        job_id=job.id,
        vocab_size=vocab_size,
        storage_key=storage_key,
        sha256=sha256,
        metrics=metrics,
    )
    session.add(row)
    job.result = {"tokenizer": row.id, "metrics": metrics}
    return row


def add_dataset(session: Session, hash: str, *, storage_key: str, size_bytes: int) -> None:
    """From now on the token dataset exists. Another job may have made the same one meanwhile."""
    row = Dataset(hash=hash, storage_key=storage_key, size_bytes=size_bytes, created_at=clock(session))
    insert_unless_there(session, row)


def get_tokenizer(session: Session, project_id: str, tokenizer_id: str) -> TokenizerRow:
    row = session.scalar(
        select(TokenizerRow).where(
            TokenizerRow.id == tokenizer_id,
            TokenizerRow.project_id == project_id,
            TokenizerRow.deleted_at.is_(None),
        )
    )
    if row is None:
        raise NotFound(
            f"No tokenizer {tokenizer_id!r} in this project.",
            code="tokenizer_not_found",
            hint="Train one with a job of kind `tokenizer`, or use `bytes`.",
        )
    return row


def tokenizer_key(session: Session, project_id: str, name: str) -> str:
    """The storage key of the directory with the tokenizer that `name` means: a tokenizer's id, or a model's name.

    Raises:
        NotFound: code `tokenizer_not_found`.
    """
    try:
        return get_tokenizer(session, project_id, name).storage_key
    except NotFound as no_tokenizer:
        try:
            return f"{resolve_model(session, project_id, name).storage_key}/model"
        except NotFound:
            raise no_tokenizer from None


def set_alias(session: Session, project_id: str, alias: str, model_name: str) -> Servable:
    """Let `alias` stand for a model; replaces what it stood for."""
    taken = session.get(Model, alias)
    if taken is not None and taken.project_id == project_id:
        raise Conflict(f"{alias!r} is the name of a model; choose another alias.", code="alias_is_a_model")
    target = resolve_model(session, project_id, model_name)
    session.merge(Alias(project_id=project_id, alias=alias, model_name=target.name))
    return target


def users_of(session: Session, object_id: str) -> list[str]:
    """Jobs that are not over and read this file, model, tokenizer or checkpoint; adapters that stand on it."""
    jobs = session.scalars(
        select(JobUse.job_id)
        .join(Job, Job.id == JobUse.job_id)
        .where(JobUse.object_id == object_id, Job.state.not_in(TERMINAL))
        .order_by(JobUse.job_id)
    )
    models = session.scalars(
        select(Model.name).where(Model.stands_on == object_id, Model.deleted_at.is_(None)).order_by(Model.name)
    )
    checkpoints = session.scalars(
        select(Checkpoint.model_name)
        .join(Job, Job.id == Checkpoint.job_id)
        .where(Job.stands_on == object_id, Checkpoint.deleted_at.is_(None))
        .order_by(Checkpoint.model_name)
    )
    return [*jobs, *models, *checkpoints]


def hold(session: Session, object_ids: Collection[str]) -> None:
    """Until this transaction ends, nobody deletes what it makes a user of; from then on that holds it.

    Raises:
        Conflict: code `deleted_meanwhile`.
    """
    kept: set[str] = set()
    for key, table in (
        (File.id, File),
        (TokenizerRow.id, TokenizerRow),
        (Model.name, Model),
        (Checkpoint.id, Checkpoint),
    ):
        left = set(object_ids) - kept
        if left:
            there = select(key).where(key.in_(left), table.deleted_at.is_(None)).with_for_update(read=True)
            kept.update(session.scalars(there))
    if gone := set(object_ids) - kept:
        raise Conflict(f"{', '.join(sorted(gone))} was deleted just now.", code="deleted_meanwhile")


def delete(session: Session, row: Any, object_id: str) -> None:
    """Hide a row (file, model, tokenizer) at once; its bytes go after the grace.

    Raises:
        Conflict: code `in_use`, with the names of its users.
    """
    session.refresh(row, with_for_update=True)  # who submits a job that uses it holds it (`hold`)
    users = users_of(session, object_id)
    if users:
        raise Conflict(
            f"{object_id} is used by {', '.join(users[:5])}{' and others' if len(users) > 5 else ''}.",
            code="in_use",
            hint="Cancel the jobs among them or wait until they are over; delete the adapters that stand on it first.",
        )
    row.deleted_at = clock(session)


def _is_loaded(session: Session, storage_key: str) -> bool:
    loaded = session.scalars(select(Worker.models).where(Worker.kind == "generator"))
    return any(storage_key in models for models in loaded)
