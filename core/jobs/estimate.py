"""What a job will need, from shapes, bytes and the runs before it: nothing is read and no token is counted."""

import math

from sqlalchemy import select
from sqlalchemy.orm import Session

from core.adapters.memory import trained_shapes
from core.adapters.spec import LoRA
from core.job_spec import RandomModel, TrainSpec
from core.jobs import registry, workers
from core.jobs.submit import BYTES, Resolved
from core.jobs.tables import Attempt, Job
from core.models.config import ModelConfig
from core.objectives.distillation import Distillation
from core.training import memory
from core.training.plan import Slot, attention, micro_batch

BYTES_PER_TOKEN = 4.0
"""of a trained byte-pair encoding on prose"""
COMPUTE_OPTIMAL = 20.0
"""tokens for each parameter that lower the loss most for the work (Hoffmann et al. 2022, arXiv:2203.15556, table 3)"""
MAX_RUNS = 200
"""newest finished runs among which one of about the same shape is looked for"""
MAX_RATIO = 10.0
"""of the work of a step: a run that differs by more says nothing of this one's speed"""


def estimate(session: Session, project_id: str, found: Resolved) -> dict[str, float | None]:
    """Figures of a train job; for other kinds only the size of the data.

    `memory_bytes` and its parts, and `seconds`, are those of the first worker that lives; None where none does. Seconds
    are None too where no run of about this shape has ended there: the runs themselves are the measurement.
    """
    data_bytes = sum(file.size_bytes for file in found.files)
    spec, config = found.spec, found.config
    if not isinstance(spec, TrainSpec) or config is None:
        return {"data_bytes": float(data_bytes)}
    by_bytes = isinstance(spec.model, RandomModel) and spec.model.tokenizer == BYTES
    sizes = {file.id: file.size_bytes for file in found.files}
    shown_bytes = sum(sizes[source.file] * source.weight for source in spec.data.train)
    epoch_tokens = shown_bytes / (1.0 if by_bytes else BYTES_PER_TOKEN)
    step_tokens = _step_tokens(spec)
    steps = _steps(spec, epoch_tokens, step_tokens)
    trained = trained_parameters(spec, config)
    flops = None if steps is None else flops_per_token(spec, config) * steps * step_tokens
    slot = _slot(session)
    checkpoint = (12.0 if spec.optimizer.ema_decay is None else 16.0) * trained
    state = memory.state_parts(spec, config)
    return {
        "data_bytes": float(data_bytes),
        "epoch_tokens": round(epoch_tokens),
        "step_tokens": float(step_tokens),
        "total_steps": steps,
        "total_tokens": None if steps is None else steps * step_tokens,
        "compute_optimal_tokens": COMPUTE_OPTIMAL * config.num_parameters(),
        "trained_parameters": float(trained),
        "flops_per_token": flops_per_token(spec, config),
        "flops": flops,
        "seconds": spec.budget.seconds or _seconds(session, spec, config, slot, flops),
        # Weights, gradients and the optimizer's state; activations come on top.
        "state_bytes": float(sum(state.values())),
        **_memory(session, project_id, spec, config, slot),
        "checkpoint_bytes": checkpoint,
        "disk_bytes": checkpoint * (spec.checkpoints.keep + spec.checkpoints.keep_best),
    }


def trained_parameters(spec: TrainSpec, config: ModelConfig) -> int:
    """How many numbers are trained."""
    if not isinstance(spec.adapter, LoRA):
        return config.num_parameters()
    return sum(map(math.prod, trained_shapes(spec.adapter, config).values()))


def flops_per_token(spec: TrainSpec, config: ModelConfig) -> float:
    """Forward and backward: 6 floating-point operations for each weight that multiplies, 4 where it is frozen, and 12
    for each position, layer and hidden number that attention compares (Kaplan et al. 2020, arXiv:2001.08361, table 1).
    """
    looked_up = 0 if config.tied_embeddings and config.head == "language_model" else config.vocab_size
    multiplied = config.num_parameters() - looked_up * config.hidden_size
    scores = config.num_layers * (spec.data.sequence_length or config.context_length) * config.hidden_size
    again = 2.0 * multiplied + 4.0 * scores if spec.activation_checkpointing else 0.0
    trained = multiplied if not isinstance(spec.adapter, LoRA) else trained_parameters(spec, config)
    return 4.0 * multiplied + 2.0 * trained + 12.0 * scores + again


def _memory(
    session: Session, project_id: str, spec: TrainSpec, config: ModelConfig, slot: Slot | None
) -> dict[str, float | None]:
    """Of the trainer on the slot's machine, and its parts."""
    reference = config if spec.objective.needs_reference and not isinstance(spec.adapter, LoRA) else None
    if isinstance(spec.objective, Distillation):
        reference = registry.resolve_model(session, project_id, spec.objective.teacher).config
    parts = memory.state_parts(spec, config) | {
        "reference": memory.reference_bytes(reference),
        "rollouts": memory.rollout_bytes(spec, config),
    }
    if slot is None:
        return {"memory_bytes": None, **{f"{name}_bytes": float(size) for name, size in parts.items()}}
    rows = micro_batch(spec, config, slot, reference=reference)
    kind = attention(slot, spec.data.sequence_length or config.context_length)
    parts |= {
        "activations": rows * memory.activation_bytes(spec, config, kind),
        "likelihood": memory.likelihood_bytes(spec, config, rows),
        "process": memory.PROCESS_BYTES,
    }
    total: dict[str, float | None] = {"micro_batch": float(rows), "memory_bytes": float(sum(parts.values()))}
    return {**total, **{f"{name}_bytes": float(size) for name, size in parts.items()}}


def _slot(session: Session) -> Slot | None:
    """Of the first worker that trains."""
    slots = [slot for worker in workers.alive(session, kind="train") for slot in worker.slots]
    fields = Slot.model_fields.keys()
    return Slot.model_validate({name: slots[0][name] for name in fields & slots[0].keys()}) if slots else None


def _seconds(
    session: Session, spec: TrainSpec, config: ModelConfig, slot: Slot | None, flops: float | None
) -> float | None:
    """By the run of about this shape that ended last on such a slot: its work in a second, evaluations, checkpoints and
    starts included."""
    if flops is None or slot is None:
        return None
    work = flops_per_token(spec, config) * _step_tokens(spec)
    ended = select(Job).where(Job.kind == "train", Job.state == "succeeded", Job.step > 0, Job.plan.is_not(None))
    nearest, rate = math.log(MAX_RATIO), None
    for job in session.scalars(ended.order_by(Job.created_at.desc()).limit(MAX_RUNS)):
        plan, before = job.plan or {}, TrainSpec.model_validate(job.spec)
        same = (plan.get("device_name"), plan.get("threads"), before.precision, before.adapter.kind)
        if same != (slot.device_name, slot.threads, spec.precision, spec.adapter.kind):
            continue
        done = flops_per_token(before, ModelConfig.model_validate(job.config)) * _step_tokens(before)
        if (distance := abs(math.log(work / done))) < nearest:
            nearest, rate = distance, done * job.step / _ran(session, job)
    return None if rate is None else flops / rate


def _ran(session: Session, job: Job) -> float:
    """Seconds that its attempts trained."""
    attempts = select(Attempt).where(Attempt.job_id == job.id, Attempt.stage == "running")
    return max(sum((a.ended_at or a.started_at) - a.started_at for a in session.scalars(attempts)), 1e-3)


def _step_tokens(spec: TrainSpec) -> int:
    return (spec.batch.sequences or 1) * (spec.data.sequence_length or 1) * spec.objective.rows_per_sequence


def _steps(spec: TrainSpec, epoch_tokens: float, step_tokens: int) -> float | None:
    match spec.budget:
        case b if b.steps is not None:
            return float(b.steps)
        case b if b.tokens is not None:
            return float(math.ceil(b.tokens / step_tokens))
        case b if b.epochs is not None:
            return float(max(1, math.ceil(b.epochs * epoch_tokens / step_tokens)))
        case _:
            return None
