"""Extractive question answering: where in a text the answer to a question stands.

    L = - 1/2 (log q_start(i) + log q_end(j))

q_start and q_end are softmaxes over the places of one window: its text, and its very first token, which stands for
"the answer is not here" (Devlin et al. 2019, arXiv:1810.04805, sections 4.2 and 4.3). A text that is too long for a row
becomes several windows that overlap, each an example of its own. The metrics compare places, by window: exact match
where both ends are right, F1 by the tokens that both spans share (Rajpurkar et al. 2016, arXiv:1606.05250, section 6.1,
compare words instead).
"""

from typing import TYPE_CHECKING, ClassVar, Literal

from core.data.examples import Question
from core.data.packing import SAME, Predicts
from core.loss import Loss, ObjectiveSpec, SpanStats
from core.models.config import Head, Kind

if TYPE_CHECKING:
    from torch import Tensor


class QuestionAnswering(ObjectiveSpec):
    """Learning to find answers."""

    kind: Literal["question_answering"] = "question_answering"

    consumes: ClassVar[tuple[type, ...]] = (Question,)
    reads: ClassVar[type] = SpanStats
    models: ClassVar[tuple[Kind, ...]] = ("encoder", "decoder")
    head: ClassVar[Head] = "span"
    predicts: ClassVar[Predicts] = SAME
    windows: ClassVar[bool] = True
    metrics: ClassVar[tuple[str, ...]] = ("loss", "exact_match", "span_f1")

    def loss(self, stats: SpanStats) -> Loss:
        """Sum over the windows, and their number."""
        from torch.nn.functional import cross_entropy

        ends = ((stats.start_logits_EP, stats.start_E), (stats.end_logits_EP, stats.end_E))
        start_loss, end_loss = (cross_entropy(logits_EP, at_E, reduction="sum") for logits_EP, at_E in ends)
        start_E, end_E, _ = best_spans(stats.start_logits_EP.detach(), stats.end_logits_EP.detach())
        shared_E = (end_E.minimum(stats.end_E) - start_E.maximum(stats.start_E) + 1).clamp(min=0)
        sizes_E = (end_E - start_E + 1) + (stats.end_E - stats.start_E + 1)
        return Loss(
            sum=(start_loss + end_loss) / 2,
            count=stats.start_logits_EP.new_tensor(float(len(start_E))),
            metrics={
                "exact_match": ((start_E == stats.start_E) & (end_E == stats.end_E)).float().sum(),
                "span_f1": (2 * shared_E / sizes_E).sum(),
            },
        )


def best_spans(start_logits_EP: "Tensor", end_logits_EP: "Tensor") -> "tuple[Tensor, Tensor, Tensor]":
    """Of each row, the likeliest span (start, end, its logits' sum) whose end is not before its start; place 0 can
    only be both. Places that may not be chosen are -inf."""
    import torch

    nothing_E = start_logits_EP[:, 0] + end_logits_EP[:, 0]
    if start_logits_EP.shape[1] == 1:
        zeros_E = torch.zeros_like(nothing_E, dtype=torch.int64)
        return zeros_E, zeros_E, nothing_E
    so_far_EP, starts_EP = start_logits_EP[:, 1:].cummax(1)
    score_E, end_E = (so_far_EP + end_logits_EP[:, 1:]).max(1)
    start_E = starts_EP.gather(1, end_E[:, None])[:, 0]
    is_there_E = score_E > nothing_E
    return (
        torch.where(is_there_E, start_E + 1, 0),
        torch.where(is_there_E, end_E + 1, 0),
        score_E.maximum(nothing_E),
    )
