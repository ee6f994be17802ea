"""OpenAI's fine-tuning words and ours, both ways: the one place where a request is translated into a `JobSpec`."""

from typing import Any, Literal

from pydantic import Field

from api import views
from api.faults import parse_spec
from api.fine_tuning_methods import (
    COPIES,
    DPO,
    EFFORTS,
    Hyperparameters,
    Method,
    Reinforcement,
    ReinforcementHyperparameters,
    Supervised,
)
from api.schemas import Out
from core.errors import CoreError, InvalidRequest, NotFound
from core.job_spec import Metadata, Reference, Suffix, TrainSpec
from core.jobs import tables
from core.jobs.registry import Servable
from core.jobs.states import TERMINAL
from core.models.config import ModelConfig
from core.objectives import OBJECTIVES
from core.optimizers import AdamW, OptimizerSpec, default_learning_rate
from core.spec import Spec

EPOCHS = 3
"""what `auto` means"""
PARAMS = {
    "model.from": "model",
    "data.train.0.file": "training_file",
    "data.validation.file": "validation_file",
    "objective.kind": "training_file",
}
"""fields of the spec by what they are called in a request"""
METRICS = {
    "train_loss": "train_loss",
    "train_token_accuracy": "train_mean_token_accuracy",
    "train_reward_accuracy": "train_mean_reward_accuracy",
    "train_reward_margin": "train_mean_reward_margin",
    "train_reward": "train_mean_reward",
    "validation_loss": "full_valid_loss",
    "validation_token_accuracy": "full_valid_mean_token_accuracy",
    "validation_reward_accuracy": "full_valid_mean_reward_accuracy",
    "validation_reward_margin": "full_valid_mean_reward_margin",
    "validation_reward": "full_valid_mean_reward",
}
METHODS = {"dpo": "dpo", "grpo": "reinforcement"}
"""objectives by what they are called there; all others are shown as `supervised`"""


class FineTuningRequest(Spec):
    model: Reference = Field(description="a model of this project, one of its aliases or checkpoints")
    training_file: Reference
    validation_file: Reference | None = None
    method: Method | None = None
    hyperparameters: Hyperparameters | None = Field(default=None, json_schema_extra={"deprecated": True})
    suffix: Suffix | None = None
    seed: int | None = Field(default=None, ge=0, le=2**31 - 1)
    metadata: Metadata | None = None
    integrations: list[Any] | None = None

    @property
    def settings(self) -> Supervised | DPO | Reinforcement:
        return self.method.settings if self.method else Supervised()

    @property
    def chosen(self) -> Hyperparameters:
        is_old_way = self.method is None or self.method.given is None
        return self.hyperparameters if is_old_way and self.hyperparameters else self.settings.hyperparameters


class FineTuningError(Out):
    code: str
    message: str
    param: str | None


class FineTuningJob(Out):
    id: str
    object: Literal["fine_tuning.job"] = "fine_tuning.job"
    created_at: int
    finished_at: int | None
    model: str
    fine_tuned_model: str | None
    organization_id: str
    status: str
    hyperparameters: dict[str, Any]
    training_file: str
    validation_file: str | None
    result_files: list[str]
    trained_tokens: int | None
    error: FineTuningError | None
    seed: int
    estimated_finish: int | None
    integrations: list[Any]
    metadata: dict[str, str]
    method: dict[str, Any]


class FineTuningEvent(Out):
    id: str
    object: Literal["fine_tuning.job.event"] = "fine_tuning.job.event"
    created_at: int
    level: str
    message: str
    type: Literal["message", "metrics"]
    data: dict[str, Any]


class FineTuningCheckpoint(Out):
    id: str
    object: Literal["fine_tuning.job.checkpoint"] = "fine_tuning.job.checkpoint"
    created_at: int
    fine_tuned_model_checkpoint: str
    fine_tuning_job_id: str
    step_number: int
    metrics: dict[str, float | None]


def check_available(request: FineTuningRequest) -> None:
    """
    Raises:
        InvalidRequest: it asks for what OpenAI has and we have not; the message says what we have.
    """
    if request.integrations:
        raise InvalidRequest(
            "Integrations (wandb) are not available here.",
            code="integrations_not_available",
            param="integrations",
            hint="GET /v1/jobs/{id}/metrics has every series, and /metrics has figures for Prometheus.",
        )


def spec_of(request: FineTuningRequest, base: Servable) -> TrainSpec:
    """The job that the request means. `base` is the model it names."""
    chosen = request.chosen
    body: dict[str, Any] = {
        "kind": "train",
        "suffix": request.suffix,
        "seed": request.seed or 0,
        "metadata": request.metadata or {},
        "model": {"init": "pretrained", "from": base.name},
        # A batch is counted in examples there: one example a row.
        "data": {"train": [{"file": request.training_file}], "packing": "none"},
        "objective": request.settings.objective,
        "budget": {"epochs": EPOCHS if chosen.n_epochs == "auto" else chosen.n_epochs},
    }
    if request.validation_file is not None:
        body["data"]["validation"] = {"file": request.validation_file}
    if chosen.batch_size != "auto":
        body["batch"] = {"sequences": chosen.batch_size}
    if chosen.learning_rate_multiplier != "auto":
        usual = usual_learning_rate(request.settings.objective["kind"], base.config)
        body["optimizer"] = {"learning_rate": min(1.0, usual * chosen.learning_rate_multiplier)}
    if isinstance(chosen, ReinforcementHyperparameters) and chosen.eval_interval != "auto":
        body["evaluation"] = {"every": chosen.eval_interval}
    spec = parse_spec(body)
    assert isinstance(spec, TrainSpec)
    return spec


def in_its_words(error: InvalidRequest) -> CoreError:
    """The same error, naming the field as the request does."""
    return InvalidRequest(
        error.message, code=error.code, param=PARAMS.get(error.param or "", error.param), hint=error.hint
    )


def job_id_of(outside: str) -> str:
    """`ftjob-x` is `job_x`.

    Raises:
        NotFound: no such prefix, so no such job.
    """
    prefix, separator, body = outside.partition("ftjob-")
    if prefix or not separator:
        raise no_such_job(outside)
    return f"job_{body}"


def no_such_job(outside: str) -> NotFound:
    return NotFound(
        f"No fine-tuning job {outside!r} in this project.",
        code="job_not_found",
        hint="Jobs that start from random weights are at /v1/jobs.",
    )


def outside_id(job_id: str) -> str:
    return f"ftjob-{job_id.removeprefix('job_')}"


def seq_of(event_id: str) -> str:
    """`ftevent-x-17` is event 17."""
    return event_id.rpartition("-")[2]


def status(row: tables.Job) -> str:
    if row.state in TERMINAL or row.state == "paused":
        return row.state
    if row.desired == "cancel":
        return "cancelled"  # it will end so, whatever it is doing
    if row.desired == "pause":
        return "pausing"
    return {"validating": "validating_files", "stopping": "running"}.get(row.state, row.state)


def job(row: tables.Job, *, result_files: list[str] | None = None) -> FineTuningJob:
    spec, result = row.spec, row.result or {}
    settings, method = _hyperparameters(row), METHODS.get(spec["objective"]["kind"], "supervised")
    validation = spec["data"]["validation"] or {}
    eta = views.progress(row).eta_seconds
    error = None
    if row.error_code is not None:
        error = FineTuningError(code=row.error_code, message=row.error_message or "", param=row.error_param)
    return FineTuningJob(
        id=outside_id(row.id),
        created_at=int(row.created_at),
        finished_at=views.whole_seconds(row.finished_at),
        model=(row.request or {}).get("model") or row.base_model or "",
        fine_tuned_model=result.get("model") if row.state == "succeeded" else None,
        organization_id=row.project_id,
        status=status(row),
        hyperparameters=settings,
        training_file=spec["data"]["train"][0]["file"],
        validation_file=validation.get("file"),
        result_files=result_files if result_files is not None else list(result.get("files", [])),
        trained_tokens=row.tokens if row.state == "succeeded" else None,
        error=error,
        seed=spec["seed"],
        estimated_finish=None if eta is None or row.progress_at is None else int(row.progress_at + eta),
        integrations=[],
        metadata=row.metadata_,
        method={"type": method, method: _method(spec["objective"]) | {"hyperparameters": settings}},
    )


def event(row: tables.JobEvent) -> FineTuningEvent:
    data, kind = dict(row.data), "message"
    if row.kind in ("step", "evaluated"):
        found = row.data.get("metrics", {}) | row.data
        data = {name: row.data[name] for name in ("step", "total_steps") if name in row.data} | _metrics(found)
        kind = "metrics"
    return FineTuningEvent(
        id=f"ftevent-{row.job_id.removeprefix('job_')}-{row.seq}",
        created_at=int(row.created_at),
        level=row.level,
        message=row.message,
        type="metrics" if kind == "metrics" else "message",
        data=data,
    )


def checkpoint(row: tables.Checkpoint) -> FineTuningCheckpoint:
    return FineTuningCheckpoint(
        id=f"ftckpt_{row.id.removeprefix('ckpt_')}",
        created_at=int(row.created_at),
        fine_tuned_model_checkpoint=row.model_name,
        fine_tuning_job_id=outside_id(row.job_id),
        step_number=row.step,
        metrics={"step": float(row.step)} | _metrics(row.metrics),
    )


def checkpoint_id_of(outside: str | None) -> str | None:
    return None if outside is None else f"ckpt_{outside.removeprefix('ftckpt_')}"


def _metrics(found: dict[str, Any]) -> dict[str, float | None]:
    """By OpenAI's names. Ours of the validation are over all of it, so they are `full_valid_…` and `valid_…` alike."""
    shown = {theirs: views.finite(found[ours]) for ours, theirs in METRICS.items() if ours in found}
    # The journal's step events have OpenAI's names already.
    shown |= {name: views.finite(found[name]) for name in METRICS.values() if name in found}
    return shown | {name.removeprefix("full_"): value for name, value in shown.items() if name.startswith("full_")}


def _hyperparameters(row: tables.Job) -> dict[str, Any]:
    """As they are used; `auto` where the job was submitted in words that OpenAI has none for."""
    spec = row.spec
    epochs = spec["budget"]["epochs"]
    optimizer, objective = TrainSpec.model_validate(spec).optimizer, spec["objective"]
    usual = usual_learning_rate(objective["kind"], ModelConfig.model_validate(row.config), type(optimizer))
    shown = {
        "n_epochs": "auto" if epochs is None else int(epochs) if epochs == int(epochs) else epochs,
        "batch_size": spec["batch"]["sequences"],
        "learning_rate_multiplier": round((optimizer.learning_rate or usual) / usual, 4),
    }
    if objective["kind"] == "dpo":
        shown["beta"] = objective["beta"]
    if objective["kind"] == "grpo":
        efforts = {tokens: effort for effort, tokens in EFFORTS.items()}
        shown |= {
            "compute_multiplier": objective["copies"] / COPIES,
            "eval_interval": spec["evaluation"]["every"] or "auto",
            "eval_samples": objective["validation_copies"],
            "reasoning_effort": efforts.get(objective["max_tokens"], "default"),
        }
    return shown


def _method(objective: dict[str, Any]) -> dict[str, Any]:
    """What a method has beside its hyperparameters."""
    return {"grader": objective["grader"]} if objective["kind"] == "grpo" else {}


def usual_learning_rate(objective: str, model: ModelConfig, optimizer: type[OptimizerSpec] = AdamW) -> float:
    """What a multiplier multiplies."""
    return default_learning_rate(
        model.num_parameters(), pretrained=True, optimizer=optimizer, factor=OBJECTIVES[objective].relative_rate
    )
