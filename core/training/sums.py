"""Running sums of losses and metrics over micro-batches or validation batches: nothing is stacked, one division."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from core.loss import Loss


@dataclass
class Sums:
    """Kept as fp64 tensors on their device, so that a GPU need not wait to be read after each micro-batch."""

    loss: Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.float64))
    weight: Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.float64))
    metrics: dict[str, Tensor] = field(default_factory=dict)
    counts: dict[str, Tensor] = field(default_factory=dict)

    def add(self, loss: Loss) -> None:
        self.loss = self.loss.to(loss.sum.device) + loss.sum.detach().double()
        self.weight = self.weight.to(loss.sum.device) + loss.count.double()
        for sums, values in ((self.metrics, loss.metrics), (self.counts, loss.counts)):
            for name, value in values.items():
                sums[name] = sums.get(name, 0.0) + value.detach().double()

    @property
    def count(self) -> float:
        """Never 0: nothing over nothing is 0 here."""
        return float(self.weight) or 1.0

    @property
    def mean_loss(self) -> float:
        return float(self.loss) / self.count

    @property
    def mean_metrics(self) -> dict[str, float]:
        return {name: float(value) / self.count for name, value in self.metrics.items()}

    @property
    def summed_counts(self) -> dict[str, list[float]]:
        """Of each, its numbers, flattened."""
        return {name: value.flatten().tolist() for name, value in self.counts.items()}
