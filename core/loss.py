"""What an objective receives and returns. Tensors are for type checkers only: this module never loads torch.

Legend: N positions that carry a loss weight, over all rows of a micro-batch.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class TokenStats:
    """Facts about the target tokens of a micro-batch, all fp32. Positions with weight 0 are not here."""

    logp_N: Tensor
    """log-probability of each target token, nats"""
    log_z_N: Tensor
    """log of the softmax normaliser at each position"""
    weight_N: Tensor
    """loss weight of each target, above 0"""
    correct_N: Tensor
    """1 where the target is the most likely token, else 0"""


@dataclass(frozen=True)
class Loss:
    """A sum and the count it is over; the loop alone divides, over all micro-batches and ranks together."""

    sum: Tensor
    count: Tensor
    metrics: dict[str, Tensor] = field(default_factory=dict)
    """further sums over the same count, by metric name"""
