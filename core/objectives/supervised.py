"""Supervised fine-tuning: likelihood of what the assistant should say, given everything before it.

    L = - sum_t w_t log p(x_t | x_<t),   w_t = the turn's weight on assistant tokens, 0 elsewhere

Ouyang et al. 2022, "Training language models to follow instructions with human feedback", arXiv:2203.02155.
Which tokens belong to the assistant is decided by `core.data.chat_template`, not here. Label smoothing and z-loss:
`core.loss.TokenObjective`.
"""

from typing import ClassVar, Literal

from core.data.examples import Conversation, PromptCompletion
from core.loss import TokenObjective


class Supervised(TokenObjective):
    """Fine-tuning on conversations (assistant turns) or on prompts with completions."""

    kind: Literal["supervised"] = "supervised"

    consumes: ClassVar[tuple[type, ...]] = (Conversation, PromptCompletion)
    metrics: ClassVar[tuple[str, ...]] = (*TokenObjective.metrics, "exact_match")
