"""`JudgedStats`: log-probabilities of single answers, and the divergence that all of them are measured from.

The divergence is estimated from answers to other prompts: each prompt of the whole batch with the answer that follows
it in the batch (Ethayarajh et al. 2024, arXiv:2402.01306, section 4.1).

Legend: B rows, T positions, E examples, n tokens of one of them.
"""

import torch
from torch import Tensor

from core.data.batches import Lane, RowBatch
from core.loss import JudgedStats, ObjectiveSpec
from core.training.stats.forward import Forward
from core.training.stats.pairs import answer_likelihoods
from core.training.stats.whole import Seen


def compute(objective: ObjectiveSpec, forward: Forward, batch: RowBatch, seen: Seen) -> JudgedStats | None:
    there = batch.documents_BE.flatten() >= 0
    return JudgedStats(
        answer_E=answer_likelihoods(forward, forward.model, batch.lanes[0], batch)[there],
        reference_E=reference_likelihoods(forward, batch)[there],
        good_E=batch.labels_BEC.flatten()[there],
        divergence=seen.found,
    )


def reference_likelihoods(forward: Forward, batch: RowBatch) -> Tensor:
    with forward.other() as other:
        assert other is not None
        return answer_likelihoods(forward, other, batch.lanes[0], batch)


def survey(objective: ObjectiveSpec, forward: Forward, batch: RowBatch, micro_batch: int) -> Tensor:
    """max(0, mean of log p(y' | x) - log q(y' | x)) over the whole batch: []."""
    pairs, device = mismatched(batch), forward.device
    total = torch.zeros((), device=device)
    for start in range(0, len(pairs), micro_batch):
        part = pairs.rows(slice(start, start + micro_batch), device=device)
        answer_E = answer_likelihoods(forward, forward.model, part.lanes[0], part)
        total += (answer_E - reference_likelihoods(forward, part)).sum()
    return (total / max(len(pairs), 1)).clamp(min=0)


def mismatched(batch: RowBatch) -> RowBatch:
    """Each prompt with the answer of the example after it, one a row; what is longer than a row is cut off."""
    prompts, answers = parted(batch.lanes[0])
    if len(prompts) == 1:
        prompts = []  # there is no other answer
    length = batch.lanes[0].ids_BT.shape[1]
    lane = Lane(*(torch.zeros(len(prompts), length, dtype=dtype) for dtype in DTYPES))
    for b, prompt_n in enumerate(prompts):
        answer_n, weights_n = answers[(b + 1) % len(answers)]
        ids_n = torch.cat((prompt_n, answer_n))[: length + 1]
        size, begin = len(ids_n) - 1, len(prompt_n) - 1
        lane.ids_BT[b, :size], lane.targets_BT[b, :size] = ids_n[:-1], ids_n[1:]
        lane.weights_BT[b, begin:size] = weights_n[: size - begin]
        lane.positions_BT[b, :size], lane.segments_BT[b, :size] = torch.arange(size), 1
    return RowBatch((lane,), torch.zeros(len(prompts), 1, 0), torch.arange(len(prompts))[:, None])


DTYPES = (torch.int64, torch.int64, torch.float32, torch.int64, torch.int64)
"""of the tensors of a lane"""


def parted(lane: Lane) -> tuple[list[Tensor], list[tuple[Tensor, Tensor]]]:
    """The prompts of a lane's examples, and their answers with the tokens' weights; an answer begins at the first token
    that is learned."""
    prompts, answers = [], []
    for b, segments_T in enumerate(lane.segments_BT):
        for segment in range(1, int(segments_T.max()) + 1):
            at_T = (segments_T == segment).nonzero()[:, 0]
            ids_n = torch.cat((lane.ids_BT[b, at_T], lane.targets_BT[b, at_T[-1:]]))
            first = int(lane.weights_BT[b, at_T].nonzero()[0])
            prompts.append(ids_n[: first + 1])
            answers.append((ids_n[first + 1 :], lane.weights_BT[b, at_T[first:]]))
    return prompts, answers
