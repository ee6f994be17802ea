"""Direct preference optimisation: the chosen answer should gain more over a reference model than the rejected one.

    h = (log p(y_w | x) - log q(y_w | x)) - (log p(y_l | x) - log q(y_l | x))
    sigmoid   L = - (1 - s) log sigmoid(beta h) - s log sigmoid(-beta h)
    ipo       L = (h - 1 / (2 beta))^2

p is the model, q the reference (the model that training started from), s the share of pairs that may be the wrong way
round. Rafailov et al. 2023, arXiv:2305.18290, eq. 7; s: Mitchell 2023, "A note on DPO with noisy preferences and
relationship to IPO"; Azar et al. 2023, arXiv:2310.12036, eq. 17. A log-probability is the sum over an answer's tokens;
with normalisation `length` it is their mean, as in Meng et al. 2024, arXiv:2405.14734. Without a reference, q is
uniform and cancels (Xu et al. 2024, arXiv:2401.08417, section 3).
"""

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from core.data.examples import Preference
from core.data.packing import Predicts
from core.loss import PAIR_METRICS, Loss, ObjectiveSpec, PairStats, pair_metrics


class DPO(ObjectiveSpec):
    """Learning from pairs of answers, against a reference."""

    kind: Literal["dpo"] = "dpo"
    beta: float = Field(default=0.1, gt=0.0, le=10.0)
    variant: Literal["sigmoid", "ipo"] = "sigmoid"
    label_smoothing: float = Field(default=0.0, ge=0.0, lt=0.5)
    normalisation: Literal["none", "length"] = Field(default="none", description="length: by token")
    reference: Literal["start", "none"] = Field(
        default="start", description="what an answer is compared with: the model that training starts from, or nothing"
    )

    consumes: ClassVar[tuple[type, ...]] = (Preference,)
    reads: ClassVar[type] = PairStats
    predicts: ClassVar[Predicts] = ("next", "next")
    relative_rate: ClassVar[float] = 0.1
    metrics: ClassVar[tuple[str, ...]] = ("loss", *PAIR_METRICS)

    @model_validator(mode="after")
    def _smooths_labels(self) -> Self:
        if self.variant == "ipo" and self.label_smoothing:
            raise ValueError("`ipo` has no label smoothing: leave `label_smoothing` at 0, or choose `sigmoid`")
        return self

    @property
    def needs_reference(self) -> bool:
        return self.reference == "start"

    def loss(self, stats: PairStats) -> Loss:
        """Sum over the pairs, and their number. A reward is beta times an answer's gain over the reference."""
        from torch.nn.functional import logsigmoid

        chosen_E = stats.chosen_E - stats.reference_chosen_E
        rejected_E = stats.rejected_E - stats.reference_rejected_E
        if self.normalisation == "length":
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
            metrics=pair_metrics(self.beta * chosen_E, self.beta * rejected_E),
        )
