"""`PairStats`: the log-probabilities of two answers to each prompt, which lie in two lanes.

Legend: B rows, T positions, E examples, N positions that are learned.
"""

import torch
from torch import Tensor

from core.data.batches import Lane, RowBatch
from core.loss import ObjectiveSpec, PairStats
from core.models.transformer import Transformer
from core.training.stats.forward import Forward


def compute(objective: ObjectiveSpec, forward: Forward, batch: RowBatch) -> PairStats | None:
    chosen, rejected = batch.lanes
    there = batch.documents_BE.flatten() >= 0
    sums = [answer_likelihoods(forward, forward.model, lane, batch)[there] for lane in (chosen, rejected)]
    reference = [torch.zeros_like(sum_E) for sum_E in sums]
    with forward.other() as other:
        if other is not None:
            reference = [answer_likelihoods(forward, other, lane, batch)[there] for lane in batch.lanes]
    tokens = [answer_sums(lane, batch, lane.weights_BT.flatten())[there] for lane in (chosen, rejected)]
    return PairStats(*sums, *reference, *tokens)


def answer_likelihoods(forward: Forward, model: Transformer, lane: Lane, batch: RowBatch) -> Tensor:
    """Summed log-probability of each example's learned tokens: [rows x examples of a row], zeros where none is."""
    stats, learned_N = forward.learned(model, lane)
    return answer_sums(lane, batch, stats.logp_N * stats.weight_N, learned_N)


def answer_sums(lane: Lane, batch: RowBatch, values_N: Tensor, at_N: Tensor | None = None) -> Tensor:
    """Sums of what belongs to the positions `at_N` of the flattened lane (default: all), by example."""
    rows, most = batch.documents_BE.shape
    first_BT = torch.arange(rows, device=values_N.device)[:, None] * most
    example_BT = (first_BT + lane.segments_BT - 1).clamp(min=0)  # padding has no value to add
    example_N = example_BT.flatten() if at_N is None else example_BT.flatten()[at_N]
    return values_N.new_zeros(rows * most).index_add(0, example_N, values_N)
