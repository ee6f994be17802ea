"""Beam search over the answers to one source: the W likeliest beginnings are continued side by side, and the best
finished ones are kept (Graves 2012, arXiv:1211.3711; Sutskever et al. 2014, arXiv:1409.3215, section 3.2).

    score of a finished answer = log p(answer) / length^alpha,    alpha = length_penalty

Length counts the token that ends it. The search is over when no beginning, at its present length, is likelier than the
worst of W finished answers; all as in Hugging Face's `generate` with `early_stopping=False`.

W beams, V vocabulary, C candidates.
"""

from collections.abc import Collection
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True)
class Finished:
    score: float
    tokens: list[int]


@dataclass
class BeamSearch:
    """`beams` are the beginnings that are continued; at first there is one, the empty one."""

    num_beams: int
    length_penalty: float
    max_tokens: int
    stop_ids: Collection[int]
    beams: list[list[int]] = field(default_factory=lambda: [[]])
    finished: list[Finished] = field(default_factory=list)
    """the best first, `num_beams` at most"""
    is_over: bool = False
    _scores: list[float] = field(default_factory=lambda: [0.0])
    """log-probabilities of the beams"""

    def advance(self, logp_WV: Tensor) -> list[int]:
        """Go on by one token, from log-probabilities after each beam. Returns which beam each of the next ones comes
        from."""
        length = len(self.beams[0]) + 1
        totals_WV = logp_WV + torch.tensor(self._scores, device=logp_WV.device)[:, None]
        # So many that `num_beams` of them do not end here, whatever the others do.
        count = min((1 + len(self.stop_ids)) * self.num_beams, totals_WV.numel())
        best = totals_WV.flatten().topk(count)
        candidates = [
            (total, at // logp_WV.shape[1], at % logp_WV.shape[1])
            for total, at in zip(best.values.tolist(), best.indices.tolist(), strict=True)
        ]
        is_last = length == self.max_tokens
        ended = [
            Finished(total / length**self.length_penalty, [*self.beams[beam], token])
            for total, beam, token in candidates[: self.num_beams]
            if is_last or token in self.stop_ids
        ]
        ranked = sorted([*self.finished, *ended], key=lambda finished: -finished.score)
        self.finished = ranked[: self.num_beams]
        going_on = [one for one in candidates if one[2] not in self.stop_ids][: self.num_beams]
        self._scores = [total for total, _, _ in going_on]
        parents = [beam for _, beam, _ in going_on]
        self.beams = [[*self.beams[beam], token] for _, beam, token in going_on]
        self.is_over = is_last or not self._may_improve(length)
        return parents

    def _may_improve(self, length: int) -> bool:
        if len(self.finished) < self.num_beams:
            return bool(self.beams)
        return bool(self.beams) and self._scores[0] / length**self.length_penalty > self.finished[-1].score
