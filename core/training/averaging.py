"""The running average of the weights that are trained: what is evaluated, shown and given away in their place.

After step t, with w the weights (Polyak and Juditsky 1992; Morales-Brotons et al. 2024, arXiv:2411.18704):

    average <- d average + (1 - d) w        d = min(decay, (1 + t) / (10 + t))

The smaller d of the first steps lets go of the weights that the run began with.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Average:
    """Of the parameters of `model` that are trained; it begins at what they are now."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self._parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self._values = {name: p.detach().clone() for name, p in self._parameters.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after step `step`, counted from 1."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self._values.values()), self.trained(), 1.0 - decay)

    def trained(self) -> list[Tensor]:
        """The weights that the optimizer moves, in the order of their names in the model."""
        return [parameter.detach() for parameter in self._parameters.values()]

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Within, the model has the average for its weights. Nothing is copied."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def state(self) -> dict[str, Tensor]:
        """The trained weights by name; the average itself is the model that is given away."""
        return dict(zip(self._parameters, self.trained(), strict=True))

    @torch.no_grad()
    def resume(self, weights: Mapping[str, Tensor]) -> None:
        """Called when the model holds the average that a checkpoint gave away: put `state()` of then back."""
        for name, parameter in self._parameters.items():
            self._values[name].copy_(parameter)
            parameter.copy_(weights[name])

    def _swap(self) -> None:
        for name, parameter in self._parameters.items():
            parameter.data, self._values[name] = self._values[name], parameter.data
