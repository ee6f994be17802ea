"""`TagStats`: what the head says of each word, and what the tags' names say of chunks.

Legend: B rows, T positions, D hidden size, N words, C tags.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from core.data.batches import RowBatch
from core.data.chunks import read_tag
from core.loss import ObjectiveSpec, TagStats
from core.training.stats.forward import Forward


def compute(objective: ObjectiveSpec, forward: Forward, batch: RowBatch) -> TagStats | None:
    (lane,) = batch.lanes
    words_N = lane.weights_BT.flatten().nonzero()[:, 0]
    if not len(words_N):
        return None
    hidden_BTD = forward.hidden(forward.model, lane)
    logits_NC = forward.model.per_token(hidden_BTD.flatten(0, 1)[words_N].float())
    row_BT = torch.arange(len(lane.segments_BT), device=words_N.device)[:, None]
    example_BT = row_BT * (batch.documents_BE.shape[1] + 1) + lane.segments_BT
    tags_N, example_N = lane.targets_BT.flatten()[words_N], example_BT.flatten()[words_N]
    return TagStats(logits_NC, tags_N, example_N, *chunk_kinds(forward.model.config.labels, words_N.device))


def chunk_kinds(labels: Sequence[str], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """`kind_C`, `opens_C` and `closes_C` of `TagStats`."""
    tags = [read_tag(label, labels) for label in labels]
    kinds = sorted({tag.kind for tag in tags if tag.kind is not None})
    numbers = [-1 if tag.kind is None else kinds.index(tag.kind) for tag in tags]
    opens, closes = [tag.opens for tag in tags], [tag.closes for tag in tags]
    return (
        torch.tensor(numbers, device=device),
        torch.tensor(opens, dtype=torch.bool, device=device),
        torch.tensor(closes, dtype=torch.bool, device=device),
    )
