"""How far a model's next-token distributions are from a teacher's, without ever storing all logits of either.

As in `core.training.likelihood`, the output matrices meet a few positions at a time. With p and q the softmax of the
model's and the teacher's logits over the temperature tau, at one position:

    forward   D = KL(q || p),   dD / d logits_v = (p_v - q_v) / tau
    reverse   D = KL(p || q),   dD / d logits_v = p_v (log p_v - log q_v - D) / tau

The logits' gradient is g dD / d logits and that of the likelihoods; they are computed again on the way back.

Legend: N positions, n those of one chunk, D hidden size, C the teacher's hidden size, V vocabulary.
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from core.loss import TeacherStats, TokenStats
from core.training.likelihood import CHUNK_NUMBERS

Divergence = Literal["forward", "reverse"]


@dataclass(frozen=True)
class Output:
    """Hidden states, and the output matrix that makes logits of them."""

    hidden_ND: Tensor
    weight_VD: Tensor


class _Divergence(torch.autograd.Function):
    """(logp_N, log_z_N, correct_N, divergence_N) of the targets."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: Tensor,
        weight_VD: Tensor,
        teacher_NC: Tensor,
        teacher_VC: Tensor,
        targets_N: Tensor,
        temperature: float,
        divergence: Divergence,
        dtype: torch.dtype,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        ctx.save_for_backward(hidden_ND, weight_VD, teacher_NC, teacher_VC, targets_N)
        ctx.settings = temperature, divergence, dtype
        matrix_DV, teacher_CV = weight_VD.to(dtype).T, teacher_VC.to(dtype).T
        logp_N = hidden_ND.new_empty(len(targets_N), dtype=torch.float32)
        log_z_N, correct_N, divergence_N = (torch.empty_like(logp_N) for _ in range(3))
        for chunk in _chunks(len(targets_N), len(weight_VD)):
            logits_nV = (hidden_ND[chunk].to(dtype) @ matrix_DV).float()
            logits_n = logits_nV.gather(-1, targets_N[chunk, None])[:, 0]
            log_z_N[chunk] = logits_nV.logsumexp(-1)
            logp_N[chunk] = logits_n - log_z_N[chunk]
            correct_N[chunk] = (logits_n >= logits_nV.amax(-1)).float()
            said_nV = (teacher_NC[chunk].to(dtype) @ teacher_CV).float()
            divergence_N[chunk], _ = _compared(logits_nV, said_nV, temperature, divergence)
        ctx.mark_non_differentiable(correct_N)
        return logp_N, log_z_N, correct_N, divergence_N

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        hidden_ND, weight_VD, teacher_NC, teacher_VC, targets_N = ctx.saved_tensors
        temperature, divergence, dtype = ctx.settings
        grad_logp_N, grad_log_z_N, _, grad_divergence_N = grads
        matrix_VD, teacher_CV = weight_VD.to(dtype), teacher_VC.to(dtype).T
        grad_hidden_ND = torch.empty_like(hidden_ND)
        grad_weight_VD = torch.zeros_like(weight_VD) if ctx.needs_input_grad[1] else None
        for chunk in _chunks(len(targets_N), len(weight_VD)):
            hidden_nD = hidden_ND[chunk].to(dtype)
            logits_nV = (hidden_nD @ matrix_VD.T).float()
            said_nV = (teacher_NC[chunk].to(dtype) @ teacher_CV).float()
            _, grad_nV = _compared(logits_nV, said_nV, temperature, divergence)
            grad_nV *= grad_divergence_N[chunk, None]
            grad_nV += logits_nV.softmax(-1) * (grad_log_z_N - grad_logp_N)[chunk, None]
            grad_nV.scatter_add_(-1, targets_N[chunk, None], grad_logp_N[chunk, None])
            grad_nV = grad_nV.to(dtype)
            grad_hidden_ND[chunk] = (grad_nV @ matrix_VD).to(grad_hidden_ND.dtype)
            if grad_weight_VD is not None:
                grad_weight_VD += grad_nV.T @ hidden_nD
        return grad_hidden_ND, grad_weight_VD, None, None, None, None, None, None


def _compared(logits_nV: Tensor, said_nV: Tensor, temperature: float, divergence: Divergence) -> tuple[Tensor, Tensor]:
    """(the divergence, its gradient by the model's logits): [n], [n, V]."""
    logp_nV = (logits_nV / temperature).log_softmax(-1)
    logq_nV = (said_nV / temperature).log_softmax(-1)
    p_nV = logp_nV.exp()
    if divergence == "forward":
        q_nV = logq_nV.exp()
        return (q_nV * (logq_nV - logp_nV)).sum(-1), (p_nV - q_nV) / temperature
    lead_nV = logp_nV - logq_nV
    divergence_n = (p_nV * lead_nV).sum(-1)
    return divergence_n, p_nV * (lead_nV - divergence_n[:, None]) / temperature


def token_divergence(
    model: Output,
    teacher: Output,
    targets_N: Tensor,
    weights_N: Tensor,
    *,
    temperature: float,
    divergence: Divergence,
    dtype: torch.dtype,
) -> TeacherStats:
    """Facts about N targets. Matrix products run in `dtype`, everything after them in fp32.

    Args:
        teacher: without a gradient; the same vocabulary.
        targets_N: int64.
        weights_N: loss weights, fp32, above 0.
    """
    logp_N, log_z_N, correct_N, divergence_N = _Divergence.apply(  # type: ignore[no-untyped-call]
        *(model.hidden_ND, model.weight_VD, teacher.hidden_ND, teacher.weight_VD),
        *(targets_N, temperature, divergence, dtype),
    )
    return TeacherStats(TokenStats(logp_N, log_z_N, weights_N, correct_N), divergence_N)


def _chunks(num_positions: int, vocab_size: int) -> list[slice]:
    size = max(1, CHUNK_NUMBERS // vocab_size)
    return [slice(start, start + size) for start in range(0, num_positions, size)]
