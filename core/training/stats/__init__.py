"""From a batch to what an objective reads. One file for each kind of stats; this dict is the list."""

from collections.abc import Callable
from typing import Any

from core.data.batches import RowBatch
from core.loss import ObjectiveSpec, PairStats, Stats, TokenStats
from core.training.stats import pairs, tokens
from core.training.stats.forward import Forward

Compute = Callable[[ObjectiveSpec, Forward, RowBatch], Stats | None]
STATS: dict[type, Compute] = {
    TokenStats: tokens.compute,
    PairStats: pairs.compute,
}

__all__ = ["Forward", "stats_of"]


def stats_of(objective: ObjectiveSpec, forward: Forward, batch: RowBatch) -> Any:
    """What `objective` reads (`objective.reads`); None where nothing in the batch is to be learned.

    `batch` lies on the model's device.
    """
    return STATS[objective.reads](objective, forward, batch)
