"""What an objective is asked for, receives and returns. Tensors are for type checkers only: this module never loads
torch.

Legend: N positions that carry a loss weight, E examples, C classes or values, P places of an example, D width of an
embedding, M candidates; all over a micro-batch unless it says otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from core.data.packing import NEXT, Ints, Predicts
from core.models.config import Head, Kind
from core.spec import Spec

if TYPE_CHECKING:
    from torch import Tensor

LOWER_IS_BETTER = frozenset(
    {
        "loss",
        "perplexity",
        "bits_per_byte",
        "divergence",
        "mean_squared_error",
        "mean_absolute_error",
        "clipped",
        "ungraded",
    }
)
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
    mean_logp_N: Tensor | None = None
    """mean log-probability of the whole vocabulary, where the objective smooths its labels"""
    entropy_N: Tensor | None = None
    """of the predicted distribution, nats; in evaluations only"""
    example_N: Tensor | None = None
    """int64, a number for the example that each target belongs to; in evaluations only"""


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


@dataclass(frozen=True)
class JudgedStats:
    """One answer to each prompt: summed log-probabilities of its tokens under the model and the reference, fp32."""

    answer_E: Tensor
    reference_E: Tensor
    good_E: Tensor
    """1 where people found it good, else 0"""
    divergence: Tensor
    """[] how far the model is from the reference over the whole batch, nats; at least 0, without a gradient"""


@dataclass(frozen=True)
class ScoreStats:
    """The scores of two answers to each prompt, fp32."""

    chosen_E: Tensor
    rejected_E: Tensor


@dataclass(frozen=True)
class TeacherStats:
    """Of each target token what it is itself, and how far the model's distribution is from the teacher's, fp32."""

    tokens: TokenStats
    divergence_N: Tensor
    """nats, both distributions at the objective's temperature"""


@dataclass(frozen=True)
class AnswerStats:
    """Answers that the model wrote itself and a grader judged, and how likely their tokens are now, fp32."""

    logp_N: Tensor
    """log-probability of each token of the answers, at the temperature that they were drawn at"""
    drawn_logp_N: Tensor
    """the same when it was drawn"""
    reference_logp_N: Tensor
    """the same under the reference; `logp_N` without its gradient where the objective needs none"""
    answer_N: Tensor
    """int64: which answer a token belongs to"""
    advantage_E: Tensor
    """how much better than the others of its group; in a validation, the reward"""
    reward_E: Tensor
    deviation_E: Tensor
    """standard deviation of the rewards of its group"""
    tokens_E: Tensor
    """length, at least 1"""
    mean_tokens: Tensor
    """[] over the whole batch"""
    finished_E: Tensor
    """1 where the model ended the answer, 0 where it was cut off"""
    ungraded_E: Tensor
    """1 where the grader gave an error instead of a reward"""


@dataclass(frozen=True)
class TagStats:
    """The words of a micro-batch in their order, fp32, and how the tags' names join words to chunks."""

    logits_NC: Tensor
    tags_N: Tensor
    """int64, of C"""
    example_N: Tensor
    """int64, a number for the example that each word belongs to; neighbouring examples have different ones"""
    kind_C: Tensor
    """int64, which kind of chunk a tag is part of; -1: none"""
    opens_C: Tensor
    """whether a chunk always begins there"""
    closes_C: Tensor
    """whether a chunk always ends there"""


@dataclass(frozen=True)
class SpanStats:
    """Where each example's answer may begin and end, by place (its P positions, in order), fp32; -inf where it may
    not. Place 0 stands for no answer."""

    start_logits_EP: Tensor
    end_logits_EP: Tensor
    start_E: Tensor
    """int64, the right place"""
    end_E: Tensor
    """int64, inclusive"""


@dataclass(frozen=True)
class EmbeddingStats:
    """Embeddings of length 1 of all examples of the global batch, fp32; those of this part have gradients."""

    anchors_ND: Tensor
    candidates_MD: Tensor
    """the positives in the anchors' order, then negatives"""
    here_N: Tensor
    """bool: the example belongs to this part"""


@dataclass(frozen=True)
class MaskedStats:
    """Hidden tokens, and what a second head says of each example's two texts, fp32."""

    tokens: TokenStats
    follows_E2: Tensor | None = None
    """logits of: the second text follows the first, it does not; None where that is not asked"""
    follows_E: Tensor | None = None
    """1 where it does, else 0"""
    hidden_E: Tensor | None = None
    """how many tokens of each example are hidden"""


Stats = (
    TokenStats
    | MaskedStats
    | LabelStats
    | TagStats
    | SpanStats
    | PairStats
    | JudgedStats
    | ScoreStats
    | TeacherStats
    | AnswerStats
    | EmbeddingStats
)


@dataclass(frozen=True)
class Loss:
    """A sum and the count it is over; the loop alone divides, over all micro-batches and ranks together."""

    sum: Tensor
    count: Tensor
    metrics: dict[str, Tensor] = field(default_factory=dict)
    """further sums over the same count, by metric name"""
    counts: dict[str, Tensor] = field(default_factory=dict)
    """sums that are not means over that count: what `ObjectiveSpec.summary` makes metrics of (true positives, …)"""


PAIR_METRICS = ("reward_accuracy", "reward_margin", "chosen_reward", "rejected_reward")


def pair_metrics(chosen_E: Tensor, rejected_E: Tensor) -> dict[str, Tensor]:
    """`PAIR_METRICS` of the rewards of two answers to each prompt; equal rewards are half right."""
    margin_E = (chosen_E - rejected_E).detach()
    right_E = (margin_E > 0).float() + 0.5 * (margin_E == 0).float()
    sums = (right_E.sum(), margin_E.sum(), chosen_E.detach().sum(), rejected_E.detach().sum())
    return dict(zip(PAIR_METRICS, sums, strict=True))


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
    explores: ClassVar[bool] = False
    """the data are prompts; the model writes the answers that it learns from (core/training/rollouts.py)"""
    relative_rate: ClassVar[float] = 1.0
    """default learning rate, over that of pretraining and of supervised fine-tuning"""
    sees_prefix: ClassVar[bool] = False
    """what stands before the first learned token is seen by all of its example, later positions of it too"""
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
    def many_labels(self) -> bool:
        """Each of its labels is a yes or no of its own."""
        return False

    @property
    def needs_reference(self) -> bool:
        """It compares with the model that training starts from."""
        return False

    @property
    def rows_per_sequence(self) -> int:
        """Rows that are computed for each row of the batch."""
        return 1

    @property
    def next_sentence_head(self) -> bool:
        """It needs an encoder's second head, which says whether one text follows another."""
        return False

    @property
    def corrupts(self) -> bool:
        return type(self).corrupt is not ObjectiveSpec.corrupt

    def summary(self, counts: dict[str, list[float]], labels: tuple[str, ...]) -> dict[str, float]:
        """Metrics from `Loss.counts`, summed over a whole evaluation."""
        return {}


class TokenObjective(ObjectiveSpec):
    """What all share that learn tokens by their likelihood:

        L = - sum_t w_t ((1 - s) log p(x_t) + s / V sum_v log p(v)) + z sum_t w_t (log Z_t)^2

    s smooths the labels (Szegedy et al. 2016, arXiv:1512.00567, section 7; Vaswani et al. 2017, section 5.4); z holds
    the softmax's normaliser near 1 (Chowdhery et al. 2022, arXiv:2204.02311, section 5). Both are 0 by default.
    """

    z_loss: float = Field(default=0.0, ge=0.0, le=1.0, description="weight of the squared log-normaliser")
    label_smoothing: float = Field(
        default=0.0, ge=0.0, lt=1.0, description="share of the probability that is spread over the vocabulary"
    )

    metrics: ClassVar[tuple[str, ...]] = ("loss", "perplexity", "token_accuracy", "entropy")

    def loss(self, stats: TokenStats) -> Loss:
        """Sum of weighted losses, nats, over the summed weights. Perplexity is that of the plain likelihood."""
        weight_N = stats.weight_N
        nll = -(stats.logp_N * weight_N).sum()
        total = nll
        if self.label_smoothing:
            assert stats.mean_logp_N is not None
            uniform = -(stats.mean_logp_N * weight_N).sum()
            total = (1 - self.label_smoothing) * nll + self.label_smoothing * uniform
        if self.z_loss:
            total = total + self.z_loss * (stats.log_z_N.square() * weight_N).sum()
        metrics = {"nll": nll, "token_accuracy": (stats.correct_N * weight_N).sum()}
        if stats.entropy_N is not None:
            metrics["entropy"] = (stats.entropy_N * weight_N).sum()
        return Loss(sum=total, count=weight_N.sum(), metrics=metrics, counts=self._exact(stats))

    def _exact(self, stats: TokenStats) -> dict[str, Tensor]:
        """Of how many examples every learned token is the most likely one: greedy decoding would give just them."""
        if "exact_match" not in self.metrics or stats.example_N is None:
            return {}
        there_E = stats.example_N.bincount()
        right_E = there_E.new_zeros(len(there_E)).index_add(0, stats.example_N, stats.correct_N.to(there_E.dtype))
        return {"exact": ((right_E == there_E) & (there_E > 0)).sum(), "examples": (there_E > 0).sum()}

    def summary(self, counts: dict[str, list[float]], labels: tuple[str, ...]) -> dict[str, float]:
        """The share of examples that are right in every token."""
        if "examples" not in counts:
            return {}
        return {"exact_match": counts["exact"][0] / max(counts["examples"][0], 1.0)}


@dataclass(frozen=True)
class Specials:
    """Ids of a tokenizer that objectives write into texts."""

    vocab_size: int
    mask: int | None
    special: frozenset[int]
    """never hidden, never drawn"""

    @cached_property
    def ordinary(self) -> Ints:
        """All other ids, ascending."""
        return np.setdiff1d(np.arange(self.vocab_size), np.fromiter(self.special, np.int64))
