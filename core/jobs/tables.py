"""The tables. Times are seconds since the epoch (UTC, the database's clock); ids are opaque text."""

from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from core.jobs.dialect import now

NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    "pk": "pk_%(table_name)s",
}
Json = JSON().with_variant(JSONB(), "postgresql")


WAITING = "state IN ('queued', 'validating') AND desired = 'run' AND lease_owner IS NULL"
"""jobs that may be claimed"""


class Table(DeclarativeBase):
    metadata = MetaData(naming_convention=NAMING)
    type_annotation_map = {  # noqa: RUF012 - SQLAlchemy's own declaration
        str: Text,
        int: BigInteger,
        float: Double,
        bytes: LargeBinary,
        dict[str, Any]: Json,
        list[Any]: Json,
    }


class Stored:
    """A row with bytes in storage. Deleting hides the row at once; the bytes go after a grace (core.jobs.sweeping)."""

    storage_key: Mapped[str]
    deleted_at: Mapped[float | None]
    swept_at: Mapped[float | None]


class Project(Table):
    __tablename__ = "projects"
    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    created_at: Mapped[float] = mapped_column(insert_default=now())


class ApiKey(Table):
    __tablename__ = "api_keys"
    id: Mapped[str] = mapped_column(primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"), index=True)
    lookup: Mapped[str] = mapped_column(unique=True)
    sha256: Mapped[str]
    name: Mapped[str]
    scopes: Mapped[list[Any]]
    created_at: Mapped[float] = mapped_column(insert_default=now())
    expires_at: Mapped[float | None]
    last_used_at: Mapped[float | None]
    revoked_at: Mapped[float | None]


class File(Stored, Table):
    """Bytes that were uploaded or imported."""

    __tablename__ = "files"
    id: Mapped[str] = mapped_column(primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    filename: Mapped[str]
    purpose: Mapped[str]
    size_bytes: Mapped[int]
    sha256: Mapped[str]
    format: Mapped[str | None]
    """detected dataset format; None where it is not training data"""
    status: Mapped[str]
    status_details: Mapped[str | None]
    created_at: Mapped[float] = mapped_column(insert_default=now())
    expires_at: Mapped[float | None]
    __table_args__ = (Index("ix_files_listing", "project_id", "created_at", "id"),)


class Upload(Table):
    """A file that arrives in parts."""

    __tablename__ = "uploads"
    id: Mapped[str] = mapped_column(primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"), index=True)
    filename: Mapped[str]
    purpose: Mapped[str]
    mime_type: Mapped[str]
    size_bytes: Mapped[int]
    status: Mapped[str]
    file_id: Mapped[str | None]
    file_expires_after: Mapped[float | None]
    created_at: Mapped[float] = mapped_column(insert_default=now())
    expires_at: Mapped[float]


class UploadPart(Table):
    __tablename__ = "upload_parts"
    id: Mapped[str] = mapped_column(primary_key=True)
    upload_id: Mapped[str] = mapped_column(ForeignKey("uploads.id"), index=True)
    size_bytes: Mapped[int]
    storage_key: Mapped[str]
    created_at: Mapped[float] = mapped_column(insert_default=now())


class Job(Table):
    """The job. `state` is written by core.jobs.store alone; `fence` names the attempt that may write at all."""

    __tablename__ = "jobs"
    id: Mapped[str] = mapped_column(primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    kind: Mapped[str]
    spec: Mapped[dict[str, Any]]
    metadata_: Mapped[dict[str, Any]] = mapped_column("metadata", default=dict)
    request: Mapped[dict[str, Any] | None]
    """the façade's request as it came, shown back in its own words"""
    base_model: Mapped[str | None]
    """name of the model it starts from; None for random weights"""
    stands_on: Mapped[str | None] = mapped_column(index=True)
    """of a job that trains an adapter: the base (a model's name or a checkpoint's id), which its checkpoints need"""
    model_name: Mapped[str | None]
    """name its result will have; its checkpoints are called by it while it runs"""
    config: Mapped[dict[str, Any] | None]
    """ModelConfig of the model it trains"""
    parent_id: Mapped[str | None]
    """the job it was cloned from"""

    state: Mapped[str] = mapped_column(default="validating")
    desired: Mapped[str] = mapped_column(default="run")
    phase: Mapped[str | None]
    queue: Mapped[str]
    priority: Mapped[int] = mapped_column(default=0)
    fence: Mapped[int] = mapped_column(default=0)
    lease_owner: Mapped[str | None]
    lease_expires_at: Mapped[float | None]
    heartbeat_at: Mapped[float | None]
    run_after: Mapped[float] = mapped_column(insert_default=now())
    hinted_at: Mapped[float | None]
    attempts: Mapped[int] = mapped_column(default=0)
    no_progress_failures: Mapped[int] = mapped_column(default=0)
    checkpoint_id: Mapped[str | None]
    """the newest committed checkpoint: where the next attempt resumes"""
    checkpoint_at_claim: Mapped[str | None]

    preparation: Mapped[dict[str, Any] | None]
    plan: Mapped[dict[str, Any] | None]
    step: Mapped[int] = mapped_column(default=0)
    total_steps: Mapped[int | None]
    tokens: Mapped[int] = mapped_column(default=0)
    fraction: Mapped[float] = mapped_column(default=0.0)
    tokens_per_second: Mapped[float | None]
    seconds_per_step: Mapped[float | None]
    progress_at: Mapped[float | None]
    latest: Mapped[dict[str, Any]] = mapped_column(default=dict)
    """newest value of each metric"""
    event_seq: Mapped[int] = mapped_column(default=0)

    result: Mapped[dict[str, Any] | None]
    error_code: Mapped[str | None]
    error_message: Mapped[str | None]
    error_hint: Mapped[str | None]
    error_param: Mapped[str | None]
    created_at: Mapped[float] = mapped_column(insert_default=now())
    queued_at: Mapped[float | None]
    started_at: Mapped[float | None]
    finished_at: Mapped[float | None]

    __table_args__ = (
        CheckConstraint("lease_owner IS NULL OR state IN ('validating','running','stopping')", name="lease_state"),
        CheckConstraint("state NOT IN ('running','stopping') OR lease_owner IS NOT NULL", name="running_leased"),
        Index("ix_jobs_listing", "project_id", "created_at", "id"),
        # What a claim takes first, and the places in a queue, without reading or sorting the rest of it.
        Index(
            "ix_jobs_claim",
            "queue",
            priority.desc(),
            "created_at",
            "id",
            sqlite_where=text(WAITING),
            postgresql_where=text(WAITING),
        ),
        Index("ix_jobs_lease", "lease_expires_at"),
    )


class Attempt(Table):
    """One claim of a job, of its validating stage or of its run."""

    __tablename__ = "attempts"
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    fence: Mapped[int] = mapped_column(primary_key=True)
    stage: Mapped[str]
    """validating or running"""
    worker: Mapped[str]
    started_at: Mapped[float] = mapped_column(insert_default=now())
    ended_at: Mapped[float | None]
    outcome: Mapped[str | None]
    reason: Mapped[str | None]
    first_step: Mapped[int] = mapped_column(default=0)
    """points of older fences above this step are hidden"""
    event_offset: Mapped[int] = mapped_column(default=0)
    """bytes of events.jsonl already recorded"""
    resume_exactness: Mapped[str | None]
    __table_args__ = (
        Index(
            "one_open_attempt",
            "job_id",
            unique=True,
            sqlite_where=text("ended_at IS NULL"),
            postgresql_where=text("ended_at IS NULL"),
        ),
    )


class JobTransition(Table):
    """Which state may follow which: `states.TRANSITIONS`, where the database's own trigger reads it."""

    __tablename__ = "job_transitions"
    from_state: Mapped[str] = mapped_column(primary_key=True)
    to_state: Mapped[str] = mapped_column(primary_key=True)


class JobUse(Table):
    """What a job reads (file, model, tokenizer, checkpoint): not deleted while a job that is not over uses it."""

    __tablename__ = "job_uses"
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    object_id: Mapped[str] = mapped_column(primary_key=True, index=True)


class JobEvent(Table):
    """What people see of a job, in order without gaps; `seq` is the SSE id."""

    __tablename__ = "job_events"
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    seq: Mapped[int] = mapped_column(primary_key=True)
    fence: Mapped[int]
    kind: Mapped[str]
    """state, or the kind of the run's own event"""
    level: Mapped[str]
    message: Mapped[str]
    data: Mapped[dict[str, Any]]
    created_at: Mapped[float] = mapped_column(insert_default=now())


class MetricBlock(Table):
    """A run of packed points of one series (see core.jobs.metrics)."""

    __tablename__ = "metric_blocks"
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    fence: Mapped[int] = mapped_column(primary_key=True)
    level: Mapped[int] = mapped_column(Integer, primary_key=True)
    block: Mapped[int] = mapped_column(primary_key=True)
    num_entries: Mapped[int]
    entries: Mapped[bytes]


class LogChunk(Table):
    """Output of a child process, as it came."""

    __tablename__ = "log_chunks"
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    fence: Mapped[int] = mapped_column(primary_key=True)
    offset: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str]
    created_at: Mapped[float] = mapped_column(insert_default=now())


class Checkpoint(Stored, Table):
    """A checkpoint exists when this row does."""

    __tablename__ = "checkpoints"
    id: Mapped[str] = mapped_column(primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), index=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    fence: Mapped[int]
    step: Mapped[int]
    model_name: Mapped[str] = mapped_column(index=True)
    """the name it is called by: the job's model name and `:ckpt-step-{step}`"""
    metrics: Mapped[dict[str, Any]]
    best: Mapped[bool]
    manifest_sha256: Mapped[str]
    size_bytes: Mapped[int]
    created_at: Mapped[float] = mapped_column(insert_default=now())
    __table_args__ = (UniqueConstraint("job_id", "fence", "step"),)


class Model(Stored, Table):
    """A finished or imported model. `name` is its public id; the model lies below `model/` of its storage key."""

    __tablename__ = "models"
    name: Mapped[str] = mapped_column(primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"), index=True)
    job_id: Mapped[str | None]
    parent: Mapped[str | None]
    """name of the model it was trained from"""
    stands_on: Mapped[str | None] = mapped_column(index=True)
    """of an adapter: its base (a model's name or a checkpoint's id), without which it cannot be loaded"""
    adapter: Mapped[dict[str, Any] | None]
    """its LoRA; None for a whole model"""
    root: Mapped[str]
    """slug of the lineage's first model"""
    config: Mapped[dict[str, Any]]
    """its ModelConfig"""
    num_parameters: Mapped[int]
    metrics: Mapped[dict[str, Any]]
    has_chat_template: Mapped[bool]
    manifest_sha256: Mapped[str]
    size_bytes: Mapped[int]
    created_at: Mapped[float] = mapped_column(insert_default=now())


class Alias(Table):
    """A name of the user's choosing, per project, for a model."""

    __tablename__ = "aliases"
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"), primary_key=True)
    alias: Mapped[str] = mapped_column(primary_key=True)
    model_name: Mapped[str]
    created_at: Mapped[float] = mapped_column(insert_default=now())


class TokenizerRow(Stored, Table):
    """A finished tokenizer."""

    __tablename__ = "tokenizers"
    id: Mapped[str] = mapped_column(primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"), index=True)
    job_id: Mapped[str | None]
    vocab_size: Mapped[int]
    sha256: Mapped[str]
    metrics: Mapped[dict[str, Any]]
    created_at: Mapped[float] = mapped_column(insert_default=now())


class Dataset(Table):
    """A token dataset in storage, found by the hash of all that determines its content."""

    __tablename__ = "datasets"
    hash: Mapped[str] = mapped_column(primary_key=True)
    storage_key: Mapped[str]
    size_bytes: Mapped[int]
    created_at: Mapped[float] = mapped_column(insert_default=now())


class Worker(Table):
    """A process that does work, known by its heartbeat."""

    __tablename__ = "workers"
    id: Mapped[str] = mapped_column(primary_key=True)
    kind: Mapped[str]
    """train, light or generator"""
    host: Mapped[str]
    pid: Mapped[int]
    version: Mapped[str]
    address: Mapped[str | None]
    """http://host:port of a generator"""
    slots: Mapped[list[Any]]
    job_id: Mapped[str | None]
    models: Mapped[list[Any]]
    """storage keys a generator holds"""
    started_at: Mapped[float] = mapped_column(insert_default=now())
    heartbeat_at: Mapped[float] = mapped_column(insert_default=now())


class IdempotentRequest(Table):
    """A create that must not happen twice: by the caller's key, or by the hash of a request the SDK retries."""

    __tablename__ = "idempotent_requests"
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"), primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    body_sha256: Mapped[str]
    object_id: Mapped[str]
    created_at: Mapped[float] = mapped_column(insert_default=now())
