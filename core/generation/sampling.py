"""From logits to a token.

In this order, as OpenAI describes it: bias and penalties on the logits, temperature, `top_k`, `top_p` (Holtzman et al.
2020, arXiv:1904.09751), one uniform number through the inverse of the cumulative distribution. Each answer has its own
generator, so that a seeded answer never depends on who else is being served.

B rows, V vocabulary, C candidates.
"""

import hashlib
from collections import Counter

import torch
from torch import Tensor

from core.errors import CoreError
from core.sampling_params import SamplingParams

Ranked = tuple[float, list[tuple[int, float]]]
"""log-probability of a token, and the most probable tokens at its place with theirs"""
GREEDY_BELOW = 1e-4
"""a temperature that float32 logits should not be divided by"""
FIRST_CANDIDATES = 1024
"""`top_p` sorts no more than this where that is enough: almost always"""


class Sampler:
    """Chooses the tokens of one answer and remembers what it chose.

    `copy` numbers the answers to one prompt, so that they differ under one seed.
    """

    def __init__(self, params: SamplingParams, *, copy: int = 0) -> None:
        self.params = params
        self.counts: Counter[int] = Counter()
        self._is_greedy = params.temperature < GREEDY_BELOW
        self._changes_logits = bool(params.logit_bias or params.presence_penalty or params.frequency_penalty)
        self._takes_best = self._is_greedy and not self._changes_logits
        self.generator = torch.Generator()
        if params.seed is None:
            self.generator.seed()
        else:
            digest = hashlib.sha256(f"{params.seed}/{copy}".encode()).digest()
            self.generator.manual_seed(int.from_bytes(digest[:8], "little") >> 1)
        self._bias_ids = torch.tensor(list(params.logit_bias), dtype=torch.long)
        self._bias = torch.tensor(list(params.logit_bias.values()), dtype=torch.float32)

    def choose(self, logits_V: Tensor, best: int) -> int:
        """Pick the next token and remember it. `logits_V` is float32; `best` is where it is largest."""
        token = best if self._takes_best else self._pick(self._adjusted(logits_V))
        self.counts[token] += 1
        return token

    def _pick(self, logits_V: Tensor) -> int:
        params = self.params
        if self._is_greedy:
            return int(logits_V.argmax())
        logits_V = (logits_V - logits_V.max()) / params.temperature
        if params.top_k == 0 and params.top_p == 1.0:
            return self._draw(logits_V.exp())
        probs_C, ids_C = self._candidates(logits_V)
        return int(ids_C[self._draw(probs_C)])

    def _adjusted(self, logits_V: Tensor) -> Tensor:
        """logit - count * frequency_penalty - (count > 0) * presence_penalty + bias, over what was generated so far."""
        params = self.params
        if not self._changes_logits:
            return logits_V
        logits_V = logits_V.clone()
        if self.counts and (params.frequency_penalty or params.presence_penalty):
            ids = torch.tensor(list(self.counts), device=logits_V.device)
            counts = torch.tensor(list(self.counts.values()), dtype=torch.float32, device=logits_V.device)
            logits_V[ids] -= counts * params.frequency_penalty + params.presence_penalty
        if params.logit_bias:
            logits_V[self._bias_ids.to(logits_V.device)] += self._bias.to(logits_V.device)
        return logits_V

    def _candidates(self, logits_V: Tensor) -> tuple[Tensor, Tensor]:
        """What `top_k` and then `top_p` leave, most probable first; the probabilities need not sum to one."""
        vocab = logits_V.shape[0]
        probs_V = logits_V.softmax(-1)
        num = min(self.params.top_k or vocab, vocab)
        some = min(num, FIRST_CANDIDATES)
        probs_C, ids_C = probs_V.topk(some)
        if self.params.top_p == 1.0:
            return (probs_C, ids_C) if some == num else probs_V.topk(num)
        # top_p is a share of what top_k leaves, so that with a large top_k the whole has to be summed.
        whole = probs_V.topk(num).values.sum() if 0 < self.params.top_k < vocab else torch.ones(())
        if some < num and float(probs_C.sum() / whole) < self.params.top_p:
            probs_C, ids_C = probs_V.topk(num)
        before_C = probs_C.cumsum(-1) - probs_C
        kept = max(1, int((before_C < self.params.top_p * whole).sum()))
        return probs_C[:kept], ids_C[:kept]

    def _draw(self, weights_C: Tensor) -> int:
        cumulative_C = weights_C.double().cumsum(-1)
        at = torch.rand((), generator=self.generator, dtype=torch.float64).to(cumulative_C.device)
        return int(torch.searchsorted(cumulative_C, at * cumulative_C[-1], right=True))


def top_logprobs(logits_BV: Tensor, taken_B: Tensor, num: int) -> list[Ranked]:
    """For each row the log-probability of the token that was taken, and the `num` most probable ones with theirs."""
    logprobs_BV = logits_BV.log_softmax(-1)
    taken = logprobs_BV.gather(-1, taken_B[:, None])[:, 0].tolist()
    best = logprobs_BV.topk(min(num, logits_BV.shape[-1]))
    values, ids = best.values.tolist(), best.indices.tolist()
    return [(t, list(zip(i, v, strict=True))) for t, i, v in zip(taken, ids, values, strict=True)]


def ranked(params: SamplingParams, logits_V: Tensor, token: int) -> Ranked | None:
    """The log-probability of a token that was chosen, where it is wanted."""
    if params.logprobs is None:
        return None
    taken = torch.tensor([token], device=logits_V.device)
    return top_logprobs(logits_V[None], taken, params.logprobs)[0]


def not_finite() -> CoreError:
    return CoreError(
        "The model's output is not finite: its weights hold NaN or infinity, or its activations overflow.",
        code="nonfinite_logits",
    )
