"""The optimizer's spec as torch's optimizer."""

import torch
from torch import nn

from core.job_spec import AdamW


def build(spec: AdamW, model: nn.Module) -> torch.optim.Optimizer:
    """AdamW in one fused pass over each tensor. Only matrices decay: a norm's weights have nothing to decay to.

    The loop sets the learning rate before each step.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": spec.weight_decay},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=0.0, betas=spec.betas, eps=spec.eps, fused=True)
