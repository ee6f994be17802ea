"""What a run reports, one JSON object per line of `events.jsonl`: written by the child process that does the work,
read by the supervisor that watches it, stored by `core.jobs.journal`, streamed to people. One class all the way."""

from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from core.spec import Spec

Phase = Literal["reading", "tokenizing", "loading", "compiling", "training", "evaluating", "saving", "exporting"]


class Started(Spec):
    """The child has read its inputs and begins."""

    kind: Literal["started"] = "started"
    step: int = 0
    total_steps: int | None = None
    parameters: int | None = None
    device: str | None = None


class Entered(Spec):
    """The job's phase changed. For people; decides nothing."""

    kind: Literal["entered"] = "entered"
    phase: Phase


class Progressed(Spec):
    """Work that has no steps (reading, tokenizing) moved on."""

    kind: Literal["progressed"] = "progressed"
    fraction: float = Field(ge=0.0, le=1.0)
    message: str = ""


class Prepared(Spec):
    """Validation is done: what the data amounts to. `datasets` are finished directories below the run directory."""

    kind: Literal["prepared"] = "prepared"
    datasets: dict[str, str]
    """content hash -> path relative to the run directory; reused ones are not listed"""
    facts: dict[str, object]
    """the `Preparation` (core/training/plan.py) of a train job; statistics of a tokenizer job"""


class Step(Spec):
    """One optimizer step."""

    kind: Literal["step"] = "step"
    step: int
    loss: float
    """the objective's sum over its count, over the global batch; nats per token for likelihoods"""
    learning_rate: float
    grad_norm: float
    tokens: int
    """tokens seen since step 0, padding excluded"""
    tokens_per_second: float
    seconds: float
    """wall time of this step"""
    metrics: dict[str, float] = Field(default_factory=dict)

    @property
    def series(self) -> dict[str, float]:
        """Its numbers by the names that they have outside."""
        return {
            "train_loss": self.loss,
            "learning_rate": self.learning_rate,
            "grad_norm": self.grad_norm,
            "tokens_per_second": self.tokens_per_second,
            **{f"train_{name}": value for name, value in self.metrics.items()},
        }


class Evaluated(Spec):
    """A pass over the validation data after `step` steps: names are `validation_loss`, `validation_perplexity`, …"""

    kind: Literal["evaluated"] = "evaluated"
    step: int
    metrics: dict[str, float]


class Sampled(Spec):
    """Text that the model wrote after `step` steps."""

    kind: Literal["sampled"] = "sampled"
    step: int
    prompt: str
    text: str


class Saved(Spec):
    """A complete checkpoint lies on local scratch; it exists for others once the supervisor has committed it."""

    kind: Literal["saved"] = "saved"
    step: int
    path: str
    """relative to the run directory"""
    manifest_sha256: str
    size_bytes: int
    metrics: dict[str, float] = Field(default_factory=dict)
    best: bool = False
    """best validation loss so far"""
    reason: Literal["scheduled", "best", "final", "interrupted"] = "scheduled"


class Warned(Spec):
    """Something a person should know; the run goes on."""

    kind: Literal["warned"] = "warned"
    code: str
    message: str


class Resumed(Spec):
    """The run continues from a checkpoint. `exact`: same plan, same bits; `state`: same state, other arithmetic."""

    kind: Literal["resumed"] = "resumed"
    step: int
    exactness: Literal["exact", "state"] = "exact"


class Finished(Spec):
    """The work is over and its result lies at `path`. `interrupted`: stopped on request after saving, not done."""

    kind: Literal["finished"] = "finished"
    step: int = 0
    reason: Literal["completed", "early_stopped", "target_reached", "interrupted"] = "completed"
    path: str | None = None
    """directory of the result, relative to the run directory (a model's checkpoint, a tokenizer)"""
    tokens: int = 0
    metrics: dict[str, float] = Field(default_factory=dict)


class Failed(Spec):
    """The child's last word when it could not go on. No last word at all means it was killed."""

    kind: Literal["failed"] = "failed"
    code: str
    message: str
    hint: str | None = None
    param: str | None = None
    retryable: bool = False
    trace_tail: str = ""


Event = Annotated[
    Started
    | Entered
    | Progressed
    | Prepared
    | Step
    | Evaluated
    | Sampled
    | Saved
    | Warned
    | Resumed
    | Finished
    | Failed,
    Field(discriminator="kind"),
]
_EVENT: TypeAdapter[Event] = TypeAdapter(Event)


def parse_event(line: str | bytes) -> Event:
    """Read one line of `events.jsonl`."""
    return _EVENT.validate_json(line)
