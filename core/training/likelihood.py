"""From hidden states to the log-probabilities of the targets, without ever storing all logits.

The output matrix is applied to a chunk of positions at a time, forward and again backward; per position only three
numbers are kept. d logp_n / d logits_nv = [v = target_n] - p_nv and d log Z_n / d logits_nv = p_nv.

Legend: N positions, D hidden size, V vocabulary.
"""

from typing import Any

import torch
from torch import Tensor

from core.loss import TokenStats

CHUNK_NUMBERS = 1 << 23
"""logits that exist at once"""


class _TargetLikelihood(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor, Tensor]:
        matrix_VD = weight_VD.to(dtype)
        logp_N = hidden_ND.new_empty(len(targets_N), dtype=torch.float32)
        log_z_N, correct_N = torch.empty_like(logp_N), torch.empty_like(logp_N)
        for part in _chunks(len(targets_N), len(weight_VD)):
            logits_nV = (hidden_ND[part].to(dtype) @ matrix_VD.T).float()
            log_z_N[part] = logits_nV.logsumexp(-1)
            chosen_n = logits_nV.gather(-1, targets_N[part, None])[:, 0]
            logp_N[part] = chosen_n - log_z_N[part]
            correct_N[part] = (chosen_n >= logits_nV.amax(-1)).float()
        ctx.save_for_backward(hidden_ND, weight_VD, targets_N, log_z_N)
        ctx.dtype = dtype
        ctx.mark_non_differentiable(correct_N)
        return logp_N, log_z_N, correct_N

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None]:
        hidden_ND, weight_VD, targets_N, log_z_N = ctx.saved_tensors
        grad_logp_N, grad_log_z_N = grads[0], grads[1]
        matrix_VD = weight_VD.to(ctx.dtype)
        grad_hidden_ND = torch.empty_like(hidden_ND)
        grad_weight_VD = torch.zeros_like(weight_VD)
        for part in _chunks(len(targets_N), len(weight_VD)):
            rows_nD = hidden_ND[part].to(ctx.dtype)
            grad_nV = ((rows_nD @ matrix_VD.T).float() - log_z_N[part, None]).exp_()
            grad_nV.mul_((grad_log_z_N[part] - grad_logp_N[part])[:, None])
            grad_nV.scatter_add_(-1, targets_N[part, None], grad_logp_N[part, None])
            logits_grad_nV = grad_nV.to(ctx.dtype)
            grad_hidden_ND[part] = (logits_grad_nV @ matrix_VD).to(grad_hidden_ND.dtype)
            grad_weight_VD += logits_grad_nV.T @ rows_nD
        return grad_hidden_ND, grad_weight_VD, None, None


def token_stats(
    hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, weights_N: Tensor, *, dtype: torch.dtype
) -> TokenStats:
    """Likelihood facts of N targets. Matrix products run in `dtype`, everything after them in fp32.

    Args:
        hidden_ND: final hidden states.
        weight_VD: output matrix, fp32.
        targets_N: int64.
        weights_N: loss weights, fp32, above 0.
    """
    logp_N, log_z_N, correct_N = _TargetLikelihood.apply(hidden_ND, weight_VD, targets_N, dtype)  # type: ignore[no-untyped-call]
    return TokenStats(logp_N=logp_N, log_z_N=log_z_N, weight_N=weights_N, correct_N=correct_N)


def _chunks(num_positions: int, vocab_size: int) -> list[slice]:
    size = max(1, CHUNK_NUMBERS // vocab_size)
    return [slice(start, start + size) for start in range(0, num_positions, size)]
