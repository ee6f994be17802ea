"""`TokenStats`: likelihoods of the learned targets of the last lane; in evaluations also what only people ask for.

Legend: B rows, T positions, N positions that are learned.
"""

from dataclasses import replace

import torch
from torch import Tensor

from core.data.batches import Lane, RowBatch
from core.loss import ObjectiveSpec, TokenObjective, TokenStats
from core.training.stats.forward import Forward


def compute(objective: ObjectiveSpec, forward: Forward, batch: RowBatch) -> TokenStats | None:
    assert isinstance(objective, TokenObjective)
    lane, model = batch.lanes[-1], forward.model
    if not lane.weights_BT.any():
        return None
    hidden_BTD = forward.hidden(
        model,
        lane,
        source=batch.lanes[0] if model.config.kind == "encoder_decoder" else None,
        prefix_BT=prefix_of(lane) if objective.sees_prefix else None,
    )
    evaluates = not model.training
    stats, learned_N = forward.learned(
        model,
        lane,
        hidden_BTD=hidden_BTD,
        with_mean=objective.label_smoothing > 0,
        with_entropy=evaluates,
    )
    return replace(stats, example_N=examples_of(lane, batch)[learned_N]) if evaluates else stats


def prefix_of(lane: Lane) -> Tensor:
    """Positions before which nothing of their segment is learned: [B, T]."""
    learned_BT = (lane.weights_BT > 0).long()
    before_BT = learned_BT.cumsum(1) - learned_BT
    first_BT = torch.arange(lane.ids_BT.shape[1], device=lane.ids_BT.device) - lane.positions_BT
    is_first_BT = before_BT == before_BT.gather(1, first_BT.clamp(min=0))
    return is_first_BT & (lane.segments_BT > 0)


def examples_of(lane: Lane, batch: RowBatch) -> Tensor:
    """A number for the example at each position of the flattened lane; padding has none."""
    rows, most = batch.documents_BE.shape
    first_B = torch.arange(rows, device=lane.segments_BT.device) * most
    return (first_B[:, None] + lane.segments_BT - 1).flatten()
