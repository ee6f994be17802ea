"""What an objective is asked for, receives and returns. Tensors are for type checkers only: this module never loads
torch.

Legend: N positions that carry a loss weight, E examples, C classes or values, all over a micro-batch.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from core.data.packing import NEXT, Ints, Predicts
from core.models.config import Head, Kind
from core.spec import Spec

if TYPE_CHECKING:
    from torch import Tensor

LOWER_IS_BETTER = frozenset({"loss", "perplexity", "bits_per_byte", "mean_squared_error", "mean_absolute_error"})
"""metrics; of all others, more is better"""


@dataclass(frozen=True)
class TokenStats:
    """Facts about the target tokens of a micro-batch, all fp32. Positions with weight 0 are not here."""

    logp_N: Tensor
    """log-probability of each target token, nats"""
    log_z_N: Tensor
    """log of the softmax normaliser at each position"""
    weight_N: Tensor
    """loss weight of each target, above 0"""
    correct_N: Tensor
    """1 where the target is the most likely token, else 0"""


@dataclass(frozen=True)
class LabelStats:
    """What a head says of each example, and what is right, fp32."""

    logits_EC: Tensor
    labels_EC: Tensor
    """class probabilities, truth values of many labels, or a value"""


@dataclass(frozen=True)
class PairStats:
    """Two answers to each prompt: summed log-probabilities of their tokens under the model and the reference, fp32."""

    chosen_E: Tensor
    rejected_E: Tensor
    reference_chosen_E: Tensor
    """zeros where the objective needs no reference"""
    reference_rejected_E: Tensor
    chosen_tokens_E: Tensor
    rejected_tokens_E: Tensor


Stats = TokenStats | LabelStats | PairStats


@dataclass(frozen=True)
class Loss:
    """A sum and the count it is over; the loop alone divides, over all micro-batches and ranks together."""

    sum: Tensor
    count: Tensor
    metrics: dict[str, Tensor] = field(default_factory=dict)
    """further sums over the same count, by metric name"""
    counts: dict[str, Tensor] = field(default_factory=dict)
    """sums that are not means over that count: what `ObjectiveSpec.summary` makes metrics of (true positives, …)"""


class ObjectiveSpec(Spec):
    """What every objective says of itself besides its loss. The values here are those of a decoder that learns tokens.

    An objective adds `kind`, its hyperparameters and `loss(stats) -> Loss`.
    """

    consumes: ClassVar[tuple[type, ...]]
    """example types"""
    reads: ClassVar[type] = TokenStats
    """the stats that `loss` takes; `core/training/stats` has a file for each"""
    models: ClassVar[tuple[Kind, ...]] = ("decoder",)
    head: ClassVar[Head] = "language_model"
    predicts: ClassVar[Predicts] = NEXT
    """by lane, what is learned at a position"""
    encoding: ClassVar[str] = "plain"
    """`Encoding.kind`: objectives that want the same tokens of an example share its datasets"""
    encoding_settings: ClassVar[tuple[str, ...]] = ()
    """hyperparameters that decide the tokens (with the seed)"""
    windows: ClassVar[bool] = False
    """long texts are cut into windows that each fit a row"""
    names_labels: ClassVar[bool] = False
    """its labels have names, which are found in the data unless the model has them already"""
    needs_reference: ClassVar[bool] = False
    metrics: ClassVar[tuple[str, ...]] = ("loss", "perplexity", "token_accuracy")
    """what an evaluation can report, without the prefix `validation_`"""

    def corrupt(
        self,
        ids: Ints,
        targets: Ints,
        weights: NDArray[np.float32],
        random: np.random.Generator,
        specials: Specials,
    ) -> None:
        """Change one example's inputs in place, anew each time it is shown; not every objective does."""

    @property
    def corrupts(self) -> bool:
        return type(self).corrupt is not ObjectiveSpec.corrupt

    def summary(self, counts: dict[str, list[float]], labels: tuple[str, ...]) -> dict[str, float]:
        """Metrics from `Loss.counts`, summed over a whole evaluation."""
        return {}


@dataclass(frozen=True)
class Specials:
    """Ids of a tokenizer that objectives write into texts."""

    vocab_size: int
    mask: int | None
    special: frozenset[int]
    """never hidden, never drawn"""
