"""Sequence to sequence: likelihood of a target text, given a source text that an encoder reads.

    L = - sum_t log p(y_t | y_<t, x)

Sutskever et al. 2014, arXiv:1409.3215, eq. 1; as a transformer, with label smoothing 0.1: Vaswani et al. 2017,
arXiv:1706.03762, section 5.4 (here it is 0 unless asked for). Label smoothing and z-loss: `core.loss.TokenObjective`.
"""

from typing import ClassVar, Literal

from core.data.examples import PromptCompletion, TextPair
from core.data.packing import Predicts
from core.loss import TokenObjective
from core.models.config import Kind


class SequenceToSequence(TokenObjective):
    """Translation, summaries, answers: an encoder-decoder on pairs of texts."""

    kind: Literal["sequence_to_sequence"] = "sequence_to_sequence"

    consumes: ClassVar[tuple[type, ...]] = (TextPair, PromptCompletion)
    models: ClassVar[tuple[Kind, ...]] = ("encoder_decoder",)
    predicts: ClassVar[Predicts] = ("same", "next")
    metrics: ClassVar[tuple[str, ...]] = (*TokenObjective.metrics, "exact_match")
