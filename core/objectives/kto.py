"""Kahneman-Tversky optimisation: each answer was found good or bad; nobody compared two.

    r   = log p(y | x) - log q(y | x)
    z_0 = max(0, mean over the batch of log p(y' | x) - log q(y' | x)),   y' the answer to another prompt
    L   = lambda_good (1 - sigmoid(beta (r - z_0)))   for a good answer
          lambda_bad  (1 - sigmoid(beta (z_0 - r)))   for a bad one

p is the model, q the reference (the model that training started from). z_0 estimates the divergence of p from q over
the whole batch; no gradient goes through it. Ethayarajh et al. 2024, arXiv:2402.01306, eq. 8; the weights lambda are
there to even out groups of different sizes (section 4.2).
"""

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from core.data.examples import Judged
from core.loss import JudgedStats, Loss, ObjectiveSpec

if TYPE_CHECKING:
    from torch import Tensor


class KTO(ObjectiveSpec):
    """Learning from single answers that are good or bad, against a reference."""

    kind: Literal["kto"] = "kto"
    beta: float = Field(default=0.1, gt=0.0, le=10.0)
    good_weight: float = Field(default=1.0, ge=0.0, le=100.0, description="lambda of good answers")
    bad_weight: float = Field(default=1.0, ge=0.0, le=100.0, description="lambda of bad answers")

    consumes: ClassVar[tuple[type, ...]] = (Judged,)
    reads: ClassVar[type] = JudgedStats
    relative_rate: ClassVar[float] = 0.3
    metrics: ClassVar[tuple[str, ...]] = (
        "loss",
        "divergence",
        "reward_accuracy",
        "reward_margin",
        "good_reward",
        "bad_reward",
    )

    @property
    def needs_reference(self) -> bool:
        return True

    def loss(self, stats: JudgedStats) -> Loss:
        """Sum over the answers, and their number."""
        gain_E = stats.answer_E - stats.reference_E - stats.divergence
        sign_E, good_E = 2 * stats.good_E - 1, stats.good_E
        weight_E = self.good_weight * good_E + self.bad_weight * (1 - good_E)
        reward_E = (self.beta * (stats.answer_E - stats.reference_E)).detach()
        return Loss(
            sum=(weight_E * (1 - (self.beta * sign_E * gain_E).sigmoid())).sum(),
            count=good_E.new_tensor(float(len(good_E))),
            metrics={"divergence": stats.divergence * len(good_E)},
            counts={
                "good": _by_group(good_E, reward_E, gain_E > 0),
                "bad": _by_group(1 - good_E, reward_E, gain_E < 0),
            },
        )

    def summary(self, counts: dict[str, list[float]], labels: tuple[str, ...]) -> dict[str, float]:
        """Mean rewards of both groups; the accuracy is the mean of both, so that guessing gives 0.5."""
        (good, good_reward, good_right), (bad, bad_reward, bad_right) = counts["good"], counts["bad"]
        good_reward, bad_reward = good_reward / max(good, 1.0), bad_reward / max(bad, 1.0)
        shares = [right / number for right, number in ((good_right, good), (bad_right, bad)) if number]
        return {
            "good_reward": good_reward,
            "bad_reward": bad_reward,
            "reward_margin": good_reward - bad_reward,
            "reward_accuracy": sum(shares) / max(len(shares), 1),
        }


def _by_group(there_E: "Tensor", reward_E: "Tensor", right_E: "Tensor") -> "Tensor":
    """How many answers are in the group, their summed rewards, and how many lie on the right side of z_0: [3]."""
    import torch

    return torch.stack((there_E, there_E * reward_E, there_E * right_E)).sum(1)
