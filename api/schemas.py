"""What rows look like outside, once. A row is not a promise; these classes are. None of them is accepted as input."""

from typing import Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict

Item = TypeVar("Item")


class Out(BaseModel):
    model_config = ConfigDict(use_attribute_docstrings=True, protected_namespaces=())


class ListOut(Out, Generic[Item]):
    """A page; the next one begins `after` the last id."""

    object: Literal["list"] = "list"
    data: list[Item]
    has_more: bool = False
    first_id: str | None = None
    last_id: str | None = None


class Deleted(Out):
    id: str
    object: str
    deleted: Literal[True] = True


class Progress(Out):
    step: int
    total_steps: int | None
    tokens: int
    fraction: float
    tokens_per_second: float | None
    eta_seconds: float | None
    """at the speed of the last steps"""
    eta_low: float | None
    eta_high: float | None
    """at the mean speed of the whole run, where that says something else"""


class JobError(Out):
    code: str
    message: str
    hint: str | None
    param: str | None


class AttemptOut(Out):
    fence: int
    """counts claims; what an attempt writes carries it"""
    stage: str
    worker: str
    started_at: float
    ended_at: float | None
    outcome: str | None
    reason: str | None
    first_step: int
    resume_exactness: str | None


class JobOut(Out):
    id: str
    object: Literal["job"] = "job"
    kind: str
    state: str
    desired: str
    """what the user wants: run, pause or cancel; the state follows"""
    phase: str | None
    queue_position: int | None
    """1: next; null where nothing waits"""
    progress: Progress
    spec: dict[str, Any]
    """resolved: every default as it is used"""
    metadata: dict[str, str]
    metrics: dict[str, float | None]
    """newest value of each series"""
    model: str | None
    """name its result will have; `…:ckpt-step-n` works while it runs"""
    parent: str | None
    """the job it was cloned from"""
    attempts: int
    error: JobError | None
    result: dict[str, Any] | None
    created_at: float
    queued_at: float | None
    started_at: float | None
    finished_at: float | None
    history: list[AttemptOut] | None = None
    """every claim; only where one job is asked for"""


class EstimateOut(Out):
    object: Literal["job.estimate"] = "job.estimate"
    spec: dict[str, Any]
    model: dict[str, Any] | None
    parameters: int | None
    estimate: dict[str, float | None]
    """from shapes, bytes and the runs before, without reading the data"""


class EventOut(Out):
    id: str
    object: Literal["job.event"] = "job.event"
    seq: int
    """gapless in its job; the id of the SSE message"""
    kind: str
    level: str
    message: str
    data: dict[str, Any]
    created_at: float


class ProgressOut(Out):
    """Message `progress` of a job's stream."""

    object: Literal["job.progress"] = "job.progress"
    job: str
    state: str
    desired: str
    phase: str | None
    progress: Progress
    metrics: dict[str, float | None]


class Point(Out):
    step: int
    """the last step of those that this point stands for"""
    value: float | None
    """at that step"""
    first_step: int
    min: float | None
    max: float | None
    mean: float | None
    count: int


class Series(Out):
    name: str
    points: list[Point]


class MetricsOut(Out):
    object: Literal["list"] = "list"
    job: str
    data: list[Series]


class LogsOut(Out):
    object: Literal["job.logs"] = "job.logs"
    job: str
    text: str
    truncated: bool
    """there are earlier lines"""


class CheckpointOut(Out):
    id: str
    object: Literal["checkpoint"] = "checkpoint"
    job: str
    model: str
    step: int
    best: bool
    metrics: dict[str, float | None]
    bytes: int
    manifest_sha256: str
    created_at: float


class FileOut(Out):
    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    filename: str
    purpose: str
    status: str
    status_details: str | None
    expires_at: int | None
    format: str | None
    """what training reads it as; null where it was not uploaded for training"""
    sha256: str


class UploadOut(Out):
    id: str
    object: Literal["upload"] = "upload"
    bytes: int
    created_at: int
    expires_at: int
    filename: str
    purpose: str
    status: str
    file: FileOut | None = None


class PartOut(Out):
    id: str
    object: Literal["upload.part"] = "upload.part"
    created_at: int
    upload_id: str


class ModelOut(Out):
    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str
    family: str
    parameters: int
    context_length: int
    bytes: int
    parent: str | None
    """the model it was trained from"""
    base: str | None
    """of an adapter: the whole model that it stands on, which stays as long as it does"""
    adapter: dict[str, Any] | None
    """its LoRA; null for a whole model"""
    job: str | None
    metrics: dict[str, float | None]
    has_chat_template: bool | None
    endpoints: list[str]
    """where it answers"""
    aliases: list[str]
    config: dict[str, Any]
    manifest_sha256: str


class AliasOut(Out):
    id: str
    object: Literal["alias"] = "alias"
    alias: str
    model: str
    created_at: float


class TokenizerOut(Out):
    id: str
    object: Literal["tokenizer"] = "tokenizer"
    vocab_size: int
    sha256: str
    job: str | None
    metrics: dict[str, float | None]
    created_at: float


class WorkerOut(Out):
    id: str
    object: Literal["worker"] = "worker"
    kind: str
    host: str
    pid: int
    version: str
    slots: list[Any]
    job: str | None
    """null also where the job is another project's"""
    started_at: float
    heartbeat_at: float


class ProjectOut(Out):
    id: str
    object: Literal["project"] = "project"
    name: str
    created_at: float


class KeyOut(Out):
    id: str
    object: Literal["api_key"] = "api_key"
    name: str
    project: str
    scopes: list[str]
    redacted_value: str
    value: str | None = None
    """the key itself: in the answer that creates it, and never again"""
    created_at: float
    expires_at: float | None
    last_used_at: float | None
    revoked_at: float | None
