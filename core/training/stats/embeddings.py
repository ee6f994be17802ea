"""`EmbeddingStats`: the embeddings of the whole global batch, those of one part with gradients.

Legend: B rows, N examples of the global batch, n those of a part, D width of an embedding, M candidates.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from core.data.batches import RowBatch
from core.loss import EmbeddingStats, ObjectiveSpec
from core.training.stats.forward import Forward
from core.training.stats.labels import pooled
from core.training.stats.whole import Seen


@dataclass(frozen=True)
class Embedded:
    """A lane each, [N, D], and which row of the global batch an example stands in, [N]."""

    lanes: tuple[Tensor, ...]
    row_N: Tensor


def survey(objective: ObjectiveSpec, forward: Forward, batch: RowBatch, micro_batch: int) -> Embedded:
    """All embeddings of the global batch, part by part."""
    parts = [
        embed(forward, batch.rows(slice(first, first + micro_batch), device=forward.device))
        for first in range(0, len(batch), micro_batch)
    ]
    rows_N = (batch.documents_BE >= 0).nonzero()[:, 0]
    return Embedded(tuple(torch.cat(lane) for lane in zip(*parts, strict=True)), rows_N.to(forward.device))


def compute(objective: ObjectiveSpec, forward: Forward, batch: RowBatch, seen: Seen) -> EmbeddingStats:
    found: Embedded = seen.found
    here_N = (found.row_N >= seen.first_row) & (found.row_N < seen.first_row + len(batch))
    anchors_ND, *candidates = (
        all_ND.index_put((here_N,), part_nD) for all_ND, part_nD in zip(found.lanes, embed(forward, batch), strict=True)
    )
    return EmbeddingStats(anchors_ND, torch.cat(candidates), here_N)


def embed(forward: Forward, batch: RowBatch) -> list[Tensor]:
    """[n, D] for each lane."""
    return [pooled(forward, lane, batch) for lane in batch.lanes]
