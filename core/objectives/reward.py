"""Reward model: a score for an answer, learned from which of two answers people chose.

    L = - log sigmoid(r_w - r_l - m) + c (r_w + r_l)^2

Bradley and Terry 1952, "Rank Analysis of Incomplete Block Designs: I"; Ouyang et al. 2022, arXiv:2203.02155, eq. 1. The
margin m is Touvron et al.'s 2023, arXiv:2307.09288, eq. 2, here one for all pairs. Only differences of scores are
learned; c keeps their mean at zero (Eisenstein et al. 2023, arXiv:2312.09244, section 2).
"""

from typing import ClassVar, Literal

from pydantic import Field

from core.data.examples import Preference
from core.data.packing import Predicts
from core.loss import PAIR_METRICS, Loss, ObjectiveSpec, ScoreStats, pair_metrics
from core.models.config import Head


class Reward(ObjectiveSpec):
    """A model that scores answers."""

    kind: Literal["reward"] = "reward"
    margin: float = Field(default=0.0, ge=0.0, le=100.0, description="by how much the chosen score should lead")
    centre: float = Field(default=0.0, ge=0.0, le=10.0, description="weight of the squared sum of both scores")

    consumes: ClassVar[tuple[type, ...]] = (Preference,)
    reads: ClassVar[type] = ScoreStats
    head: ClassVar[Head] = "score"
    predicts: ClassVar[Predicts] = ("same", "same")
    metrics: ClassVar[tuple[str, ...]] = ("loss", *PAIR_METRICS)

    def loss(self, stats: ScoreStats) -> Loss:
        """Sum over the pairs, and their number."""
        from torch.nn.functional import logsigmoid

        chosen_E, rejected_E = stats.chosen_E, stats.rejected_E
        losses_E = -logsigmoid(chosen_E - rejected_E - self.margin)
        if self.centre:
            losses_E = losses_E + self.centre * (chosen_E + rejected_E).square()
        return Loss(
            sum=losses_E.sum(),
            count=chosen_E.new_tensor(float(len(chosen_E))),
            metrics=pair_metrics(chosen_E, rejected_E),
        )
