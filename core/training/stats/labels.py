"""`LabelStats`: what the head says of each example.

Legend: B rows, E examples (of a row in [B, E], else of the micro-batch), C outputs, D width of an embedding.
"""

from torch import Tensor

from core.data.batches import Lane, RowBatch
from core.loss import LabelStats, ObjectiveSpec
from core.training.stats.forward import Forward


def compute(objective: ObjectiveSpec, forward: Forward, batch: RowBatch) -> LabelStats:
    there_BE = batch.documents_BE >= 0
    return LabelStats(pooled(forward, batch.lanes[0], batch), batch.labels_BEC[there_BE])


def pooled(forward: Forward, lane: Lane, batch: RowBatch) -> Tensor:
    """The head's outputs for the examples of a lane, [E, C], in the order of the rows; fp32, the head's own too."""
    hidden_BTD = forward.hidden(forward.model, lane)
    most = batch.documents_BE.shape[1]
    out_BEC: Tensor = forward.model.per_example(hidden_BTD.float(), lane.segments_BT, num_examples=most)
    return out_BEC[batch.documents_BE.to(out_BEC.device) >= 0]
