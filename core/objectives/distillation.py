"""Distillation: a model learns from the whole next-token distribution of a teacher, and from the text.

    forward   D_t = KL(q || p) = sum_v q(v) (log q(v) - log p(v))     p covers all that the teacher says
    reverse   D_t = KL(p || q) = sum_v p(v) (log p(v) - log q(v))     p stays where the teacher is sure
    L = sum_t w_t (alpha tau^2 D_t - (1 - alpha) log p(x_t | x_<t))

q is the teacher, p the model, both as softmax(logits / tau) in D; tau^2 keeps the size of the gradient. Hinton et al.
2015, arXiv:1503.02531, section 2; reverse: Gu et al. 2023, arXiv:2306.08543, eq. 1, here on given texts, token by
token. The teacher is frozen, and its vocabulary is the model's.
"""

from typing import ClassVar, Literal

from pydantic import Field

from core.data.examples import Conversation, Document, PromptCompletion
from core.loss import Loss, ObjectiveSpec, TeacherStats


class Distillation(ObjectiveSpec):
    """Learning from a teacher, on texts or on answers."""

    kind: Literal["distillation"] = "distillation"
    teacher: str = Field(min_length=1, max_length=256, description="a model with the same vocabulary")
    alpha: float = Field(default=0.5, gt=0.0, le=1.0, description="the teacher's share; the rest is cross-entropy")
    temperature: float = Field(default=1.0, gt=0.0, le=100.0)
    divergence: Literal["forward", "reverse"] = "forward"

    consumes: ClassVar[tuple[type, ...]] = (Document, Conversation, PromptCompletion)
    reads: ClassVar[type] = TeacherStats
    metrics: ClassVar[tuple[str, ...]] = ("loss", "perplexity", "token_accuracy", "divergence")

    def loss(self, stats: TeacherStats) -> Loss:
        """Weighted sum over the tokens, nats, over the summed weights."""
        weight_N = stats.tokens.weight_N
        nll = -(stats.tokens.logp_N * weight_N).sum()
        divergence = (stats.divergence_N * weight_N).sum()
        return Loss(
            sum=self.alpha * self.temperature**2 * divergence + (1 - self.alpha) * nll,
            count=weight_N.sum(),
            metrics={
                "nll": nll,
                "token_accuracy": (stats.tokens.correct_N * weight_N).sum(),
                "divergence": divergence,
            },
        )
