"""From hidden states to the log-probabilities of the targets, without ever storing all logits.

The output matrix meets a few positions at a time, so that their logits stay in the processor's cache. With p the
softmax of position n, a = dL / d logp_n and b = dL / d log Z_n:

    d logp_n / d logits_nv = [v = target_n] - p_nv,   d log Z_n / d logits_nv = p_nv
    dL / d logits_nv = (b - a) p_nv + a [v = target_n]

The probabilities are kept for the way back where they are few, and else computed again (as Wijmans et al. 2024, "Cut
Your Losses in Large-Vocabulary Language Models", arXiv:2411.09009, do for all).

Legend: N positions, n those of one chunk, D hidden size, V vocabulary.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from core.loss import TokenStats

CHUNK_NUMBERS = 1 << 22
"""logits that exist at once: 8 MB in bf16"""
KEPT_NUMBERS = 1 << 26
"""probabilities that are kept for the way back: at most 128 MB in bf16"""


class _TargetLikelihood(torch.autograd.Function):
    """(logp_N, log_z_N, correct_N, entropy_N) of the targets; no entropies where they are not asked for."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor | None,
        targets_N: Tensor,
        dtype: torch.dtype,
        keep: bool,
        with_entropy: bool,
        compiled: bool,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        matrix_VD, hidden_ND = weight_VD.to(dtype), hidden_ND.to(dtype)
        logp_N = hidden_ND.new_empty(len(targets_N), dtype=torch.float32)
        log_z_N, correct_N = torch.empty_like(logp_N), torch.empty_like(logp_N)
        entropy_N = torch.empty_like(logp_N) if with_entropy else logp_N.new_empty(0)
        kept_NV = hidden_ND.new_empty((len(targets_N), len(weight_VD))) if keep else None
        for chunk in _chunks(len(targets_N), len(weight_VD)):
            is_whole = chunk.stop <= len(targets_N)  # what is compiled is compiled for whole chunks
            score = _compiled_score() if compiled and is_whole else _score
            logits_nV = hidden_ND[chunk] @ matrix_VD.T
            kept_nV = None if kept_NV is None else kept_NV[chunk]
            scored = score(logits_nV, bias_V, targets_N[chunk], kept_nV, with_entropy)
            logp_N[chunk], log_z_N[chunk], correct_N[chunk] = scored[:3]
            if scored[3] is not None:
                entropy_N[chunk] = scored[3]
        ctx.save_for_backward(hidden_ND, weight_VD, bias_V, targets_N, logp_N, log_z_N, kept_NV)
        ctx.mark_non_differentiable(correct_N, entropy_N)
        return logp_N, log_z_N, correct_N, entropy_N

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        hidden_ND, weight_VD, bias_V, targets_N, logp_N, log_z_N, kept_NV = ctx.saved_tensors
        grad_logp_N, grad_log_z_N = grads[0], grads[1]
        factor_N = grad_log_z_N - grad_logp_N
        # In fp32 before it is rounded: near p = 1 the difference is all there is.
        grad_target_N = (grad_logp_N + factor_N * logp_N.exp()).to(hidden_ND.dtype)
        matrix_VD = weight_VD.to(hidden_ND.dtype)
        grad_hidden_ND = torch.empty_like(hidden_ND)
        grad_weight_VD: Tensor | None = None
        grad_bias_V: Tensor | None = None

        def learn(grad: Tensor, hidden: Tensor) -> None:
            nonlocal grad_weight_VD, grad_bias_V
            if ctx.needs_input_grad[1]:
                more_VD = (grad.T @ hidden).to(weight_VD.dtype)
                grad_weight_VD = more_VD if grad_weight_VD is None else grad_weight_VD.add_(more_VD)
            if ctx.needs_input_grad[2]:
                more_V = grad.sum(0, dtype=bias_V.dtype)
                grad_bias_V = more_V if grad_bias_V is None else grad_bias_V.add_(more_V)

        for chunk in _chunks(len(targets_N), len(weight_VD)):
            hidden_nD = hidden_ND[chunk]
            if kept_NV is not None:
                grad_nV = kept_NV[chunk]
            else:
                logits_nV = _logits(hidden_nD @ matrix_VD.T, bias_V)
                grad_nV = (logits_nV - log_z_N[chunk, None]).exp_().to(hidden_nD.dtype)
            grad_nV *= factor_N[chunk, None].to(grad_nV.dtype)
            grad_nV[torch.arange(len(grad_nV), device=grad_nV.device), targets_N[chunk]] = grad_target_N[chunk]
            grad_hidden_ND[chunk] = grad_nV @ matrix_VD
            if kept_NV is None:
                learn(grad_nV, hidden_nD)
        if kept_NV is not None:
            learn(kept_NV, hidden_ND)
        return grad_hidden_ND, grad_weight_VD, grad_bias_V, None, None, None, None, None


def _score(
    logits_nV: Tensor, bias_V: Tensor | None, targets_n: Tensor, kept_nV: Tensor | None, with_entropy: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """What a chunk's logits say of its targets; the probabilities go to `kept_nV`."""
    logits_nV = _logits(logits_nV, bias_V)
    logp_nV = logits_nV.log_softmax(-1)
    logp_n = logp_nV.gather(-1, targets_n[:, None])[:, 0]
    log_z_n = logits_nV.gather(-1, targets_n[:, None])[:, 0] - logp_n
    correct_n = (logp_n >= logp_nV.amax(-1)).float()
    if kept_nV is not None:
        kept_nV.copy_(logp_nV.exp())
    return logp_n, log_z_n, correct_n, -(logp_nV.exp() * logp_nV).sum(-1) if with_entropy else None


@cache
def _compiled_score() -> Callable[..., tuple[Tensor, Tensor, Tensor, Tensor | None]]:
    """Three passes over the logits instead of nine."""
    return torch.compile(_score, dynamic=False)


def token_stats(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    targets_N: Tensor,
    weights_N: Tensor,
    *,
    dtype: torch.dtype,
    bias_V: Tensor | None = None,
    with_mean: bool = False,
    with_entropy: bool = False,
    compiled: bool = False,
) -> TokenStats:
    """Likelihood facts of N targets. Matrix products run in `dtype`, everything after them in fp32.

    Args:
        hidden_ND: final hidden states.
        weight_VD: output matrix, fp32.
        targets_N: int64.
        weights_N: loss weights, fp32, above 0.
        bias_V: of the output layer, fp32.
        with_mean: the mean log-probability of the vocabulary too, as label smoothing needs it. The mean of the logits
            is one product with the mean row of the output matrix: no logit is looked at twice.
        with_entropy: the entropy of each prediction too, without a gradient.
        compiled: whole chunks go through code that is compiled for their size.
    """
    # Inside `forward`, torch says that gradients are off.
    keep = torch.is_grad_enabled() and len(targets_N) * len(weight_VD) <= KEPT_NUMBERS
    logp_N, log_z_N, correct_N, entropy_N = _TargetLikelihood.apply(  # type: ignore[no-untyped-call]
        hidden_ND, weight_VD, bias_V, targets_N, dtype, keep, with_entropy, compiled
    )
    mean_logp_N = None
    if with_mean:
        mean_logit_N = hidden_ND.float() @ weight_VD.mean(0)
        mean_logp_N = (mean_logit_N if bias_V is None else mean_logit_N + bias_V.mean()) - log_z_N
    return TokenStats(
        logp_N=logp_N,
        log_z_N=log_z_N,
        weight_N=weights_N,
        correct_N=correct_N,
        mean_logp_N=mean_logp_N,
        entropy_N=entropy_N if with_entropy else None,
    )


def _logits(product: Tensor, bias: Tensor | None) -> Tensor:
    return product.float() if bias is None else product.float() + bias


def _chunks(num_positions: int, vocab_size: int) -> list[slice]:
    size = max(1, CHUNK_NUMBERS // vocab_size)
    return [slice(start, start + size) for start in range(0, num_positions, size)]
