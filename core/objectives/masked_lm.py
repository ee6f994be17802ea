"""Masked language modelling: guess hidden tokens from all that stands around them.

    L = - 1/M sum_{t in hidden} log p(x_t | the text with its hidden tokens replaced)

Of each text 15 % of the tokens are chosen; of these 80 % are replaced by the mask, 10 % by a random token, 10 % stay as
they are. Devlin et al. 2018, arXiv:1810.04805, section 3.1 and appendix A.1. The choice is made anew each time a text
is shown (Liu et al. 2019, RoBERTa, arXiv:1907.11692, section 4.1).

With `next_sentence: binary`, half of the texts are followed by the text that really follows and half by one drawn from
another document, and a second head says which; its loss is added:

    L = - 1/M sum_t log p(x_t | …) - 1/M sum_e m_e log p(follows_e | text e)

m_e counts the hidden tokens of text e, so that sums over micro-batches add up; where all texts have the same length, as
in the paper, the second term is the plain mean over texts.

Legend: E texts, N hidden tokens.
"""

from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from core.data.draws import chosen, integers, uniforms
from core.data.examples import Document
from core.data.packing import Ints, Predicts
from core.loss import Loss, MaskedStats, ObjectiveSpec, Specials
from core.models.config import Kind

REPLACED_BY_MASK, REPLACED_BY_RANDOM = 0.8, 0.1


class MaskedLM(ObjectiveSpec):
    """Pretraining an encoder on plain text."""

    kind: Literal["masked_lm"] = "masked_lm"
    mask_fraction: float = Field(default=0.15, gt=0.0, lt=1.0, description="part of a text's tokens that is hidden")
    next_sentence: Literal["none", "binary"] = Field(
        default="none", description="binary: also say whether the second half of a text follows the first"
    )

    consumes: ClassVar[tuple[type, ...]] = (Document,)
    reads: ClassVar[type] = MaskedStats
    models: ClassVar[tuple[Kind, ...]] = ("encoder",)
    predicts: ClassVar[Predicts] = ("same",)
    encoding: ClassVar[str] = "masked"
    encoding_settings: ClassVar[tuple[str, ...]] = ("next_sentence",)
    windows: ClassVar[bool] = True
    metrics: ClassVar[tuple[str, ...]] = ("loss", "perplexity", "token_accuracy", "next_sentence_accuracy")

    @property
    def next_sentence_head(self) -> bool:
        return self.next_sentence == "binary"

    def corrupt(
        self,
        ids: Ints,
        targets: Ints,
        weights: NDArray[np.float32],
        random: np.random.Generator,
        specials: Specials,
    ) -> None:
        """Hide some of what has a weight; learn only that."""
        places = np.flatnonzero(weights > 0)
        hidden = places[chosen(random, max(1, round(self.mask_fraction * len(places))), len(places))]
        fate = uniforms(random, len(hidden))
        drawn = specials.ordinary[integers(random, len(hidden), len(specials.ordinary))]
        masked, replaced = fate < REPLACED_BY_MASK, fate >= 1 - REPLACED_BY_RANDOM
        assert specials.mask is not None  # `core.data.encodings.masked` has seen to it
        ids[hidden[masked]] = specials.mask
        ids[hidden[replaced]] = drawn[replaced]
        weights[:] = 0.0
        weights[hidden] = 1.0

    def loss(self, stats: MaskedStats) -> Loss:
        """Sum over the hidden tokens, and their number."""
        tokens = stats.tokens
        nll = -(tokens.logp_N * tokens.weight_N).sum()
        total, counts = nll, {}
        if stats.follows_E2 is not None:
            assert stats.follows_E is not None
            assert stats.hidden_E is not None
            logp_E2 = stats.follows_E2.log_softmax(-1)
            right_E = logp_E2[:, 0] * stats.follows_E + logp_E2[:, 1] * (1 - stats.follows_E)
            total = nll - (right_E * stats.hidden_E).sum()
            said_E = (logp_E2[:, 0] > logp_E2[:, 1]).float()
            counts = {
                "follows_right": (said_E == stats.follows_E).float().sum(),
                "follows": stats.follows_E.new_tensor(float(len(said_E))),
            }
        return Loss(
            sum=total,
            count=tokens.weight_N.sum(),
            metrics={"nll": nll, "token_accuracy": (tokens.correct_N * tokens.weight_N).sum()},
            counts=counts,
        )

    def summary(self, counts: dict[str, list[float]], labels: tuple[str, ...]) -> dict[str, float]:
        """How often the second head is right."""
        if "follows" not in counts:
            return {}
        return {"next_sentence_accuracy": counts["follows_right"][0] / max(counts["follows"][0], 1.0)}
