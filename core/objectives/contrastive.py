"""Contrastive learning of sentence embeddings: a text should be nearer to its counterpart than to those of others.

    L = - sum_i log exp(a_i . p_i / t) / sum_j (exp(a_i . p_j / t) + exp(a_i . n_j / t))

a, p and n are embeddings of length 1 of anchors, their positives and, where given, hard negatives; t is the
temperature; j runs over the whole global batch, however it is divided (van den Oord et al. 2018, arXiv:1807.03748,
eq. 4; Gao et al. 2021, SimCSE, arXiv:2104.08821, eq. 5). With the anchor itself as positive, dropout makes the two
differ (eq. 4).
The division is that of GradCache (Gao et al. 2021, arXiv:2101.06983, section 3.2): all embeddings are computed first
without gradients, then each part again with them.
"""

from typing import ClassVar, Literal

from pydantic import Field

from core.data.examples import Similar
from core.data.packing import Predicts
from core.loss import EmbeddingStats, Loss, ObjectiveSpec
from core.models.config import Head, Kind


class Contrastive(ObjectiveSpec):
    """Learning embeddings from texts that belong together."""

    kind: Literal["contrastive"] = "contrastive"
    temperature: float = Field(default=0.05, gt=0.0, le=10.0)
    negatives: Literal["in_batch", "hard"] = Field(
        default="in_batch", description="in_batch: the positives of the others; hard: also the negatives in the data"
    )

    consumes: ClassVar[tuple[type, ...]] = (Similar,)
    reads: ClassVar[type] = EmbeddingStats
    models: ClassVar[tuple[Kind, ...]] = ("encoder", "decoder")
    head: ClassVar[Head] = "embedding"
    encoding_settings: ClassVar[tuple[str, ...]] = ("negatives",)
    windows: ClassVar[bool] = True
    metrics: ClassVar[tuple[str, ...]] = ("loss", "retrieval_accuracy")

    @property
    def predicts(self) -> Predicts:  # type: ignore[override]  # the others' does not depend on a field
        return ("same", "same", "same") if self.negatives == "hard" else ("same", "same")

    def loss(self, stats: EmbeddingStats) -> Loss:
        """Sum over the anchors of this part, and their number. The losses of the other parts' anchors add nothing to
        the sum, but their gradients, because their negatives are here."""
        import torch
        from torch.nn.functional import cross_entropy

        logits_NM = stats.anchors_ND @ stats.candidates_MD.T / self.temperature
        right_N = torch.arange(len(logits_NM), device=logits_NM.device)
        losses_N = cross_entropy(logits_NM, right_N, reduction="none")
        others = losses_N[~stats.here_N].sum()
        return Loss(
            sum=losses_N[stats.here_N].sum() + (others - others.detach()),
            count=stats.here_N.sum().float(),
            metrics={"retrieval_accuracy": (logits_NM.argmax(-1) == right_N)[stats.here_N].float().sum()},
        )
