"""Odds ratio preference optimisation: fine-tune on the chosen answer and push the odds of the two answers apart.

    log p(y | x) = 1/|y| sum_t log p(y_t | x, y_<t),   odds(y) = p(y | x) / (1 - p(y | x))
    L = - log p(y_w | x) - lambda log sigmoid(log odds(y_w) - log odds(y_l))

No reference model. Hong et al. 2024, arXiv:2403.07691, eqs. 3 to 7.
"""

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from core.data.examples import Preference
from core.data.packing import Predicts
from core.loss import PAIR_METRICS, Loss, ObjectiveSpec, PairStats, pair_metrics

if TYPE_CHECKING:
    from torch import Tensor

CERTAIN = -1e-6
"""largest mean log-probability: the odds of certainty are infinite"""


class ORPO(ObjectiveSpec):
    """Fine-tuning and preference in one step, without a reference."""

    kind: Literal["orpo"] = "orpo"
    odds_ratio_weight: float = Field(default=0.1, ge=0.0, le=10.0, description="lambda")

    consumes: ClassVar[tuple[type, ...]] = (Preference,)
    reads: ClassVar[type] = PairStats
    predicts: ClassVar[Predicts] = ("next", "next")
    relative_rate: ClassVar[float] = 0.5
    metrics: ClassVar[tuple[str, ...]] = ("loss", "perplexity", "log_odds_ratio", *PAIR_METRICS)

    def loss(self, stats: PairStats) -> Loss:
        """Sum over the pairs, nats, and their number. A reward is an answer's mean log-probability."""
        from torch.nn.functional import logsigmoid

        chosen_E, rejected_E = stats.chosen_E / stats.chosen_tokens_E, stats.rejected_E / stats.rejected_tokens_E
        log_ratio_E = log_odds(chosen_E) - log_odds(rejected_E)
        nll = -chosen_E.sum()
        return Loss(
            sum=nll - self.odds_ratio_weight * logsigmoid(log_ratio_E).sum(),
            count=chosen_E.new_tensor(float(len(chosen_E))),
            metrics={"nll": nll, "log_odds_ratio": log_ratio_E.sum(), **pair_metrics(chosen_E, rejected_E)},
        )


def log_odds(logp_E: "Tensor") -> "Tensor":
    """log p - log (1 - p) from log p."""
    logp_E = logp_E.clamp(max=CERTAIN)
    return logp_E - (-logp_E.expm1()).log()
