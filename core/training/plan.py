"""What is fixed once, before the first step, so that every later attempt computes the same bits. No torch here.

`Preparation` is what a scan of the data found (written by `core.data.prepare`); `Slot` is what a worker grants;
`Plan` is the pure function of spec, preparation and slot that each attempt obeys.
"""

import math
from importlib.metadata import version
from typing import Literal

from pydantic import Field

from core.adapters.memory import frozen_bytes, trained_shapes
from core.adapters.spec import LoRA
from core.job_spec import TrainSpec
from core.models.config import ModelConfig
from core.spec import Spec

PROCESS_BYTES = 450 << 20
"""Python, torch, and what the allocator holds back"""
LIKELIHOOD_BYTES = 300 << 20
"""core.training.likelihood: the probabilities that it keeps, and a few chunks"""
CPU_TOKENS = 2048
MAX_MATH_LENGTH = 512
ROLLOUT_SLOTS = 32
"""answers that a model writes at once to learn from them"""


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
        compiled=False,
        attention=attention(slot, spec.data.sequence_length or model.context_length),
        torch=version("torch"),
        parameters=model.num_parameters(),
    )


def micro_batch(spec: TrainSpec, model: ModelConfig, slot: Slot, *, reference: ModelConfig | None = None) -> int:
    """The most sequences whose activations fit beside weights, gradients and optimizer; at most the global batch.

    On a CPU no more than keeps its caches useful: larger ones were not faster. An estimate from shapes, not a probe: it
    must not depend on what is free at the moment. Its constants are peak memory as it was measured, in bytes.
    """
    sequences = (spec.batch.sequences or 1) * spec.objective.rows_per_sequence
    length = spec.data.sequence_length or model.context_length
    lanes = len(spec.objective.predicts)
    is_bf16 = spec.precision == "bf16"
    per_layer = (58 if is_bf16 else 84) * model.hidden_size + (8 if is_bf16 else 16) * model.intermediate_size
    kept_layers = 1 if spec.activation_checkpointing else model.num_layers
    per_token = kept_layers * per_layer
    if spec.activation_checkpointing:
        per_token += 4 * model.num_layers * model.hidden_size
    if attention(slot, length) == "math":  # of every layer the softmax is kept; of one, all steps on the way to it
        scores = model.num_heads * length
        per_token += scores * (kept_layers * (6 if is_bf16 else 4) + 20)
    state = state_bytes(spec, model)
    fixed = PROCESS_BYTES + LIKELIHOOD_BYTES + state + 4 * (reference.num_parameters() if reference else 0)
    if spec.objective.explores:
        fixed += _rollout_bytes(model, length, item_bytes=2 if is_bf16 else 4)
    budget = 0.8 * (spec.resources.memory_bytes or slot.memory_bytes) - fixed
    fits = int(budget // (per_token * length * lanes))
    if slot.device == "cpu":
        fits = min(fits, CPU_TOKENS // (length * lanes))
    return max(1, min(sequences, fits))


def state_bytes(spec: TrainSpec, model: ModelConfig) -> int:
    """Weights, gradients, the average of weights and the optimizer's state; what is trained is fp32."""
    per_trained = 8 if spec.optimizer.ema_decay is None else 12
    if not isinstance(spec.adapter, LoRA):
        return per_trained * model.num_parameters() + spec.optimizer.state_bytes(_shapes(model))
    trained = trained_shapes(spec.adapter, model)
    frozen = frozen_bytes(spec.adapter, model, is_bf16=spec.precision == "bf16")
    return frozen + per_trained * sum(map(math.prod, trained.values())) + spec.optimizer.state_bytes(trained)


def _rollout_bytes(model: ModelConfig, length: int, *, item_bytes: int) -> int:
    """A copy of the model, and the keys and values of the answers that it writes."""
    keys_and_values = 2 * model.num_layers * model.num_kv_heads * model.head_dim * length * ROLLOUT_SLOTS
    return item_bytes * (model.num_parameters() + keys_and_values)


def _shapes(model: ModelConfig) -> dict[str, tuple[int, ...]]:
    """About what there is: the linear layers of the blocks as one, and the rest."""
    rest = model.vocab_size * model.hidden_size * (1 if model.tied_embeddings else 2)
    rows = (model.num_parameters() - rest) // model.hidden_size
    return {"_proj.weight": (rows, model.hidden_size), "rest": (rest // model.hidden_size, model.hidden_size)}


def attention(slot: Slot, length: int) -> Literal["math", "sdpa"]:
    """On a CPU, torch's fused kernel pays only for long rows."""
    return "math" if slot.device == "cpu" and length <= MAX_MATH_LENGTH else "sdpa"
