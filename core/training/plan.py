"""What is fixed once, before the first step, so that every later attempt computes the same bits. No torch here.

`Preparation` is what a scan of the data found (written by `core.data.prepare`); `Slot` is what a worker grants;
`Plan` is the pure function of spec, preparation and slot that each attempt obeys.
"""

import math
from importlib.metadata import version
from typing import Literal

from pydantic import Field

from core.job_spec import TrainSpec
from core.models.config import ModelConfig
from core.spec import Spec
from core.training.memory import PROCESS_BYTES, activation_bytes, reference_bytes, rollout_bytes, state_parts

LIKELIHOOD_BYTES = 300 << 20
"""core.training.likelihood: the probabilities that it keeps, and a few chunks"""
CPU_TOKENS = 2048
MAX_MATH_LENGTH = 512
COMPILED_WORK = 3e13
"""floating-point operations of a run from where the half minute that compiling takes is won back"""


class Preparation(Spec):
    """Facts about the prepared data of a train job."""

    train: tuple[str, ...]
    """content hashes of the token datasets, in the order of `data.train`"""
    validation: str | None
    num_rows: int
    """rows of `sequence_length` tokens that one epoch shows, weights applied"""
    num_tokens: int
    """tokens in those rows, padding excluded"""
    num_supervised_tokens: int
    """tokens with a loss weight above 0"""
    num_validation_rows: int
    num_documents: int
    unigram_entropy: float
    """of the training tokens, nats per token: what a model knows that only counts"""
    bytes_per_token: float
    truncated_documents: int = 0
    labels: tuple[str, ...] = ()
    """class or tag names, in the order of the head's outputs"""


class Slot(Spec):
    """A share of one machine that one run may use."""

    device: Literal["cpu", "cuda"]
    device_name: str
    threads: int = Field(ge=1)
    memory_bytes: int = Field(ge=1)
    has_compiler: bool = False
    """a C++ compiler and Python's headers, which torch needs to compile for a CPU"""


class Plan(Spec):
    """Obeyed by every attempt of a job. Two attempts under equal plans compute equal bits (CPU)."""

    total_steps: int | None
    """None: the budget is in seconds"""
    micro_batch: int
    evaluate_every: int | None
    save_every: int
    device: Literal["cpu", "cuda"]
    device_name: str
    threads: int
    precision: Literal["bf16", "fp32"]
    compiled: bool
    attention: Literal["math", "sdpa"]
    torch: str
    parameters: int


def total_steps(spec: TrainSpec, preparation: Preparation) -> int | None:
    """Optimizer steps of the whole run; None where only the clock decides."""
    sequences = spec.batch.sequences or 1
    match spec.budget:
        case b if b.steps is not None:
            return b.steps
        case b if b.epochs is not None:
            return max(1, math.ceil(b.epochs * preparation.num_rows / sequences))
        case b if b.tokens is not None:
            tokens_per_step = sequences * preparation.num_tokens / max(preparation.num_rows, 1)
            return max(1, math.ceil(b.tokens / tokens_per_step))
        case _:
            return None


def plan(
    spec: TrainSpec, model: ModelConfig, preparation: Preparation, slot: Slot, *, reference: ModelConfig | None = None
) -> Plan:
    """Decide everything that touches the bits. `reference`: a second model that is only read."""
    steps = total_steps(spec, preparation)
    tenth = max(1, (steps or 1000) // 10)
    has_validation = preparation.num_validation_rows > 0
    return Plan(
        total_steps=steps,
        micro_batch=micro_batch(spec, model, slot, reference=reference),
        evaluate_every=(spec.evaluation.every or tenth) if has_validation else None,
        save_every=spec.checkpoints.every or tenth,
        device=slot.device,
        device_name=slot.device_name,
        threads=slot.threads,
        precision=spec.precision,
        compiled=is_compiled(spec, model, slot, num_steps=steps),
        attention=attention(slot, spec.data.sequence_length or model.context_length),
        torch=version("torch"),
        parameters=model.num_parameters(),
    )


def is_compiled(spec: TrainSpec, model: ModelConfig, slot: Slot, *, num_steps: int | None) -> bool:
    """Blocks and likelihood become one pass over memory where they were many. It pays in long runs whose rows all have
    one shape: compiled code is made for a shape, and which shapes came first must not touch the bits."""
    if not slot.has_compiler or slot.device != "cpu" or model.kind == "encoder_decoder":
        return False
    if (
        spec.data.packing == "none"
        or spec.objective.explores
        or spec.adapter.kind != "none"
        or (spec.activation_checkpointing)
    ):
        return False
    rows = (num_steps or 0) * (spec.batch.sequences or 1)
    tokens = rows * (spec.data.sequence_length or model.context_length)
    return 6.0 * model.num_parameters() * tokens >= COMPILED_WORK


def micro_batch(spec: TrainSpec, model: ModelConfig, slot: Slot, *, reference: ModelConfig | None = None) -> int:
    """The most sequences whose activations fit beside weights, gradients and optimizer; at most the global batch.

    On a CPU no more than keeps its caches useful: larger ones were not faster. An estimate from shapes, not a probe: it
    must not depend on what is free at the moment.
    """
    sequences = (spec.batch.sequences or 1) * spec.objective.rows_per_sequence
    length = spec.data.sequence_length or model.context_length
    state = sum(state_parts(spec, model).values()) + rollout_bytes(spec, model) + reference_bytes(reference)
    budget = 0.8 * (spec.resources.memory_bytes or slot.memory_bytes) - PROCESS_BYTES - LIKELIHOOD_BYTES - state
    fits = int(budget // activation_bytes(spec, model, attention(slot, length)))
    if slot.device == "cpu":
        fits = min(fits, CPU_TOKENS // (length * len(spec.objective.predicts)))
    return max(1, min(sequences, fits))


def attention(slot: Slot, length: int) -> Literal["math", "sdpa"]:
    """On a CPU, torch's fused kernel pays only for long rows."""
    return "math" if slot.device == "cpu" and length <= MAX_MATH_LENGTH else "sdpa"
