"""What an objective receives and returns. Tensors are for type checkers only: this module never loads torch.

Legend: B batch, T tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class TokenStats:
    """Per-position facts about the target tokens of a micro-batch, all fp32."""

    logp_BT: Tensor
    """log-probability of each target token, nats"""
    log_z_BT: Tensor
    """log of the softmax normaliser at each position"""
    weight_BT: Tensor
    """loss weight of each target: 0 where it is padding, crosses a document, or must not be learned"""
    correct_BT: Tensor
    """1 where the target is the most likely token, else 0"""


@dataclass(frozen=True)
class Loss:
    """A sum and the count it is over; the loop alone divides, over all micro-batches and ranks together."""

    sum: Tensor
    count: Tensor
    metrics: dict[str, Tensor] = field(default_factory=dict)
    """further sums over the same count, by metric name"""
