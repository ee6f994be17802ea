"""Causal language modelling: maximise the likelihood of each token given those before it.

    L = - sum_t w_t log p(x_t | x_<t)

Radford et al. 2018, "Improving Language Understanding by Generative Pre-Training", eq. 1. Label smoothing and z-loss:
`core.loss.TokenObjective`.
"""

from typing import ClassVar, Literal

from core.data.examples import Document
from core.loss import TokenObjective


class CausalLM(TokenObjective):
    """Pretraining on plain text."""

    kind: Literal["causal_lm"] = "causal_lm"

    consumes: ClassVar[tuple[type, ...]] = (Document,)
    metrics: ClassVar[tuple[str, ...]] = (*TokenObjective.metrics, "bits_per_byte")
