"""`TokenStats`: likelihoods of the learned targets of the last lane."""

from core.data.batches import RowBatch
from core.loss import ObjectiveSpec, TokenStats
from core.training.stats.forward import Forward


def compute(objective: ObjectiveSpec, forward: Forward, batch: RowBatch) -> TokenStats | None:
    lane = batch.lanes[-1]
    if not lane.weights_BT.any():
        return None
    return forward.learned(forward.model, lane)[0]
