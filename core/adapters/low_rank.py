"""Linear layers of which only a low-rank part is trained. For all tokens of a row, with W and the bias frozen:

    y = g * (x W^T + f (x A^T) B^T) + bias,   g = 1, or m / |W + f B A| row by row (DoRA)

The way back computes no gradient of W's size, and keeps nothing but what A, B and m need: the input once, in the dtype
of the products, and R numbers a token. With l = x A^T and d the gradient at y before the bias:

    dx = (g d) W + f (g d) B A,   dA = f ((g d) B)^T x,   dB = f (g d)^T l,   dm = sum_n d z / |W + f B A|

The length |W + f B A| counts as a constant, as DoRA's authors advise (arXiv:2402.09353, section 4.3).

Legend: N tokens, I in features, O out features, R rank.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from core.adapters.frozen_weights import FrozenWeight
from core.adapters.spec import LoRA


class FrozenLinear(nn.Module):
    """A linear layer that is not trained, for weights that are not kept as a plain matrix."""

    def __init__(self, weight: FrozenWeight, bias: Tensor | None) -> None:
        super().__init__()
        self.frozen = weight
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        product: Tensor = _Product.apply(x, None, None, None, None, self, compute_dtype(x))  # type: ignore[no-untyped-call]
        return product

    @torch.no_grad()
    def merged(self) -> Tensor:
        """The matrix [O, I] that does the same as this layer, fp32."""
        return self.frozen.dense(torch.float32)


class LowRankLinear(FrozenLinear):
    """A frozen linear layer with a trained low-rank part; `is_off`: as if it had none."""

    squares_O: Tensor
    is_off = False

    def __init__(
        self,
        weight: FrozenWeight,
        bias: Tensor | None,
        spec: LoRA,
        *,
        exact_OI: Tensor,
        generator: torch.Generator,
    ) -> None:
        """`exact_OI`: the matrix in fp32, before `weight` rounded it to the dtype of products."""
        super().__init__(weight, bias)
        out_features, in_features = exact_OI.shape
        self.factor, self.dropout = spec.factor, spec.dropout
        bound = in_features**-0.5
        drawn_RI = torch.empty(spec.rank, in_features).uniform_(-bound, bound, generator=generator)
        self.lora_A = nn.Parameter(drawn_RI.to(exact_OI.device))
        self.lora_B = nn.Parameter(exact_OI.new_zeros(out_features, spec.rank))
        self.lora_magnitude_vector: nn.Parameter | None = None
        if spec.decomposed:
            self.register_buffer("squares_O", exact_OI.square().sum(1), persistent=False)
            self.lora_magnitude_vector = nn.Parameter(self.squares_O.sqrt())

    def forward(self, x: Tensor) -> Tensor:
        if self.is_off:
            return super().forward(x)
        read = functional.dropout(x, self.dropout) if self.dropout and self.training else None
        gain_O = None
        dtype = compute_dtype(x)
        if self.lora_magnitude_vector is not None:
            gain_O = self.lora_magnitude_vector / self.lengths(dtype)
        product: Tensor = _Product.apply(x, read, self.lora_A, self.lora_B, gain_O, self, dtype)  # type: ignore[no-untyped-call]
        return product

    @torch.no_grad()
    def lengths(self, dtype: torch.dtype) -> Tensor:
        """|W + f B A| of each row, fp32, without writing B A out."""
        a_RI, b_OR = self.lora_A, self.lora_B
        with torch.autocast(a_RI.device.type, enabled=False):
            seen_OR = (self.frozen.dense(dtype) @ a_RI.to(dtype).T).to(b_OR.dtype)
            mixed_O = 2 * self.factor * (seen_OR * b_OR).sum(1)
            own_O = self.factor**2 * ((b_OR @ (a_RI @ a_RI.T)) * b_OR).sum(1)
        lengths_O: Tensor = (self.squares_O + mixed_O + own_O).clamp(min=1e-30).sqrt()
        return lengths_O

    @torch.no_grad()
    def merged(self) -> Tensor:
        matrix_OI = self.frozen.dense(torch.float32) + self.factor * (self.lora_B @ self.lora_A)
        if self.lora_magnitude_vector is not None:
            matrix_OI *= (self.lora_magnitude_vector / matrix_OI.norm(dim=1))[:, None]
        return matrix_OI


def compute_dtype(x: Tensor) -> torch.dtype:
    """Of matrix products here and now."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


class _Product(torch.autograd.Function):
    """y of the module's docstring. `read` is x after dropout where there is any: A reads that instead of x."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        read: Tensor | None,
        a_RI: Tensor | None,
        b_OR: Tensor | None,
        gain_O: Tensor | None,
        layer: FrozenLinear,
        dtype: torch.dtype,
    ) -> Tensor:
        ctx.layer, ctx.dtype, ctx.read_apart = layer, dtype, read is not None
        ctx.x_shape, ctx.x_dtype = x.shape, x.dtype
        x_NI = x.reshape(-1, x.shape[-1]).to(dtype)
        bias_O = None if layer.bias is None else layer.bias.to(dtype)
        z_NO = functional.linear(x_NI, layer.frozen.dense(dtype), bias_O if gain_O is None else None)
        if a_RI is None or b_OR is None:
            return z_NO.view(*x.shape[:-1], -1)
        assert isinstance(layer, LowRankLinear)
        ctx.master_dtype = b_OR.dtype
        read_NI = x_NI if read is None else read.reshape(x_NI.shape).to(dtype)
        a_RI, b_OR = a_RI.to(dtype), (layer.factor * b_OR).to(dtype)
        low_NR = read_NI @ a_RI.T
        z_NO.addmm_(low_NR, b_OR.T)
        ctx.save_for_backward(read_NI, low_NR, a_RI, b_OR, gain_O, None if gain_O is None else z_NO)
        if gain_O is None:
            return z_NO.view(*x.shape[:-1], -1)
        y_NO = z_NO * gain_O if bias_O is None else z_NO * gain_O + bias_O
        return y_NO.to(dtype).view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        d_NO = grads[0].reshape(-1, grads[0].shape[-1])
        if not ctx.saved_tensors:
            return _input_grad(ctx, d_NO), None, None, None, None, None, None
        read_NI, low_NR, a_RI, b_OR, gain_O, z_NO = ctx.saved_tensors
        d_gain_O = None
        if gain_O is not None:
            d_gain_O = (d_NO.to(ctx.master_dtype) * z_NO).sum(0)
            d_NO = (d_NO * gain_O).to(ctx.dtype)
        d_low_NR = d_NO @ b_OR
        d_a_RI = d_low_NR.T @ read_NI
        d_b_OR = (d_NO.T @ low_NR).to(ctx.master_dtype) * ctx.layer.factor
        if ctx.read_apart:
            d_read = (d_low_NR @ a_RI).view(ctx.x_shape).to(ctx.x_dtype) if ctx.needs_input_grad[1] else None
            return _input_grad(ctx, d_NO), d_read, d_a_RI, d_b_OR, d_gain_O, None, None
        return _input_grad(ctx, d_NO, d_low_NR, a_RI), None, d_a_RI, d_b_OR, d_gain_O, None, None


def _input_grad(ctx: Any, d_NO: Tensor, d_low_NR: Tensor | None = None, a_RI: Tensor | None = None) -> Tensor | None:
    if not ctx.needs_input_grad[0]:
        return None
    d_x_NI = d_NO @ ctx.layer.frozen.dense(ctx.dtype)
    if d_low_NR is not None and a_RI is not None:
        d_x_NI.addmm_(d_low_NR, a_RI)
    d_x: Tensor = d_x_NI.view(ctx.x_shape).to(ctx.x_dtype)
    return d_x
