"""`ScoreStats`: the scores of two answers to each prompt, which lie in two lanes.

Legend: B rows, E examples of a row, C=1 outputs.
"""

from core.data.batches import RowBatch
from core.loss import ObjectiveSpec, ScoreStats
from core.training.stats.forward import Forward


def compute(objective: ObjectiveSpec, forward: Forward, batch: RowBatch) -> ScoreStats | None:
    there = batch.documents_BE.flatten() >= 0
    most = batch.documents_BE.shape[1]
    scores = []
    for lane in batch.lanes:
        hidden_BTD = forward.hidden(forward.model, lane)
        with forward.autocast(lane):
            score_BEC = forward.model.per_example(hidden_BTD, lane.segments_BT, num_examples=most)
        scores.append(score_BEC.float().flatten()[there])
    return ScoreStats(*scores)
