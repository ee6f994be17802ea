"""BLEU: how many n-grams of a translation stand in the reference.

    BLEU = 100 * min(1, exp(1 - r/c)) * exp(1/4 sum_{n=1..4} log p_n)

p_n is the clipped precision of n-grams over the whole corpus, c and r the lengths of hypotheses and references. The
k-th precision without any match counts as 1 / (2^k total). Papineni et al. 2002, "BLEU: a Method for Automatic
Evaluation of Machine Translation"; smoothing 3 of Chen and Cherry 2014; as Post 2018, arXiv:1804.08771, reports it.
"""

import math

from core.metrics.ngrams import ngrams, shared
from core.metrics.tokenization import Tokenize, thirteen_a, tokenize_like

ORDER = 4


class Bleu:
    """Of a corpus, from 0 to 100."""

    def __init__(self, tokenize: Tokenize = thirteen_a) -> None:
        self.tokenize = tokenize
        self.matches = [0] * ORDER
        self.totals = [0] * ORDER
        self.hypothesis_words = 0
        self.reference_words = 0

    def add(self, hypothesis: str, reference: str) -> None:
        said, wanted = self.tokenize(hypothesis), self.tokenize(reference)
        self.hypothesis_words += len(said)
        self.reference_words += len(wanted)
        for i in range(ORDER):
            self.matches[i] += shared(ngrams(said, i + 1), ngrams(wanted, i + 1))
            self.totals[i] += max(0, len(said) - i)

    @property
    def value(self) -> float:
        return self._score(ORDER)

    @property
    def value_of_short_texts(self) -> float:
        """The mean goes over the orders that the hypotheses are long enough for."""
        return self._score(sum(total > 0 for total in self.totals))

    def _score(self, order: int) -> float:
        if not any(self.matches) or not all(self.totals[:order]):
            return 0.0
        logs, without_match = 0.0, 0
        for match, total in zip(self.matches[:order], self.totals[:order], strict=True):
            without_match += match == 0
            logs += math.log(match / total if match else 1 / (2**without_match * total))
        brevity = min(0.0, 1 - self.reference_words / self.hypothesis_words)
        return 100 * math.exp(brevity + logs / order)


def sentence_bleu(hypothesis: str, reference: str) -> float:
    """Of one pair, from 0 to 100, cut into words by the reference's language."""
    bleu = Bleu(tokenize_like(reference))
    bleu.add(hypothesis, reference)
    return bleu.value_of_short_texts
