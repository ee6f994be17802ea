"""Sequence classification: which label a text has, which of many labels it has, or how likely each label is.

    one    L = H(p, q) = - sum_c p_c log q_c,   q = softmax(logits)
    many   L = - 1/C sum_c (p_c log q_c + (1 - p_c) log (1 - q_c)),   q = sigmoid(logits)

p are the labels: 1 for the right one and 0 elsewhere, or a distribution that sums to 1 (soft targets, as a person's
doubt or another model gives them); of many labels each is a yes or no. H(p, q) = H(p) + KL(p || q) (Shannon 1948;
Kullback and Leibler 1951), so soft targets leave a loss of H(p) even to a perfect model. Label smoothing s replaces p
by (1 - s) p + s / C (Szegedy et al. 2016, arXiv:1512.00567, section 7). The head reads the first token of an encoder
(Devlin et al. 2019, arXiv:1810.04805, section 3) and the last one of a decoder (Radford et al. 2018, section 3.2).
"""

from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import Field, model_validator

from core.data.examples import Labelled
from core.data.packing import SAME, Predicts
from core.loss import LabelStats, Loss, ObjectiveSpec
from core.metrics.f1 import class_f1
from core.models.config import Head, Kind

if TYPE_CHECKING:
    from torch import Tensor


class SequenceClassification(ObjectiveSpec):
    """Learning to label texts, or pairs of texts."""

    kind: Literal["sequence_classification"] = "sequence_classification"
    labels: Literal["one", "many"] = Field(
        default="one",
        description="one: each text has one of the labels, or a probability for each. many: any number of them",
    )
    label_smoothing: float = Field(default=0.0, ge=0.0, lt=1.0, description="only where each text has one label")

    consumes: ClassVar[tuple[type, ...]] = (Labelled,)
    reads: ClassVar[type] = LabelStats
    models: ClassVar[tuple[Kind, ...]] = ("encoder", "decoder")
    head: ClassVar[Head] = "classifier"
    predicts: ClassVar[Predicts] = SAME
    encoding_settings: ClassVar[tuple[str, ...]] = ("labels",)
    windows: ClassVar[bool] = True
    names_labels: ClassVar[bool] = True
    metrics: ClassVar[tuple[str, ...]] = ("loss", "accuracy", "exact_match", "f1_macro", "f1_micro")

    @model_validator(mode="after")
    def _smooths_one(self) -> Self:
        if self.label_smoothing and self.labels == "many":
            raise ValueError("label_smoothing is for texts with one label; leave it out, or set labels to `one`")
        return self

    @property
    def many_labels(self) -> bool:
        return self.labels == "many"

    def loss(self, stats: LabelStats) -> Loss:
        """Sum over the texts, and their number."""
        from torch.nn.functional import binary_cross_entropy_with_logits

        logits_EC, labels_EC = stats.logits_EC, stats.labels_EC
        if self.labels == "many":
            losses_EC = binary_cross_entropy_with_logits(logits_EC, labels_EC, reduction="none")
            losses_E, said_EC, true_EC = losses_EC.mean(-1), logits_EC > 0, labels_EC > 0.5
        else:
            smoothed_EC = (1 - self.label_smoothing) * labels_EC + self.label_smoothing / labels_EC.shape[-1]
            losses_E = -(smoothed_EC * logits_EC.log_softmax(-1)).sum(-1)
            said_EC, true_EC = _is_largest(logits_EC), _is_largest(labels_EC)
        right_EC = said_EC == true_EC
        exact_E = right_EC.all(-1).float()
        return Loss(
            sum=losses_E.sum(),
            count=logits_EC.new_tensor(float(len(logits_EC))),
            metrics={
                "accuracy": (right_EC.float().mean(-1) if self.labels == "many" else exact_E).sum(),
                "exact_match": exact_E.sum(),
            },
            counts={
                "true_positives": (said_EC & true_EC).sum(0),
                "false_positives": (said_EC & ~true_EC).sum(0),
                "false_negatives": (~said_EC & true_EC).sum(0),
            },
        )

    def summary(self, counts: dict[str, list[float]], labels: tuple[str, ...]) -> dict[str, float]:
        """`core.metrics.f1`, by label."""
        found = class_f1(counts["true_positives"], counts["false_positives"], counts["false_negatives"])
        return {"f1_macro": found.macro, "f1_micro": found.micro}


def _is_largest(values_EC: "Tensor") -> "Tensor":
    """True at the first of the largest values of each row."""
    from torch.nn.functional import one_hot

    return one_hot(values_EC.argmax(-1), values_EC.shape[-1]).bool()
