"""`JobSpec`: the one schema of a job, the same class in the request, in the database, in `spec.json` and in the loop.

What is None here is a default that depends on the model or the data. `resolved()` fills in, at submit and once, all
that depends on the model; what needs a scan of the data (total steps, intervals) is fixed in the `Plan`.
"""

from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, TypeAdapter, field_validator, model_validator

from core.adapters import targets
from core.adapters.spec import LEARNING_RATE_FACTOR, Adapter, LoRA, NoAdapter
from core.data.detection import reads
from core.data.formats import FORMATS, FormatName
from core.errors import InvalidRequest
from core.models import families
from core.models.config import Dimensions, FamilyName, ModelConfig
from core.objectives import OBJECTIVES, Objective
from core.objectives.causal_lm import CausalLM
from core.optimizers import AdamW, Muon, Optimizer, default_learning_rate
from core.schedules import Cosine, Schedule
from core.spec import Spec

Suffix = Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]*$")]
MetadataKey = Annotated[str, StringConstraints(min_length=1, max_length=64)]
MetadataValue = Annotated[str, StringConstraints(max_length=512)]
Metadata = Annotated[dict[MetadataKey, MetadataValue], Field(max_length=16)]
Reference = Annotated[str, StringConstraints(min_length=1, max_length=256)]
Precision = Literal["bf16", "fp32"]


class Source(Spec):
    """One source of examples and how often an epoch shows it: 2.0 twice, 0.5 a fresh half."""

    file: Reference
    weight: float = Field(default=1.0, gt=0.0, le=100.0)


class ValidationFraction(Spec):
    """Hold out this part of the training documents, the same ones for the same seed."""

    fraction: float = Field(gt=0.0, le=0.5)


class ValidationFile(Spec):
    """Validate on a file of its own."""

    file: Reference


class Data(Spec):
    train: Annotated[tuple[Source, ...], Field(min_length=1, max_length=64)]
    validation: ValidationFraction | ValidationFile | None = None
    format: Literal["auto"] | FormatName = "auto"
    sequence_length: int | None = Field(default=None, ge=8, le=1_048_576, description="tokens of a training row")
    packing: Literal["documents", "none"] = Field(
        default="documents",
        description="documents: several share a row and cannot see each other; none: one a row, padded",
    )


class RandomModel(Spec):
    """Start from random weights: a preset or dimensions, and a tokenizer."""

    init: Literal["random"] = "random"
    family: FamilyName = "llama"
    preset: str | None = None
    dimensions: Dimensions | None = None
    tokenizer: Reference = Field(description="a tokenizer's id, a model whose tokenizer is taken, or `bytes`")
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)

    @model_validator(mode="after")
    def _preset_or_dimensions(self) -> Self:
        if (self.preset is None) == (self.dimensions is None):
            raise ValueError("give either `preset` or `dimensions`, and not both")
        presets = families.FAMILIES[self.family].PRESETS
        if self.preset is not None and self.preset not in presets:
            raise ValueError(
                f"preset {self.preset!r} is unknown; the presets of {self.family} are {', '.join(presets)}"
            )
        if self.dimensions is not None:
            families.check_dimensions(self.family, self.dimensions)
        return self

    def shape(self, *, vocab_size: int) -> ModelConfig:
        """The model's configuration once the tokenizer is known."""
        dims = self.dimensions or families.FAMILIES[self.family].PRESETS[self.preset or ""]
        return families.shape(self.family, dims, vocab_size=vocab_size)


class PretrainedModel(Spec):
    """Start from a finished or imported model, or from a checkpoint (`…:ckpt-step-n`)."""

    init: Literal["pretrained"] = "pretrained"
    from_: Reference = Field(alias="from")
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)


Model = Annotated[RandomModel | PretrainedModel, Field(discriminator="init")]


class Budget(Spec):
    """How long to train: exactly one of these. A budget in seconds is outside the promise of bit-exact resume."""

    steps: int | None = Field(default=None, ge=1, le=100_000_000)
    tokens: int | None = Field(default=None, ge=1)
    epochs: float | None = Field(default=None, gt=0.0, le=10_000.0)
    seconds: float | None = Field(default=None, gt=0.0)

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        given = [name for name in type(self).model_fields if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"give exactly one of steps, tokens, epochs, seconds; got {', '.join(given) or 'none'}")
        return self


class Batch(Spec):
    """Global batch, in sequences; the micro-batch is found, not asked."""

    sequences: int | None = Field(default=None, ge=1, le=65536)


class Evaluation(Spec):
    every: int | None = Field(default=None, ge=1, description="steps; default: a tenth of the run")
    metrics: tuple[str, ...] | None = Field(
        default=None, min_length=1, description="default: all that the objective has"
    )
    samples: int = Field(default=2, ge=0, le=16, description="texts written at each evaluation")


class Stop(Spec):
    """End early: when `metric` has not improved for `patience` evaluations, or has reached `target`."""

    metric: str = Field(default="validation_loss", pattern="^validation_")
    patience: int | None = Field(default=None, ge=1)
    min_delta: float = Field(default=0.0, ge=0.0)
    target: float | None = None

    @model_validator(mode="after")
    def _one_reason(self) -> Self:
        if self.patience is None and self.target is None:
            raise ValueError("give `patience` or `target`, or both")
        return self


class Checkpoints(Spec):
    every: int | None = Field(default=None, ge=1, description="steps; default: a tenth of the run")
    keep: int = Field(default=3, ge=1, le=1000)
    keep_best: bool = True


class Resources(Spec):
    gpus: Literal["auto"] | Annotated[int, Field(ge=0, le=1)] = "auto"
    nodes: Literal[1] = 1
    memory_bytes: int | None = Field(default=None, ge=1, description="what the run may use; default: the slot's share")
    max_runtime_seconds: float | None = Field(default=None, gt=0.0)


class TrainSpec(Spec):
    """Pretraining and fine-tuning."""

    version: Literal[1] = 1
    kind: Literal["train"] = "train"
    suffix: Suffix | None = None
    seed: int = Field(default=0, ge=0, le=2**31 - 1)
    priority: int = Field(default=0, ge=-100, le=100)
    metadata: Metadata = Field(default_factory=dict)
    model: Model
    adapter: Adapter = NoAdapter()
    data: Data
    objective: Objective = CausalLM()
    optimizer: Optimizer = AdamW()
    schedule: Schedule = Cosine()
    budget: Budget = Budget(epochs=1)
    batch: Batch = Batch()
    precision: Precision = "bf16"
    activation_checkpointing: bool = Field(
        default=False,
        description="keep only what goes into each block and compute the rest again on the way back: the same bits, a "
        "third more work, a fraction of the memory; turned on by itself where a single row does not fit",
    )
    evaluation: Evaluation = Evaluation()
    stop: Stop | None = None
    checkpoints: Checkpoints = Checkpoints()
    resources: Resources = Resources()

    @field_validator("optimizer", mode="before")
    @classmethod
    def _adamw_unless_said(cls, value: object) -> object:
        return {"kind": "adamw", **value} if isinstance(value, dict) else value

    @model_validator(mode="after")
    def _fits_objective(self) -> Self:
        if self.data.format != "auto":
            check_fit(self.objective.kind, self.data.format)
        if self.stop is not None and self.data.validation is None:
            raise ValueError(f"`stop` watches {self.stop.metric}, but `data.validation` is not given; give it")
        if self.objective.explores and self.budget.tokens is not None:
            raise ValueError(
                "how many tokens the model will write is not known; give `budget` steps, epochs or seconds"
            )
        if isinstance(self.optimizer, Muon) and isinstance(self.adapter, LoRA):
            raise ValueError(
                "optimizer 'muon' is for whole matrices of blocks, of which an adapter trains none: each step would be "
                "AdamW's; give `optimizer.kind` 'adamw'"
            )
        watched = [self.stop.metric.removeprefix("validation_")] if self.stop else []
        if unknown := {*(self.evaluation.metrics or ()), *watched} - {*self.objective.metrics}:
            raise ValueError(
                f"objective {self.objective.kind!r} has no metric {', '.join(sorted(unknown))}; "
                f"it has {', '.join(self.objective.metrics)}"
            )
        return self

    def resolved(self, model: ModelConfig, *, format: FormatName) -> "TrainSpec":
        """Fill in every default that depends on the model, and the detected format.

        Raises:
            ValueError: the format does not fit the objective, or the sequence is longer than the model's context.
            InvalidRequest: the adapter does not fit the model.
        """
        check_fit(self.objective.kind, format)
        length = self.data.sequence_length or min(model.context_length, 512)
        if length > model.context_length:
            raise ValueError(
                f"data.sequence_length {length} is longer than the model's context of {model.context_length} tokens; "
                f"give at most {model.context_length}"
            )
        pretrained = isinstance(self.model, PretrainedModel)
        packing = "none" if self.objective.explores else self.data.packing  # a row of the batch is a prompt
        changed = {"format": format, "sequence_length": length, "packing": packing}
        return self.model_copy(
            update={
                "data": self.data.model_copy(update=changed),
                "adapter": self._resolved_adapter(model),
                "optimizer": self.optimizer.model_copy(
                    update={
                        "learning_rate": self.optimizer.learning_rate
                        or default_learning_rate(
                            model.num_parameters(),
                            pretrained=pretrained,
                            optimizer=type(self.optimizer),
                            factor=self.objective.relative_rate
                            * (1.0 if self.adapter.kind == "none" else LEARNING_RATE_FACTOR),
                        )
                    }
                ),
                "batch": Batch(sequences=self.batch.sequences or (8 if pretrained else 32)),
            }
        )

    def _resolved_adapter(self, model: ModelConfig) -> Adapter:
        if not isinstance(self.adapter, LoRA):
            return self.adapter
        if isinstance(self.model, RandomModel):
            raise InvalidRequest(
                "An adapter stands beside weights that have learned something; random ones are trained as a whole.",
                code="adapter_needs_a_model",
                param="adapter.kind",
                hint='Start from a finished model ({"init": "pretrained", "from": …}), or leave `adapter` out.',
            )
        return targets.resolved(self.adapter, model)


def check_fit(objective: str, format: FormatName) -> None:
    """Refuse data whose format does not yield what the objective consumes."""
    consumes = OBJECTIVES[objective].consumes
    if FORMATS[format].yields not in consumes:
        fitting = [name for name, known in FORMATS.items() if known.yields in consumes]
        way_out = next((f"; or say `data.format`: {name!r}" for name in fitting if reads(name, format)), "")
        raise ValueError(
            f"objective {objective!r} cannot learn from data in format {format!r}; "
            f"it takes {' or '.join(fitting)}: change `objective.kind` or the file{way_out}"
        )


class TokenizerData(Spec):
    train: Annotated[tuple[Source, ...], Field(min_length=1, max_length=64)]
    format: Literal["auto"] | FormatName = "auto"


class TokenizerSpec(Spec):
    """Train a byte-level BPE tokenizer (Sennrich et al. 2016, arXiv:1508.07909)."""

    version: Literal[1] = 1
    kind: Literal["tokenizer"] = "tokenizer"
    suffix: Suffix | None = None
    seed: int = Field(default=0, ge=0, le=2**31 - 1)
    priority: int = Field(default=0, ge=-100, le=100)
    metadata: Metadata = Field(default_factory=dict)
    algorithm: Literal["bpe"] = "bpe"
    vocab_size: int = Field(default=8192, ge=512, le=262_144)
    data: TokenizerData

    def resolved(self, *, format: FormatName) -> "TokenizerSpec":
        """Store the detected format."""
        return self.model_copy(update={"data": self.data.model_copy(update={"format": format})})


JobSpec = Annotated[TrainSpec | TokenizerSpec, Field(discriminator="kind")]
JOB_SPEC: TypeAdapter[JobSpec] = TypeAdapter(JobSpec)
