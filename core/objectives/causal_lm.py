"""Causal language modelling: maximise the likelihood of each token given those before it.

    L = - sum_t w_t log p(x_t | x_<t) + z * sum_t w_t (log Z_t)^2

Radford et al. 2018, "Improving Language Understanding by Generative Pre-Training", eq. 1; the z term is PaLM's
(Chowdhery et al. 2022, arXiv:2204.02311, section 5), 0 by default.
"""

from typing import ClassVar, Literal

from pydantic import Field

from core.data.examples import Document
from core.loss import Loss, ObjectiveSpec, TokenStats


class CausalLM(ObjectiveSpec):
    """Pretraining on plain text."""

    kind: Literal["causal_lm"] = "causal_lm"
    z_loss: float = Field(default=0.0, ge=0.0, le=1.0)

    consumes: ClassVar[tuple[type, ...]] = (Document,)

    def loss(self, stats: TokenStats) -> Loss:
        """Sum of weighted negative log-likelihoods, nats, over the summed weights."""
        nll = -(stats.logp_N * stats.weight_N).sum()
        z_loss = self.z_loss * (stats.log_z_N.square() * stats.weight_N).sum() if self.z_loss else 0.0
        return Loss(
            sum=nll + z_loss,
            count=stats.weight_N.sum(),
            metrics={"nll": nll, "token_accuracy": (stats.correct_N * stats.weight_N).sum()},
        )
