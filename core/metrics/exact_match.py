"""Exact match: the share of answers that are right to the word (see `core.metrics.answers`)."""

from core.metrics.answers import answer_words


class ExactMatch:
    """The mean over pairs, from 0 to 1."""

    def __init__(self) -> None:
        self.right = 0
        self.count = 0

    def add(self, hypothesis: str, reference: str) -> None:
        self.right += answer_words(hypothesis) == answer_words(reference)
        self.count += 1

    @property
    def value(self) -> float:
        return self.right / self.count if self.count else 0.0
