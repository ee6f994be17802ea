"""From rows to what is shown of them (`api.schemas`)."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from api.schemas import (
    AliasOut,
    AttemptOut,
    CheckpointOut,
    EventOut,
    FileOut,
    JobError,
    JobOut,
    KeyOut,
    ListOut,
    ModelOut,
    PartOut,
    Point,
    Progress,
    ProjectOut,
    TokenizerOut,
    UploadOut,
    WorkerOut,
)
from core.endpoints import endpoints
from core.jobs import tables
from core.jobs.listing import Page
from core.jobs.metrics import Bucket
from core.jobs.states import TERMINAL
from core.models.config import ModelConfig

Item = TypeVar("Item")


def page(items: Sequence[Item], *, has_more: bool = False) -> ListOut[Item]:
    ids = [getattr(item, "id", None) for item in items]
    return ListOut(
        data=list(items), has_more=has_more, first_id=ids[0] if ids else None, last_id=ids[-1] if ids else None
    )


def whole_seconds(at: float | None) -> int | None:
    return None if at is None else int(at)


def finite(value: float | None) -> float | None:
    """JSON has no word for NaN and infinity."""
    return value if value is not None and math.isfinite(value) else None


def finites(values: Mapping[str, Any]) -> dict[str, float | None]:
    return {name: finite(float(value)) for name, value in sorted(values.items()) if isinstance(value, int | float)}


def job(
    row: tables.Job, *, queue_position: int | None = None, history: Sequence[tables.Attempt] | None = None
) -> JobOut:
    error = None
    if row.error_code is not None:
        error = JobError(
            code=row.error_code, message=row.error_message or "", hint=row.error_hint, param=row.error_param
        )
    return JobOut(
        id=row.id,
        kind=row.kind,
        state=row.state,
        desired=row.desired,
        phase=row.phase,
        queue_position=queue_position,
        progress=progress(row),
        spec=row.spec,
        metadata=row.metadata_,
        metrics=finites(row.latest),
        model=row.model_name,
        parent=row.parent_id,
        attempts=row.attempts,
        error=error,
        result=row.result,
        created_at=row.created_at,
        queued_at=row.queued_at,
        started_at=row.started_at,
        finished_at=row.finished_at,
        history=None if history is None else [attempt(one) for one in history],
    )


def progress(row: tables.Job) -> Progress:
    eta = low = high = None
    if row.state == "running" and row.seconds_per_step and row.total_steps:
        left = max(0, row.total_steps - row.step)
        eta = low = high = left * row.seconds_per_step
        if row.started_at is not None and row.progress_at is not None and row.step:
            overall = left * (row.progress_at - row.started_at) / row.step
            low, high = min(eta, overall), max(eta, overall)
    elif row.state == "running" and (seconds := row.spec.get("budget", {}).get("seconds")):
        eta = low = high = (1.0 - row.fraction) * seconds
    return Progress(
        step=row.step,
        total_steps=row.total_steps,
        tokens=row.tokens,
        fraction=1.0 if row.state == "succeeded" else row.fraction,
        tokens_per_second=finite(row.tokens_per_second) if row.state not in TERMINAL else None,
        eta_seconds=finite(eta),
        eta_low=finite(low),
        eta_high=finite(high),
    )


def attempt(row: tables.Attempt) -> AttemptOut:
    return AttemptOut.model_validate(row, from_attributes=True)


def event(row: tables.JobEvent) -> EventOut:
    return EventOut(
        id=f"event_{row.job_id.removeprefix('job_')}_{row.seq}",
        seq=row.seq,
        kind=row.kind,
        level=row.level,
        message=row.message,
        data=row.data,
        created_at=row.created_at,
    )


def point(bucket: Bucket) -> Point:
    return Point(
        step=bucket.last_step,
        value=finite(bucket.last),
        first_step=bucket.first_step,
        min=finite(bucket.min),
        max=finite(bucket.max),
        mean=finite(bucket.sum / bucket.count),
        count=bucket.count,
    )


def checkpoint(row: tables.Checkpoint) -> CheckpointOut:
    return CheckpointOut(
        id=row.id,
        job=row.job_id,
        model=row.model_name,
        step=row.step,
        best=row.best,
        metrics=finites(row.metrics),
        bytes=row.size_bytes,
        manifest_sha256=row.manifest_sha256,
        created_at=row.created_at,
    )


def file(row: tables.File) -> FileOut:
    return FileOut(
        id=row.id,
        bytes=row.size_bytes,
        created_at=int(row.created_at),
        filename=row.filename,
        purpose=row.purpose,
        status=row.status,
        status_details=row.status_details,
        expires_at=whole_seconds(row.expires_at),
        format=row.format,
        sha256=row.sha256,
    )


def upload(row: tables.Upload, made: tables.File | None = None) -> UploadOut:
    return UploadOut(
        id=row.id,
        bytes=row.size_bytes,
        created_at=int(row.created_at),
        expires_at=int(row.expires_at),
        filename=row.filename,
        purpose=row.purpose,
        status=row.status,
        file=None if made is None else file(made),
    )


def part(row: tables.UploadPart) -> PartOut:
    return PartOut(id=row.id, created_at=int(row.created_at), upload_id=row.upload_id)


def model(row: tables.Model, *, project: str, aliases: Sequence[str] = ()) -> ModelOut:
    config = ModelConfig.model_validate(row.config)
    return ModelOut(
        id=row.name,
        created=int(row.created_at),
        owned_by=project,
        family=config.family,
        parameters=row.num_parameters,
        context_length=config.context_length,
        bytes=row.size_bytes,
        parent=row.parent,
        base=row.stands_on,
        adapter=row.adapter,
        job=row.job_id,
        metrics=finites(row.metrics),
        has_chat_template=row.has_chat_template,
        endpoints=list(endpoints(config, has_chat_template=row.has_chat_template)),
        aliases=list(aliases),
        config=row.config,
        manifest_sha256=row.manifest_sha256,
    )


def model_or_checkpoint(
    row: tables.Model | tables.Checkpoint,
    made_by: tables.Job | None,
    *,
    project: str,
    aliases: Mapping[str, Sequence[str]],
) -> ModelOut:
    """A checkpoint is a model like any other; what it has learned so far are its metrics."""
    if isinstance(row, tables.Model):
        return model(row, project=project, aliases=aliases.get(row.name, ()))
    assert made_by is not None
    config = ModelConfig.model_validate(made_by.config)
    return ModelOut(
        id=row.model_name,
        created=int(row.created_at),
        owned_by=project,
        family=config.family,
        parameters=config.num_parameters(),
        context_length=config.context_length,
        bytes=row.size_bytes,
        parent=made_by.base_model,
        base=made_by.stands_on,
        adapter=made_by.spec["adapter"] if made_by.stands_on else None,
        job=made_by.id,
        metrics=finites(row.metrics),
        has_chat_template=None,
        endpoints=list(endpoints(config)),
        aliases=list(aliases.get(row.model_name, ())),
        config=config.model_dump(mode="json"),
        manifest_sha256=row.manifest_sha256,
    )


def alias(row: tables.Alias) -> AliasOut:
    return AliasOut(id=row.alias, alias=row.alias, model=row.model_name, created_at=row.created_at)


def tokenizer(row: tables.TokenizerRow) -> TokenizerOut:
    return TokenizerOut(
        id=row.id,
        vocab_size=row.vocab_size,
        sha256=row.sha256,
        job=row.job_id,
        metrics=finites(row.metrics),
        created_at=row.created_at,
    )


def worker(row: tables.Worker, *, job: str | None) -> WorkerOut:
    return WorkerOut(
        id=row.id,
        kind=row.kind,
        host=row.host,
        pid=row.pid,
        version=row.version,
        slots=row.slots,
        job=job,
        started_at=row.started_at,
        heartbeat_at=row.heartbeat_at,
    )


def project(row: tables.Project) -> ProjectOut:
    return ProjectOut(id=row.id, name=row.name, created_at=row.created_at)


def key(row: tables.ApiKey, *, project: str, value: str | None = None) -> KeyOut:
    return KeyOut(
        id=row.id,
        name=row.name,
        project=project,
        scopes=list(row.scopes),
        redacted_value=f"ws_{row.lookup}_…",
        value=value,
        created_at=row.created_at,
        expires_at=row.expires_at,
        last_used_at=row.last_used_at,
        revoked_at=row.revoked_at,
    )


def job_page(rows: Page[tables.Job], positions: Mapping[str, int]) -> ListOut[JobOut]:
    return page([job(row, queue_position=positions.get(row.id)) for row in rows.rows], has_more=rows.has_more)
