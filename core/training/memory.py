"""What a run holds in memory, by part and from shapes alone. No torch: the plan, and the api's estimates, count here.

The constants are peak memory as it was measured, in bytes.
"""

import math
from typing import Literal

from core.adapters.memory import frozen_bytes, trained_shapes
from core.adapters.spec import LoRA
from core.job_spec import TrainSpec
from core.models.config import ModelConfig

PROCESS_BYTES = 450 << 20
"""Python, torch, and what the allocator holds back"""
ROLLOUT_SLOTS = 32
"""answers that a model writes at once to learn from them"""
_KEPT_NUMBERS, _CHUNK_BYTES = 1 << 26, 48 << 20
"""of core.training.likelihood: most probabilities that it keeps, and what a chunk takes on the way"""


def state_parts(spec: TrainSpec, model: ModelConfig) -> dict[str, int]:
    """Of the model that is trained: weights, gradients, the optimizer's state and the average are fp32."""
    if isinstance(spec.adapter, LoRA):
        shapes = trained_shapes(spec.adapter, model)
        frozen = frozen_bytes(spec.adapter, model, is_bf16=spec.precision == "bf16")
        trained = sum(map(math.prod, shapes.values()))
    else:
        shapes, frozen, trained = _shapes(model), 0, model.num_parameters()
    return {
        "weights": 4 * trained,
        "frozen_weights": frozen,
        "gradients": 4 * trained,
        "optimizer": spec.optimizer.state_bytes(shapes),
        "average": 0 if spec.optimizer.ema_decay is None else 4 * trained,
    }


def activation_bytes(spec: TrainSpec, model: ModelConfig, attention: Literal["math", "sdpa"]) -> int:
    """Of one row, all its lanes together."""
    length = spec.data.sequence_length or model.context_length
    is_bf16 = spec.precision == "bf16"
    per_layer = (58 if is_bf16 else 84) * model.hidden_size + (8 if is_bf16 else 16) * model.intermediate_size
    kept_layers = 1 if spec.activation_checkpointing else model.num_layers
    per_token = kept_layers * per_layer
    if spec.activation_checkpointing:
        per_token += 4 * model.num_layers * model.hidden_size
    if attention == "math":  # of every layer the softmax is kept; of one, all steps on the way to it
        per_token += model.num_heads * length * (kept_layers * (6 if is_bf16 else 4) + 20)
    return per_token * length * len(spec.objective.predicts)


def likelihood_bytes(spec: TrainSpec, model: ModelConfig, micro_batch: int) -> int:
    """Probabilities of a micro-batch, where they are kept, and chunks of them on the way."""
    if model.head != "language_model":
        return 0
    numbers = micro_batch * (spec.data.sequence_length or model.context_length) * model.vocab_size
    item = 2 if spec.precision == "bf16" else 4
    return _CHUNK_BYTES + (item * numbers if numbers <= _KEPT_NUMBERS else 0)


def rollout_bytes(spec: TrainSpec, model: ModelConfig) -> int:
    """A copy of the model, and the keys and values of the answers that it writes; 0 where it writes none."""
    if not spec.objective.explores:
        return 0
    length, item = spec.data.sequence_length or model.context_length, 2 if spec.precision == "bf16" else 4
    keys_and_values = 2 * model.num_layers * model.num_kv_heads * model.head_dim * length * ROLLOUT_SLOTS
    return item * (model.num_parameters() + keys_and_values)


def reference_bytes(reference: ModelConfig | None) -> int:
    """A second model that is only read."""
    return 4 * reference.num_parameters() if reference else 0


def _shapes(model: ModelConfig) -> dict[str, tuple[int, ...]]:
    """About what there is: the linear layers of the blocks as one, and the rest."""
    rest = model.vocab_size * model.hidden_size * (1 if model.tied_embeddings else 2)
    rows = (model.num_parameters() - rest) // model.hidden_size
    return {"_proj.weight": (rows, model.hidden_size), "rest": (rest // model.hidden_size, model.hidden_size)}
