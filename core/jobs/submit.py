"""From a request to a job: every name is looked up, every default filled in, and what cannot work is refused now."""

from dataclasses import dataclass
from typing import Any

from sqlalchemy.orm import Session

from core.adapters import targets
from core.adapters.spec import LoRA
from core.data.detection import reads
from core.data.formats import FormatName
from core.data.tokenizer import Tokenizer
from core.errors import InvalidRequest, NotFound
from core.job_spec import (
    JobSpec,
    PretrainedModel,
    RandomModel,
    Source,
    TokenizerSpec,
    TrainSpec,
    ValidationFile,
    check_fit,
)
from core.jobs import files, registry, store
from core.jobs.registry import Servable
from core.jobs.tables import File, Job
from core.models.config import ModelConfig
from core.objectives.distillation import Distillation

BYTES = "bytes"


@dataclass(frozen=True)
class Resolved:
    """A spec in which nothing is left open, and what it stands on."""

    spec: JobSpec
    uses: tuple[str, ...]
    """ids of all that the job reads"""
    files: tuple[File, ...]
    base: Servable | None = None
    config: ModelConfig | None = None

    @property
    def stands_on(self) -> str | None:
        """Of a job that trains an adapter: the whole model beside which it does."""
        has_adapter = isinstance(self.spec, TrainSpec) and isinstance(self.spec.adapter, LoRA)
        return self.base.whole.object_id if has_adapter and self.base else None


def submit(
    session: Session,
    project_id: str,
    spec: JobSpec,
    *,
    job_id: str | None = None,
    request: dict[str, Any] | None = None,
    parent_id: str | None = None,
) -> Job:
    """Create the job. `request`: the façade's own words."""
    found = resolve(session, project_id, spec)
    registry.hold(session, found.uses)
    name = None
    if found.config is not None:
        name = registry.new_model_name(session, project_id, suffix=spec.suffix, base=found.base)
    job = store.insert(
        session,
        project_id=project_id,
        spec=found.spec,
        uses=found.uses,
        base_model=found.base.name if found.base else None,
        model_name=name,
        config=found.config,
        request=request,
        parent_id=parent_id,
        job_id=job_id,
    )
    job.stands_on = found.stands_on
    return job


def resolve(session: Session, project_id: str, spec: JobSpec) -> Resolved:
    """
    Raises:
        InvalidRequest: names the field; codes `file_not_found`, `model_not_found`, `tokenizer_not_found`,
            `wrong_purpose`, `mixed_formats`, `format_mismatch`, `model_mismatch`, `vocabulary_mismatch`,
            `sequence_too_long`; and those of adapters: `adapter_needs_a_model`, `adapter_mismatch`, `unknown_target`,
            `rank_too_high`.
    """
    if isinstance(spec, TokenizerSpec):
        sources = _files(session, project_id, spec.data.train)
        format = _format(sources, spec.data.format)
        return Resolved(spec.resolved(format=format), tuple(file.id for file in sources), tuple(sources))
    return _resolve_train(session, project_id, spec)


def _resolve_train(session: Session, project_id: str, spec: TrainSpec) -> Resolved:
    sources = _files(session, project_id, spec.data.train)
    format = _format(sources, spec.data.format)
    if isinstance(spec.data.validation, ValidationFile):
        held_out = _file(session, project_id, spec.data.validation.file, "data.validation.file")
        _check_format(held_out, format, "data.validation.file")
        sources.append(held_out)
    try:
        check_fit(spec.objective.kind, format)
    except ValueError as error:
        raise InvalidRequest(f"{error}.", code="format_mismatch", param="objective.kind") from None
    base: Servable | None = None
    if isinstance(spec.model, PretrainedModel):
        base = _model(session, project_id, spec.model.from_, "model.from")
        config, used = base.config, [*base.uses]
        spec = _with_adapter(_with_model(spec, {"from_": base.name}), base)
    else:
        spec, vocab_size, used = _resolve_tokenizer(session, project_id, spec, spec.model)
        assert isinstance(spec.model, RandomModel)
        config = spec.model.shape(vocab_size=vocab_size)
    config = _with_head(spec, config)
    spec, teachers = _with_teacher(session, project_id, spec, config)
    try:
        resolved = spec.resolved(config, format=format)
    except ValueError as error:
        raise InvalidRequest(f"{error}.", code="sequence_too_long", param="data.sequence_length") from None
    uses = (*used, *teachers, *(file.id for file in sources))
    return Resolved(resolved, tuple(dict.fromkeys(uses)), tuple(sources), base, config)


def _with_head(spec: TrainSpec, config: ModelConfig) -> ModelConfig:
    """The model as the objective needs it: another head than it has comes without names for its outputs."""
    objective = spec.objective
    if config.kind not in objective.models:
        raise InvalidRequest(
            f"Objective {objective.kind!r} trains {_kinds(objective.models)}; this model is {_kinds((config.kind,))}.",
            code="model_mismatch",
            param="objective.kind",
            hint="GET /v1/catalog lists the families of models and what each objective trains.",
        )
    if objective.needs_reference and isinstance(spec.model, RandomModel):
        raise InvalidRequest(
            f"Objective {objective.kind!r} compares with the model that it starts from; random weights are none.",
            code="model_mismatch",
            param="model.init",
            hint='Start from a finished model: {"init": "pretrained", "from": …}.',
        )
    wanted = (objective.head, objective.many_labels, objective.next_sentence_head)
    if (config.head, config.many_labels, config.next_sentence) == wanted:
        return config
    if objective.needs_reference:
        raise InvalidRequest(
            f"Objective {objective.kind!r} compares with the model that it starts from, which needs the head "
            f"{objective.head!r}; this one has {config.head!r}.",
            code="model_mismatch",
            param="model.from",
            hint="Start from the model that this one was made from.",
        )
    try:
        return config.with_head(
            objective.head, many_labels=objective.many_labels, next_sentence=objective.next_sentence_head
        )
    except ValueError as error:
        raise InvalidRequest(f"{error}.", code="model_mismatch", param="objective.kind") from None


def _with_teacher(
    session: Session, project_id: str, spec: TrainSpec, config: ModelConfig
) -> tuple[TrainSpec, tuple[str, ...]]:
    """The spec with the teacher's resolved name, and what the job must hold for it.

    That the teacher means the same by every id is seen when the data is prepared; here, that it can.
    """
    if not isinstance(spec.objective, Distillation):
        return spec, ()
    param = "objective.teacher"
    teacher = _model(session, project_id, spec.objective.teacher, param)
    if (teacher.config.kind, teacher.config.head) != ("decoder", "language_model"):
        raise InvalidRequest(
            f"The teacher {teacher.name!r} does not predict next tokens: it is {_kinds((teacher.config.kind,))} "
            f"with the head {teacher.config.head!r}.",
            code="model_mismatch",
            param=param,
            hint="Name a language model that is a decoder.",
        )
    if teacher.config.vocab_size != config.vocab_size:
        raise InvalidRequest(
            f"The teacher {teacher.name!r} has {teacher.config.vocab_size} tokens, the model has {config.vocab_size}; "
            "they must have the same vocabulary.",
            code="vocabulary_mismatch",
            param=param,
            hint='Start from random weights with the teacher\'s tokenizer ({"tokenizer": teacher}), or from a model of '
            "its family.",
        )
    length = spec.data.sequence_length or min(config.context_length, 512)
    if teacher.config.context_length < length:
        raise InvalidRequest(
            f"The teacher {teacher.name!r} reads {teacher.config.context_length} tokens, but rows have {length}.",
            code="sequence_too_long",
            param="data.sequence_length",
            hint=f"Give data.sequence_length at most {teacher.config.context_length}.",
        )
    objective = spec.objective.model_copy(update={"teacher": teacher.name})
    return spec.model_copy(update={"objective": objective}), teacher.uses


def _kinds(kinds: tuple[str, ...]) -> str:
    names = {"decoder": "a decoder", "encoder": "an encoder", "encoder_decoder": "an encoder-decoder"}
    return " or ".join(names[kind] for kind in kinds)


def _resolve_tokenizer(
    session: Session, project_id: str, spec: TrainSpec, model: RandomModel
) -> tuple[TrainSpec, int, list[str]]:
    """The spec with the tokenizer's resolved name, how many ids it knows, and what the job must hold for it."""
    if model.tokenizer == BYTES:
        return spec, Tokenizer.bytes().vocab_size, []
    try:
        row = registry.get_tokenizer(session, project_id, model.tokenizer)
        return spec, row.vocab_size, [row.id]
    except NotFound as no_tokenizer:
        try:
            donor = registry.resolve_model(session, project_id, model.tokenizer)
        except NotFound:
            raise InvalidRequest(
                f"No tokenizer and no model {model.tokenizer!r} in this project.",
                code=no_tokenizer.code,
                param="model.tokenizer",
                hint="Train one with a job of kind `tokenizer`, name a model to take its tokenizer, or give `bytes`.",
            ) from None
    return _with_model(spec, {"tokenizer": donor.name}), donor.config.vocab_size, [donor.object_id]


def _with_model(spec: TrainSpec, changed: dict[str, str]) -> TrainSpec:
    return spec.model_copy(update={"model": spec.model.model_copy(update=changed)})


def _with_adapter(spec: TrainSpec, base: Servable) -> TrainSpec:
    """Where the base is an adapter itself, a LoRA job goes on with that one."""
    if not isinstance(spec.adapter, LoRA) or base.adapter is None:
        return spec
    return spec.model_copy(update={"adapter": targets.continued(spec.adapter, base.adapter, base.config)})


def _model(session: Session, project_id: str, name: str, param: str) -> Servable:
    try:
        return registry.resolve_model(session, project_id, name)
    except NotFound as error:
        raise InvalidRequest(error.message, code=error.code, param=param, hint=error.hint) from None


def _files(session: Session, project_id: str, sources: tuple[Source, ...]) -> list[File]:
    return [_file(session, project_id, source.file, f"data.train.{i}.file") for i, source in enumerate(sources)]


def _file(session: Session, project_id: str, file_id: str, param: str) -> File:
    try:
        row = files.get(session, project_id, file_id)
    except NotFound as error:
        raise InvalidRequest(error.message, code=error.code, param=param, hint=error.hint) from None
    if row.purpose != "fine-tune" or row.format is None:
        raise InvalidRequest(
            f"File {file_id!r} was uploaded with purpose {row.purpose!r}, so it was not checked for training.",
            code="wrong_purpose",
            param=param,
            hint="Upload it again with purpose `fine-tune`.",
        )
    return row


def _format(sources: list[File], wanted: str) -> FormatName:
    """The one format of all files."""
    first: FormatName = sources[0].format if wanted == "auto" else wanted  # type: ignore[assignment]
    for i, file in enumerate(sources):
        _check_format(file, first, f"data.train.{i}.file")
    return first


def _check_format(file: File, format: FormatName, param: str) -> None:
    if not reads(format, file.format):  # type: ignore[arg-type]
        raise InvalidRequest(
            f"File {file.id!r} ({file.filename}) holds data of format {file.format!r}, but {format!r} is needed here.",
            code="mixed_formats",
            param=param,
            hint="All files of a job have one format; leave `data.format` at `auto` to take that of the files.",
        )
