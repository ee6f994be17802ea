"""Fill in the middle: a decoder learns to write what belongs between two pieces of text.

    prefix first   <prefix> A <suffix> C <middle> B <end>
    suffix first   <prefix> <suffix> C <middle> A B <end>
    L = - sum_t log p(x_t | x_<t) over all tokens of the rearranged text

A text is cut at two uniformly random characters into A, B and C, with probability `rate`; else it stays as it is.
Bavarian et al. 2022, arXiv:2207.14255, section 3; suffix first is their "SPM variant 2" (appendix D). Long
texts are first cut into pieces that fit a row (their "context level"). Cuts are drawn once, from the seed and the text.
Label smoothing and z-loss: `core.loss.TokenObjective`.
"""

from typing import ClassVar, Literal

from pydantic import Field

from core.data.examples import Document
from core.loss import TokenObjective


class FillInTheMiddle(TokenObjective):
    """Pretraining a decoder that can also write between two texts."""

    kind: Literal["fill_in_the_middle"] = "fill_in_the_middle"
    rate: float = Field(default=0.5, ge=0.0, le=1.0, description="part of the texts that is rearranged")
    suffix_first: float = Field(
        default=0.5, ge=0.0, le=1.0, description="part of those in which the suffix stands before the prefix"
    )

    consumes: ClassVar[tuple[type, ...]] = (Document,)
    encoding: ClassVar[str] = "fill_in_the_middle"
    encoding_settings: ClassVar[tuple[str, ...]] = ("rate", "suffix_first")
    windows: ClassVar[bool] = True
