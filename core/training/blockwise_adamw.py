"""AdamW whose moments take a byte each, with a scale for every block of 256 (Dettmers et al. 2022, arXiv:2110.02861).

With M the largest |m| of a block, r = sqrt(v) and S the largest r of the block, the codes are

    127 sign(m) (|m| / M)^(1/4)    and    255 (r / S)^(1/4)

The root makes room for small numbers, as the paper's tree of codes does, without a search in a table. Codes are rounded
with a dither that changes from step to step: a change that is smaller than the distance between two codes would else be
lost every time, and with beta_2 = 0.95 most are. The dither is the fractional part of multiples of irrational numbers,
so that it fills the unit interval evenly, and a resumed run computes the same one.

Weights and all arithmetic are fp32. Legend: N numbers of a tensor, b blocks of n = 256 numbers.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from core.optimizers import BLOCK

CHUNK = 512
"""blocks that are worked on at once: what is computed on the way stays in the processor's cache"""
GOLDEN, SILVER = 0.6180339887498949, 0.4142135623730950
TINY = 1e-38


class BlockwiseAdamW(torch.optim.Optimizer):
    """Groups give `lr` and `weight_decay`."""

    def __init__(self, groups: Iterable[dict[str, Any]], *, betas: tuple[float, float], eps: float) -> None:
        super().__init__(groups, {"lr": 0.0, "betas": betas, "eps": eps, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    state = self.state[parameter] or self._begin(parameter)
                    state["step"] += 1
                    _update(parameter.view(-1), parameter.grad.reshape(-1), state, group)

    def _begin(self, parameter: Tensor) -> dict[str, Tensor]:
        num_blocks = -(-parameter.numel() // BLOCK)
        state: dict[str, Tensor] = self.state[parameter]
        state["step"] = torch.tensor(0.0)
        state["m"] = torch.zeros(num_blocks, BLOCK, dtype=torch.int8, device=parameter.device)
        state["m_scale"] = torch.zeros(num_blocks, device=parameter.device)
        state["r"] = torch.zeros(num_blocks, BLOCK, dtype=torch.uint8, device=parameter.device)
        state["r_scale"] = torch.zeros(num_blocks, device=parameter.device)
        return state


def _update(weights_N: Tensor, grad_N: Tensor, state: dict[str, Tensor], group: dict[str, Any]) -> None:
    step, rate, (beta1, beta2) = int(state["step"]), group["lr"], group["betas"]
    dither_n = dither(step, device=weights_N.device)
    for start in range(0, len(state["m"]), CHUNK):
        chunk, numbers = slice(start, start + CHUNK), slice(start * BLOCK, (start + CHUNK) * BLOCK)
        grad_bn = _in_blocks(grad_N[numbers])
        m_bn = decode(state["m"][chunk], state["m_scale"][chunk]).lerp_(grad_bn, 1 - beta1)
        r_bn = decode(state["r"][chunk], state["r_scale"][chunk])
        r_bn = r_bn.square_().mul_(beta2).addcmul_(grad_bn, grad_bn, value=1 - beta2).sqrt_()
        state["m"][chunk], state["m_scale"][chunk] = encode(m_bn, dither_n, most=127)
        state["r"][chunk], state["r_scale"][chunk] = encode(r_bn, dither_n, most=255)
        update_bn = m_bn.div_(r_bn.mul_((1 - beta2**step) ** -0.5).add_(group["eps"]))
        weights_n = weights_N[numbers].mul_(1 - rate * group["weight_decay"])
        weights_n.add_(update_bn.view(-1)[: len(weights_n)], alpha=-rate / (1 - beta1**step))


def dither(step: int, *, device: torch.device) -> Tensor:
    """What is added to a block's codes before they are cut off, from [0, 1)."""
    places_n = torch.arange(BLOCK, dtype=torch.float64, device=device) * GOLDEN + step * SILVER
    return places_n.frac().float()


def encode(values_bn: Tensor, dither_n: Tensor, *, most: int) -> tuple[Tensor, Tensor]:
    """Codes from -127 (most = 127) or 0 (most = 255) on, and the scale of each block."""
    sizes_bn = values_bn.abs()
    scale_b = sizes_bn.amax(-1)
    roots_bn = sizes_bn.div_(scale_b.clamp(min=TINY)[:, None]).sqrt_().sqrt_()
    codes_bn = roots_bn.mul_(most).add_(dither_n).floor_().clamp_(max=most)
    if most == 127:
        return codes_bn.copysign_(values_bn).to(torch.int8), scale_b
    return codes_bn.clamp_(min=1).to(torch.uint8), scale_b  # a zero beside larger ones: m / sqrt(v) would have no bound


def decode(codes_bn: Tensor, scale_b: Tensor) -> Tensor:
    """The values that codes stand for, fp32."""
    codes = codes_bn.float()
    most = 127 if codes_bn.dtype == torch.int8 else 255
    return (codes * codes.abs()).mul_(codes.square_()).mul_(scale_b[:, None] / most**4)


def _in_blocks(numbers_N: Tensor) -> Tensor:
    """[b, n], the last block filled up with zeros."""
    return functional.pad(numbers_N, (0, -len(numbers_N) % BLOCK)).view(-1, BLOCK)
