"""F1, the harmonic mean of precision and recall: of the words of answers, and of classes.

    F1 = 2 tp / (2 tp + fp + fn)

Of words as in Rajpurkar et al. 2016, arXiv:1606.05250. Of classes: `macro` is the mean of the classes' own, `micro`
that of the summed counts (Manning et al. 2008, "Introduction to Information Retrieval", section 13.6).
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from core.metrics.answers import answer_words
from core.metrics.ngrams import shared


class WordF1:
    """The mean over pairs, from 0 to 1: what an answer shares with the right one."""

    def __init__(self) -> None:
        self.sum = 0.0
        self.count = 0

    def add(self, hypothesis: str, reference: str) -> None:
        said, wanted = answer_words(hypothesis), answer_words(reference)
        if not said and not wanted:
            self.sum += 1.0
        elif said or wanted:
            self.sum += 2 * shared(Counter(said), Counter(wanted)) / (len(said) + len(wanted))
        self.count += 1

    @property
    def value(self) -> float:
        return self.sum / self.count if self.count else 0.0


@dataclass(frozen=True)
class ClassF1:
    macro: float
    micro: float
    each: tuple[float, ...]
    """0 for a class that neither is nor was said; `macro` leaves such classes out"""


def class_f1(
    true_positives: Sequence[float], false_positives: Sequence[float], false_negatives: Sequence[float]
) -> ClassF1:
    """From counts by class."""
    counts = list(zip(true_positives, false_positives, false_negatives, strict=True))
    each = tuple(f1(*count) for count in counts)
    seen = [value for value, count in zip(each, counts, strict=True) if any(count)]
    return ClassF1(
        macro=sum(seen) / len(seen) if seen else 0.0,
        micro=f1(sum(true_positives), sum(false_positives), sum(false_negatives)),
        each=each,
    )


def f1(true_positives: float, false_positives: float, false_negatives: float) -> float:
    """0 where there is nothing to find and nothing was found."""
    total = 2 * true_positives + false_positives + false_negatives
    return 2 * true_positives / total if total else 0.0
