"""Direct preference optimisation: the chosen answer should gain more over a reference model than the rejected one.

    h = beta ((log p(y_w | x) - log q(y_w | x)) - (log p(y_l | x) - log q(y_l | x)))
    sigmoid   L = - (1 - s) log sigmoid(h) - s log sigmoid(-h)
    ipo       L = (h / beta - 1 / (2 beta))^2, log-probabilities averaged over tokens

p is the model, q the reference (the model that training started from), s the label smoothing.
Rafailov et al. 2023, arXiv:2305.18290, eq. 7; Azar et al. 2023 (IPO), arXiv:2310.12036, eq. 17; Mitchell 2023
(conservative DPO). `length_normalised`: per token, as in Meng et al. 2024, arXiv:2405.14734.
"""

from typing import ClassVar, Literal

from pydantic import Field

from core.data.examples import Preference
from core.data.packing import Predicts
from core.loss import Loss, ObjectiveSpec, PairStats


class DPO(ObjectiveSpec):
    """Learning from pairs of answers, against a reference."""

    kind: Literal["dpo"] = "dpo"
    beta: float = Field(default=0.1, gt=0.0, le=10.0)
    variant: Literal["sigmoid", "ipo"] = "sigmoid"
    label_smoothing: float = Field(default=0.0, ge=0.0, lt=0.5)
    normalisation: Literal["none", "length"] = "none"

    consumes: ClassVar[tuple[type, ...]] = (Preference,)
    reads: ClassVar[type] = PairStats
    predicts: ClassVar[Predicts] = ("next", "next")
    needs_reference: ClassVar[bool] = True
    metrics: ClassVar[tuple[str, ...]] = (
        "loss",
        "reward_accuracy",
        "reward_margin",
        "chosen_reward",
        "rejected_reward",
    )

    def loss(self, stats: PairStats) -> Loss:
        """Sum over the pairs, and their number."""
        from torch.nn.functional import logsigmoid

        chosen_E = stats.chosen_E - stats.reference_chosen_E
        rejected_E = stats.rejected_E - stats.reference_rejected_E
        if self.variant == "ipo" or self.normalisation == "length":
            chosen_E, rejected_E = chosen_E / stats.chosen_tokens_E, rejected_E / stats.rejected_tokens_E
        margin_E = chosen_E - rejected_E
        if self.variant == "ipo":
            losses_E = (margin_E - 1 / (2 * self.beta)).square()
        else:
            losses_E = -(1 - self.label_smoothing) * logsigmoid(self.beta * margin_E)
            losses_E = losses_E - self.label_smoothing * logsigmoid(-self.beta * margin_E)
        return Loss(
            sum=losses_E.sum(),
            count=margin_E.new_tensor(float(len(margin_E))),
            metrics={
                "reward_accuracy": (margin_E > 0).float().sum(),
                "reward_margin": self.beta * margin_E.detach().sum(),
                "chosen_reward": self.beta * chosen_E.detach().sum(),
                "rejected_reward": self.beta * rejected_E.detach().sum(),
            },
        )
