"""GLEU: of all n-grams, n = 1..4, of hypothesis and reference, how many are shared; the lower of precision and recall.

Wu et al. 2016, "Google's Neural Machine Translation System", arXiv:1609.08144, section 4.3.
"""

from core.metrics.ngrams import ngrams, shared
from core.metrics.tokenization import tokenize_like

ORDER = 4


def sentence_gleu(hypothesis: str, reference: str) -> float:
    """Of one pair, from 0 to 1, cut into words by the reference's language."""
    tokenize = tokenize_like(reference)
    said, wanted = tokenize(hypothesis), tokenize(reference)
    matches = sum(shared(ngrams(said, n), ngrams(wanted, n)) for n in range(1, ORDER + 1))
    most = max(_number_of_ngrams(len(said)), _number_of_ngrams(len(wanted)))
    return matches / most if most else 0.0


def _number_of_ngrams(words: int) -> int:
    return sum(max(0, words - n) for n in range(ORDER))
