"""What a job will need, from shapes and bytes alone: nothing is read and no token is counted."""

import math

from core.adapters.memory import trained_shapes
from core.adapters.spec import LoRA
from core.job_spec import RandomModel, TrainSpec
from core.jobs.submit import BYTES, Resolved
from core.models.config import ModelConfig
from core.training.plan import state_bytes

BYTES_PER_TOKEN = 4.0
"""of a trained byte-pair encoding on prose"""


def estimate(found: Resolved) -> dict[str, float | None]:
    """Figures of a train job; for other kinds only the size of the data."""
    data_bytes = sum(file.size_bytes for file in found.files)
    spec, config = found.spec, found.config
    if not isinstance(spec, TrainSpec) or config is None:
        return {"data_bytes": float(data_bytes)}
    by_bytes = isinstance(spec.model, RandomModel) and spec.model.tokenizer == BYTES
    sizes = {file.id: file.size_bytes for file in found.files}
    shown_bytes = sum(sizes[source.file] * source.weight for source in spec.data.train)
    epoch_tokens = shown_bytes / (1.0 if by_bytes else BYTES_PER_TOKEN)
    step_tokens = (spec.batch.sequences or 1) * (spec.data.sequence_length or 1)
    steps = _steps(spec, epoch_tokens, step_tokens)
    parameters, trained = config.num_parameters(), trained_parameters(spec, config)
    return {
        "data_bytes": float(data_bytes),
        "epoch_tokens": round(epoch_tokens),
        "step_tokens": float(step_tokens),
        "total_steps": steps,
        "total_tokens": None if steps is None else steps * step_tokens,
        "trained_parameters": float(trained),
        # Forward and backward: 6 floating-point operations per weight and token (Kaplan et al. 2020, arXiv:2001.08361);
        # 4 for a weight that is frozen.
        "flops": None if steps is None else (4.0 * parameters + 2.0 * trained) * steps * step_tokens,
        # Weights, gradients and the optimizer's state; activations come on top.
        "state_bytes": float(state_bytes(spec, config)),
        "checkpoint_bytes": 12.0 * trained,
    }


def trained_parameters(spec: TrainSpec, config: ModelConfig) -> int:
    """How many numbers are trained."""
    if not isinstance(spec.adapter, LoRA):
        return config.num_parameters()
    return sum(map(math.prod, trained_shapes(spec.adapter, config).values()))


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
