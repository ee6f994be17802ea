"""The optimizer's spec as torch's optimizer, and the learning rate that it gets before each step."""

import re
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, assert_never

import torch
from torch import nn

from core.optimizers import SGD, Adafactor, AdamW, Muon, Optimizer, OptimizerSpec, is_block_matrix, is_quantized
from core.training.blockwise_adamw import BlockwiseAdamW

Groups = list[dict[str, Any]]
Build = Callable[[Groups], torch.optim.Optimizer]
ADAFACTOR_FLOORS = (1e-18, 1e-3)
"""of the root of its second moments, below which it takes no step (its square is still a number in fp32), and of a
tensor's root mean square, which its steps are relative to (the paper's second epsilon)"""
_LAYER = re.compile(r"(?P<tower>.*\blayers)\.(?P<index>\d+)\.")


def build(spec: Optimizer, model: nn.Module) -> torch.optim.Optimizer:
    """Over the parameters of `model` that are trained."""
    match spec:
        case AdamW(state="fp32"):
            return _adamw(spec)(_groups(spec, model))
        case AdamW():
            blockwise = partial(BlockwiseAdamW, betas=spec.betas, eps=spec.eps)
            return Together(
                (blockwise, _groups(spec, model, lambda name, shape: is_quantized(shape))),
                (_adamw(spec), _groups(spec, model, lambda name, shape: not is_quantized(shape))),
            )
        case Muon():
            muon = partial(torch.optim.Muon, momentum=spec.momentum, adjust_lr_fn="match_rms_adamw")
            return Together(
                (muon, _groups(spec, model, is_block_matrix)),
                (_adamw(spec), _groups(spec, model, lambda name, shape: not is_block_matrix(name, shape))),
            )
        case Adafactor():
            return torch.optim.Adafactor(_groups(spec, model), eps=ADAFACTOR_FLOORS, d=spec.clip_threshold)
        case SGD():
            nesterov = spec.momentum > 0.0
            return torch.optim.SGD(_groups(spec, model), momentum=spec.momentum, nesterov=nesterov, fused=True)
        case _:
            assert_never(spec)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Of the next step; each group takes its share of it."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["fraction"]


class Together(torch.optim.Optimizer):
    """Several optimizers, each over its own parameters, as one: with one list of groups and one state."""

    def __init__(self, *parts: tuple[Build, Groups]) -> None:
        self.members = [build(groups) for build, groups in parts if groups]
        super().__init__([group for member in self.members for group in member.param_groups], {})
        for member in self.members:
            member.state = self.state

    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for member in self.members:
            member.step()


def _adamw(spec: AdamW | Muon) -> Build:
    """One fused pass over each tensor."""
    return partial(torch.optim.AdamW, lr=0.0, betas=spec.betas, eps=spec.eps, fused=True)


def _groups(
    spec: OptimizerSpec,
    model: nn.Module,
    wanted: Callable[[str, tuple[int, ...]], bool] = lambda name, shape: True,
) -> Groups:
    """Parameters that share weight decay and their fraction of the learning rate."""
    fractions = layer_fractions([name for name, _ in model.named_parameters()], spec.layer_decay)
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and wanted(name, tuple(parameter.shape)):
            decay = spec.weight_decay if parameter.dim() > 1 else 0.0
            groups.setdefault((decay, fractions[name]), []).append(parameter)
    return [
        {"params": parameters, "weight_decay": decay, "fraction": fraction}
        for (decay, fraction), parameters in groups.items()
    ]


def layer_fractions(names: Iterable[str], decay: float) -> dict[str, float]:
    """`decay` to the number of layers from the head down to a parameter: 0 for the head and the last norm, 1 for the
    last layer, one more than there are layers for the embeddings (Bao et al. 2022, arXiv:2106.08254, appendix)."""
    places = {name: _LAYER.match(name) for name in names}
    layers: dict[str, int] = {}
    for place in filter(None, places.values()):
        layers[place["tower"]] = max(layers.get(place["tower"], 0), int(place["index"]) + 1)

    def below_head(name: str, place: re.Match[str] | None) -> int:
        if place is not None:
            return layers[place["tower"]] - int(place["index"])
        return max(layers.values(), default=0) + 1 if "embed" in name else 0

    return {name: decay ** below_head(name, place) for name, place in places.items()}
