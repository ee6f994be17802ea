"""chrF: how many runs of 1 to 6 characters a translation shares with the reference; white space does not count.

    chrF = 100 * (1 + b^2) P R / (b^2 P + R),   b = 2

P and R are the means, over the lengths that both sides have, of precision and recall of such runs over the whole
corpus. Popović 2015, "chrF: character n-gram F-score for automatic MT evaluation". It needs no words, so it suits every
language.
"""

from core.metrics.ngrams import ngrams, shared

ORDER = 6
BETA = 2.0


class ChrF:
    """Of a corpus, from 0 to 100."""

    def __init__(self) -> None:
        self.matches = [0] * ORDER
        self.hypothesis_totals = [0] * ORDER
        self.reference_totals = [0] * ORDER

    def add(self, hypothesis: str, reference: str) -> None:
        said, wanted = "".join(hypothesis.split()), "".join(reference.split())
        for i in range(min(ORDER, len(wanted))):
            self.matches[i] += shared(ngrams(said, i + 1), ngrams(wanted, i + 1))
            self.hypothesis_totals[i] += max(0, len(said) - i)
            self.reference_totals[i] += len(wanted) - i

    @property
    def value(self) -> float:
        counts = zip(self.matches, self.hypothesis_totals, self.reference_totals, strict=True)
        shares = [(match / said, match / wanted) for match, said, wanted in counts if said and wanted]
        precision = sum(share for share, _ in shares) / max(len(shares), 1)
        recall = sum(share for _, share in shares) / max(len(shares), 1)
        if not precision:
            return 0.0
        return 100 * (1 + BETA**2) * precision * recall / (BETA**2 * precision + recall)
