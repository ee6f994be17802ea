"""Regression: a number for each text.

    L = (y - f(x))^2

f is the model's score: a line over the first token's hidden state of an encoder (as Devlin et al. 2019,
arXiv:1810.04805, section 4.1, do for STS-B), over the last one's of a decoder. The values are learned as they are:
scale them to about -1 to 1, where a fresh head begins. Legendre 1805 (least squares); Pearson 1896 (correlation).
"""

import math
from typing import ClassVar, Literal

from core.data.examples import Scored
from core.data.packing import SAME, Predicts
from core.loss import LabelStats, Loss, ObjectiveSpec
from core.models.config import Head, Kind


class Regression(ObjectiveSpec):
    """Learning to give texts, or pairs of texts, a value."""

    kind: Literal["regression"] = "regression"

    consumes: ClassVar[tuple[type, ...]] = (Scored,)
    reads: ClassVar[type] = LabelStats
    models: ClassVar[tuple[Kind, ...]] = ("encoder", "decoder")
    head: ClassVar[Head] = "score"
    predicts: ClassVar[Predicts] = SAME
    windows: ClassVar[bool] = True
    metrics: ClassVar[tuple[str, ...]] = ("loss", "mean_squared_error", "mean_absolute_error", "pearson")

    def loss(self, stats: LabelStats) -> Loss:
        """Sum over the texts, and their number."""
        said_E, true_E = stats.logits_EC[:, 0], stats.labels_EC[:, 0]
        errors_E = said_E - true_E
        squares = errors_E.square().sum()
        x_E, y_E = said_E.detach().double(), true_E.double()
        return Loss(
            sum=squares,
            count=said_E.new_tensor(float(len(said_E))),
            metrics={"mean_squared_error": squares, "mean_absolute_error": errors_E.abs().sum()},
            counts={
                "number": x_E.new_tensor(float(len(x_E))),
                "x": x_E.sum(),
                "y": y_E.sum(),
                "xx": x_E.square().sum(),
                "yy": y_E.square().sum(),
                "xy": (x_E * y_E).sum(),
            },
        )

    def summary(self, counts: dict[str, list[float]], labels: tuple[str, ...]) -> dict[str, float]:
        """Pearson's r; 0 where one of the two does not vary. (Ranks would need all values at once: no Spearman.)"""
        n, x, y, xx, yy, xy = (counts[name][0] for name in ("number", "x", "y", "xx", "yy", "xy"))
        spread = max(n * xx - x * x, 0.0) * max(n * yy - y * y, 0.0)
        return {"pearson": (n * xy - x * y) / math.sqrt(spread) if spread > 0 else 0.0}
