"""Simple preference optimisation: the chosen answer's tokens should be likelier than the rejected one's, by a margin.

    L = - log sigmoid(beta / |y_w| log p(y_w | x) - beta / |y_l| log p(y_l | x) - gamma)

The reward is the one that decoding follows, an answer's mean log-probability; no reference model.
Meng et al. 2024, arXiv:2405.14734, eq. 6; its values: beta 2 to 2.5, gamma 0.3 to 1.6.
"""

from typing import ClassVar, Literal

from pydantic import Field

from core.data.examples import Preference
from core.data.packing import Predicts
from core.loss import PAIR_METRICS, Loss, ObjectiveSpec, PairStats, pair_metrics


class SimPO(ObjectiveSpec):
    """Learning from pairs of answers, without a reference."""

    kind: Literal["simpo"] = "simpo"
    beta: float = Field(default=2.0, gt=0.0, le=100.0)
    gamma: float = Field(default=1.0, ge=0.0, le=100.0, description="by how much the chosen answer should lead")

    consumes: ClassVar[tuple[type, ...]] = (Preference,)
    reads: ClassVar[type] = PairStats
    predicts: ClassVar[Predicts] = ("next", "next")
    relative_rate: ClassVar[float] = 0.1
    metrics: ClassVar[tuple[str, ...]] = ("loss", *PAIR_METRICS)

    def loss(self, stats: PairStats) -> Loss:
        """Sum over the pairs, and their number."""
        from torch.nn.functional import logsigmoid

        chosen_E = self.beta * stats.chosen_E / stats.chosen_tokens_E
        rejected_E = self.beta * stats.rejected_E / stats.rejected_tokens_E
        return Loss(
            sum=-logsigmoid(chosen_E - rejected_E - self.gamma).sum(),
            count=chosen_E.new_tensor(float(len(chosen_E))),
            metrics=pair_metrics(chosen_E, rejected_E),
        )
