"""Group relative policy optimisation: the model writes several answers to each prompt, a grader judges them, and what
was better than the others of its group becomes more likely.

    A_i = (r_i - mean(r)) / std(r)                                  over the answers i of one prompt
    s_t = min(w_t A_i, clip(w_t, 1 - e, 1 + e) A_i),                w_t = p(y_t | y_<t) / q(y_t | y_<t)
    k_t = ref(y_t) / p(y_t) - log(ref(y_t) / p(y_t)) - 1
    L   = - mean over answers of 1 / |y_i| sum_t (s_t - beta k_t)

p is the model, q the same model as it wrote the answers, ref the model that training started from. Shao et al. 2024,
"DeepSeekMath", arXiv:2402.03300, eq. 3 and 4; each batch of answers is used for one step. `clip_above` and
`normalisation: batch` are Yu et al. 2025, "DAPO", arXiv:2503.14476, eq. 8; `advantage: centred` and `normalisation:
limit` are Liu et al. 2025, "Understanding R1-Zero-Like Training" (Dr. GRPO), arXiv:2503.20783, eq. 3.

In a validation A_i is r_i itself: with w = 1 the loss is then beta times the divergence, minus the mean reward.
"""

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from core.data.examples import GradedPrompt
from core.graders import Grader
from core.loss import AnswerStats, Loss, ObjectiveSpec

if TYPE_CHECKING:
    from torch import Tensor


class GRPO(ObjectiveSpec):
    """Learning from answers of the model's own, which a grader judges."""

    kind: Literal["grpo"] = "grpo"
    grader: Grader
    copies: int = Field(default=8, ge=2, le=256, description="answers to each prompt of a batch")
    max_tokens: int = Field(default=256, ge=1, le=65536, description="of an answer; the row's length limits it too")
    temperature: float = Field(default=1.0, ge=0.1, le=2.0, description="at which answers are drawn, and learned")
    beta: float = Field(default=0.04, ge=0.0, le=10.0, description="weight of the divergence from the reference")
    clip: float = Field(default=0.2, gt=0.0, lt=1.0)
    clip_above: float | None = Field(default=None, gt=0.0, le=10.0, description="default: as `clip`")
    advantage: Literal["standardised", "centred"] = "standardised"
    normalisation: Literal["answer", "batch", "limit"] = Field(
        default="answer", description="what an answer's sum is divided by: its tokens, the batch's mean, `max_tokens`"
    )
    validation_copies: int = Field(default=1, ge=1, le=64, description="answers to each prompt in an evaluation")

    consumes: ClassVar[tuple[type, ...]] = (GradedPrompt,)
    reads: ClassVar[type] = AnswerStats
    encoding_settings: ClassVar[tuple[str, ...]] = ("needed_fields",)
    relative_rate: ClassVar[float] = 0.1
    explores: ClassVar[bool] = True
    metrics: ClassVar[tuple[str, ...]] = (
        "loss",
        "reward",
        "reward_deviation",
        "divergence",
        "clipped",
        "answer_tokens",
        "finished",
        "ungraded",
    )

    @property
    def needs_reference(self) -> bool:
        return self.beta > 0

    @property
    def rows_per_sequence(self) -> int:
        return self.copies

    @property
    def needed_fields(self) -> str:
        """Names of the keys that every row must have, one a line."""
        return "\n".join(sorted(self.grader.item_fields()))

    def loss(self, stats: AnswerStats) -> Loss:
        """Sum over the answers, and their number."""
        advantage_N = stats.advantage_E[stats.answer_N]
        ratio_N = (stats.logp_N - stats.drawn_logp_N).exp()
        above = self.clip if self.clip_above is None else self.clip_above
        clipped_N = ratio_N.clamp(1 - self.clip, 1 + above) * advantage_N
        gain_N = (ratio_N * advantage_N).minimum(clipped_N)
        gap_N = stats.reference_logp_N - stats.logp_N
        divergence_N = gap_N.exp() - gap_N - 1
        share_N = self._share(stats)[stats.answer_N]
        of_answer_N = 1 / stats.tokens_E[stats.answer_N]
        return Loss(
            sum=((self.beta * divergence_N - gain_N) * share_N).sum(),
            count=stats.advantage_E.new_tensor(float(len(stats.advantage_E))),
            metrics={
                "reward": stats.reward_E.sum(),
                "reward_deviation": stats.deviation_E.sum(),
                "divergence": (divergence_N * of_answer_N).sum(),
                "clipped": ((clipped_N < ratio_N * advantage_N) * of_answer_N).sum(),
                "answer_tokens": stats.tokens_E.sum(),
                "finished": stats.finished_E.sum(),
                "ungraded": stats.ungraded_E.sum(),
            },
        )

    def _share(self, stats: AnswerStats) -> "Tensor":
        """What a token of each answer counts: [E]."""
        if self.normalisation == "answer":
            return 1 / stats.tokens_E
        size = stats.mean_tokens if self.normalisation == "batch" else stats.mean_tokens.new_tensor(self.max_tokens)
        return (1 / size).expand(len(stats.tokens_E))
