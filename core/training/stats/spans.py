"""`SpanStats`: how likely each place of an example is the first or the last one of the answer.

Legend: B rows, T positions, D hidden size, E examples, P places of an example.
"""

import math

import torch
from torch import Tensor

from core.data.batches import Lane, RowBatch
from core.loss import ObjectiveSpec, SpanStats
from core.training.stats.forward import Forward


def compute(objective: ObjectiveSpec, forward: Forward, batch: RowBatch) -> SpanStats:
    (lane,) = batch.lanes
    logits_BT2 = forward.model.per_token(forward.hidden(forward.model, lane).float())
    there_BE = batch.documents_BE >= 0
    start_E, end_E = batch.labels_BEC[there_BE].long().unbind(-1)
    start_EP, end_EP = (by_example(logits_BT, lane, there_BE) for logits_BT in logits_BT2.unbind(-1))
    return SpanStats(start_EP, end_EP, start_E, end_E)


def by_example(values_BT: Tensor, lane: Lane, there_BE: Tensor) -> Tensor:
    """[E, P]: the values of each example's positions, -inf where its weights are 0 and behind its end."""
    rows, most = there_BE.shape
    allowed_BT = lane.weights_BT > 0
    row_BT = torch.arange(rows, device=values_BT.device)[:, None]
    example_N = (row_BT * most + lane.segments_BT - 1)[allowed_BT]
    places = int(lane.positions_BT.max()) + 1
    out = values_BT.new_full((rows * most, places), -math.inf)
    out = out.index_put((example_N, lane.positions_BT[allowed_BT]), values_BT[allowed_BT])
    return out[there_BE.flatten()]
