"""What a child needs: everything that an attempt's run directory holds before the child starts."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from core.adapters.peft_config import AdapterBase
from core.adapters.spec import LoRA
from core.job_spec import JobSpec, PretrainedModel, TokenizerSpec, TrainSpec, ValidationFile
from core.jobs import registry, store
from core.jobs.registry import Servable
from core.jobs.store import Claim
from core.jobs.tables import Attempt, Checkpoint, Dataset, File, Job
from core.models.config import ModelConfig
from core.objectives.distillation import Distillation
from core.run_dir import INPUTS, PLAN, PREPARATION, SPEC, InputFile, RunDir, RunInputs
from core.storage import Storage
from core.training import plan as planning
from core.training.plan import Plan, Preparation, Slot

PREPARE, TRAIN, TRAIN_TOKENIZER = "core.data.prepare", "core.training.run", "core.data.train_tokenizer"
"""modules that run as programs in a run directory (core/run_dir.py)"""
MAX_KNOWN_DATASETS = 10_000


@dataclass(frozen=True)
class Work:
    """What an attempt has to do, and with what."""

    spec: JobSpec
    program: str
    inputs: RunInputs
    plan: Plan | None = None
    preparation: Preparation | None = None
    seconds_before: float = 0.0
    """that earlier attempts have trained"""

    def write(self, run_dir: RunDir) -> None:
        """Fill the run directory."""
        run_dir.write(SPEC, self.spec)
        run_dir.write(INPUTS, self.inputs)
        if self.plan is not None and self.preparation is not None:
            run_dir.write(PLAN, self.plan)
            run_dir.write(PREPARATION, self.preparation)


def gather(session: Session, storage: Storage, claim: Claim, slot: Slot | None) -> Work:
    """Find the inputs of an attempt; the first one that trains makes the plan, which is then kept.

    Raises:
        NotFound: an input is gone.
        LeaseLost: the attempt is over.
    """
    job = store.held(session, claim)
    spec = store.spec_of(job)
    if isinstance(spec, TokenizerSpec):
        return Work(spec, TRAIN_TOKENIZER, RunInputs(files=_files(session, storage, spec)))
    if claim.stage == "validating":
        return Work(spec, PREPARE, _inputs_to_prepare(session, storage, job, spec))
    assert slot is not None, "the train queue is claimed with a slot in hand"
    preparation = Preparation.model_validate(job.preparation)
    plan = _plan(session, job, spec, preparation, slot)
    store.fix_plan(session, claim, plan.model_dump(mode="json"))
    inputs = _inputs_to_train(session, storage, job, spec, preparation)
    return Work(spec, TRAIN, inputs, obeyed(plan, slot), preparation, _seconds_before(session, claim))


def _seconds_before(session: Session, claim: Claim) -> float:
    query = select(func.sum(Attempt.ended_at - Attempt.started_at)).where(
        Attempt.job_id == claim.job_id, Attempt.stage == "running", Attempt.ended_at.is_not(None)
    )
    return session.scalar(query) or 0.0


def _plan(session: Session, job: Job, spec: TrainSpec, preparation: Preparation, slot: Slot) -> Plan:
    if job.plan is not None:
        return Plan.model_validate(job.plan)
    second = _second_model(session, job, spec)
    config = ModelConfig.model_validate(job.config)
    return planning.plan(spec, config, preparation, slot, reference=second.config if second else None)


def obeyed(plan: Plan, slot: Slot) -> Plan:
    """The plan on another kind of device than it was made for: the same steps and batches, with other bits."""
    if plan.device == slot.device:
        return plan
    attention = "math" if slot.device == "cpu" else "sdpa"
    return plan.model_copy(
        update={"device": slot.device, "device_name": slot.device_name, "attention": attention, "threads": slot.threads}
    )


def _inputs_to_prepare(session: Session, storage: Storage, job: Job, spec: TrainSpec) -> RunInputs:
    held_out = spec.data.validation.file if isinstance(spec.data.validation, ValidationFile) else None
    known = session.scalars(select(Dataset).order_by(Dataset.created_at.desc()).limit(MAX_KNOWN_DATASETS))
    paths = {row.hash: storage.path(row.storage_key) for row in known}
    return RunInputs(
        files=_files(session, storage, spec),
        validation_file=_file(session, storage, held_out, spec) if held_out else None,
        config=ModelConfig.model_validate(job.config),
        tokenizer=_tokenizer(session, storage, job, spec),
        **_reference(session, storage, job, spec),
        datasets={hash: path for hash, path in paths.items() if path.is_dir()},
    )


def _inputs_to_train(
    session: Session, storage: Storage, job: Job, spec: TrainSpec, preparation: Preparation
) -> RunInputs:
    hashes = {*preparation.train, *([preparation.validation] if preparation.validation else [])}
    checkpoint = newest_checkpoint(session, storage, job)
    return RunInputs(
        tokenizer=_tokenizer(session, storage, job, spec),
        config=ModelConfig.model_validate(job.config),
        **_model(session, storage, job, spec),
        **_reference(session, storage, job, spec),
        datasets={hash: storage.directory(dataset_key(hash)) for hash in sorted(hashes)},
        checkpoint=storage.directory(checkpoint.storage_key) if checkpoint else None,
        checkpoint_manifest_sha256=checkpoint.manifest_sha256 if checkpoint else None,
    )


def _reference(session: Session, storage: Storage, job: Job, spec: TrainSpec) -> dict[str, Path]:
    found = _second_model(session, job, spec)
    return {} if found is None else _places(storage, found, model="reference", adapter="reference_adapter")


def _second_model(session: Session, job: Job, spec: TrainSpec) -> Servable | None:
    """What the trained model is compared with: a teacher, or the model that it starts from. A fresh adapter needs none:
    without the adapter, its base is what it started from."""
    if isinstance(spec.objective, Distillation):
        return registry.resolve_model(session, job.project_id, spec.objective.teacher)
    if not spec.objective.needs_reference or not isinstance(spec.model, PretrainedModel):
        return None
    start = registry.resolve_model(session, job.project_id, spec.model.from_)
    return None if isinstance(spec.adapter, LoRA) and start.base is None else start


def _model(session: Session, storage: Storage, job: Job, spec: TrainSpec) -> dict[str, Any]:
    """Where the model to start from lies, and what an adapter stands on."""
    if not isinstance(spec.model, PretrainedModel):
        return {}
    start = registry.resolve_model(session, job.project_id, spec.model.from_)
    found: dict[str, Any] = _places(storage, start, model="model", adapter="adapter")
    if isinstance(spec.adapter, LoRA):
        whole = start.whole
        found["base"] = AdapterBase(
            model=whole.name,
            manifest_sha256=whole.manifest_sha256,
            quantization=spec.adapter.quantization,
            double_quantization=spec.adapter.double_quantization,
        )
    return found


def _places(storage: Storage, found: Servable, *, model: str, adapter: str) -> dict[str, Path]:
    """Where a model's directory lies; of an adapter, its base's and its own."""
    places = {model: storage.directory(f"{found.whole.storage_key}/model")}
    return places if found.base is None else places | {adapter: storage.directory(f"{found.storage_key}/model")}


def newest_checkpoint(session: Session, storage: Storage, job: Job) -> Checkpoint | None:
    """Where the run goes on: the newest checkpoint that still has its bytes."""
    while (checkpoint := session.get(Checkpoint, job.checkpoint_id) if job.checkpoint_id else None) is not None:
        if storage.path(checkpoint.storage_key).is_dir():
            return checkpoint
        registry.reject_newest_checkpoint(session, job, "its files are gone")
    return None


def dataset_key(hash: str) -> str:
    return f"datasets/{hash}"


def _tokenizer(session: Session, storage: Storage, job: Job, spec: TrainSpec) -> Path | None:
    """The folder with the tokenizer; None for the built-in bytes."""
    if isinstance(spec.model, PretrainedModel):
        base = registry.resolve_model(session, job.project_id, spec.model.from_)
        return storage.directory(f"{base.storage_key}/model")
    name = spec.model.tokenizer
    if name == "bytes":
        return None
    return storage.directory(registry.tokenizer_key(session, job.project_id, name))


def _files(session: Session, storage: Storage, spec: JobSpec) -> tuple[InputFile, ...]:
    return tuple(_file(session, storage, source.file, spec) for source in spec.data.train)


def _file(session: Session, storage: Storage, file_id: str, spec: JobSpec) -> InputFile:
    row = session.get_one(File, file_id)
    return InputFile.model_validate(
        {
            "id": row.id,
            "path": storage.file(row.storage_key),
            "filename": row.filename,
            "sha256": row.sha256,
            "format": row.format if spec.data.format == "auto" else spec.data.format,
        }
    )
