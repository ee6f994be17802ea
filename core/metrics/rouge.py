"""ROUGE: what a summary shares with the reference, as the F1 of precision and recall, averaged over the pairs.

ROUGE-N counts runs of N words, ROUGE-L the longest common subsequence of words. Lin 2004, "ROUGE: A Package for
Automatic Evaluation of Summaries". Words are not stemmed; each Chinese character is one.
"""

from typing import Literal

from core.metrics.ngrams import ngrams, shared
from core.metrics.subsequence import longest_common_subsequence
from core.metrics.tokenization import words

Variant = Literal[1, 2, 3, 4, 5, "l"]


class Rouge:
    """The mean over pairs, from 0 to 1."""

    def __init__(self, variant: Variant) -> None:
        self.variant = variant
        self.sum = 0.0
        self.count = 0

    def add(self, hypothesis: str, reference: str) -> None:
        self.sum += rouge(hypothesis, reference, self.variant)
        self.count += 1

    @property
    def value(self) -> float:
        return self.sum / self.count if self.count else 0.0


def rouge(hypothesis: str, reference: str, variant: Variant) -> float:
    """Of one pair, from 0 to 1."""
    said, wanted = words(hypothesis), words(reference)
    if variant == "l":
        total = len(said) + len(wanted)
        return 2 * longest_common_subsequence(said, wanted) / total if total else 0.0
    said_grams, wanted_grams = ngrams(said, variant), ngrams(wanted, variant)
    total = said_grams.total() + wanted_grams.total()
    return 2 * shared(said_grams, wanted_grams) / total if total else 0.0
