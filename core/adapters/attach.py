"""An adapter put beside a model's linear layers, and made one with them again.

attach    every weight is frozen; each target becomes a `LowRankLinear`; in bf16 runs, frozen matrices are kept in
          bf16: that is what every product rounds them to anyway, so no bit of a run changes
merge     the linear layers are plain ones again, and do the same as before
"""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from core.adapters import targets
from core.adapters.frozen_weights import DenseWeight, FrozenWeight, Int8Weight, NormalFloat4Weight
from core.adapters.low_rank import FrozenLinear, LowRankLinear
from core.adapters.peft_config import AdapterBase
from core.adapters.quantise import Int8Blocks, quantise
from core.adapters.spec import LoRA
from core.errors import InvalidData
from core.models.transformer import Transformer as Transformer


@dataclass(frozen=True)
class Attached:
    """An adapter beside a model. `layers`: its parts by the names of the linear layers."""

    spec: LoRA
    layers: dict[str, LowRankLinear]
    whole: dict[str, nn.Parameter] = field(default_factory=dict)
    """parameters of the model that are trained as they are: a head"""
    base: AdapterBase | None = None
    """what it is said to stand on when it is saved"""

    def tensors(self) -> dict[str, Tensor]:
        """What is trained, by layer and parameter."""
        beside: dict[str, Tensor] = {
            f"{name}.{part}": parameter
            for name, layer in self.layers.items()
            for part, parameter in layer.named_parameters()
            if parameter.requires_grad
        }
        return beside | self.whole

    @contextmanager
    def off(self) -> Iterator[None]:
        """Within, the model computes what its base does."""
        for layer in self.layers.values():
            layer.is_off = True
        try:
            yield
        finally:
            for layer in self.layers.values():
                layer.is_off = False

    @torch.no_grad()
    def load(self, tensors: dict[str, Tensor]) -> None:
        """Take over the weights of another adapter of the same shape.

        Raises:
            InvalidData: a tensor is missing, too many, or of another shape.
        """
        own = self.tensors()
        if odd := sorted(own.keys() ^ tensors.keys()):
            side = "lack" if odd[0] in own else "also have"
            raise InvalidData(f"the adapter's weights {side} {odd[0]}", code="corrupt_model")
        for name, parameter in own.items():
            if tensors[name].shape != parameter.shape:
                raise InvalidData(
                    f"{name} has shape {list(tensors[name].shape)}, the model needs {list(parameter.shape)}",
                    code="corrupt_model",
                )
            parameter.copy_(tensors[name])


def attach_to(
    model: Transformer, spec: LoRA, *, seed: int = 0, dtype: torch.dtype, base: AdapterBase | None = None
) -> Attached:
    """`attach` to a model of ours, whose linear layers are known."""
    attached = attach(
        model,
        spec,
        linears=targets.linear_layers(model.config),
        chosen=targets.targeted(spec, model.config),
        seed=seed,
        dtype=dtype,
        base=base,
    )
    for name in targets.trained_whole(model.config):
        attached.whole[name] = model.get_parameter(name)
        attached.whole[name].requires_grad_(True)
    return attached


def attach(
    model: nn.Module,
    spec: LoRA,
    *,
    linears: Collection[str],
    chosen: Collection[str],
    seed: int,
    dtype: torch.dtype,
    base: AdapterBase | None = None,
) -> Attached:
    """Freeze `model` and put a fresh adapter beside it, which changes nothing yet.

    Args:
        linears: names of the linear layers of the blocks; `chosen`: those of them that get a low-rank part.
        seed: decides the adapter's first weights.
        dtype: of matrix products; frozen matrices that are not quantised are kept in it.
    """
    model.requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    layers: dict[str, LowRankLinear] = {}
    for name in linears:
        linear = model.get_submodule(name)
        assert isinstance(linear, nn.Linear), f"{name} is no linear layer"
        weight, bias = frozen(linear.weight.detach(), spec, dtype), linear.bias
        if name in chosen:
            exact_OI = linear.weight.detach().float() if spec.quantization == "none" else weight.dense(torch.float32)
            layers[name] = LowRankLinear(weight, bias, spec, exact_OI=exact_OI, generator=generator)
            model.set_submodule(name, layers[name])
        else:
            model.set_submodule(name, FrozenLinear(weight, bias))
    return Attached(spec, layers, base=base)


def frozen(weight_OI: Tensor, spec: LoRA, dtype: torch.dtype) -> FrozenWeight:
    if spec.quantization == "none":
        return DenseWeight(weight_OI.to(dtype))
    values = weight_OI.float().cpu().numpy()
    blocks = quantise(values, spec.quantization, double=spec.double_quantization)
    kept = Int8Weight(blocks) if isinstance(blocks, Int8Blocks) else NormalFloat4Weight(blocks)
    return kept.to(weight_OI.device)


@torch.no_grad()
def merge(model: nn.Module, *, dtype: torch.dtype) -> None:
    """Turn every frozen or low-rank layer into a plain, trainable linear layer that does the same."""
    for name, layer in list(model.named_modules()):
        if not isinstance(layer, FrozenLinear):
            continue
        matrix_OI = layer.merged()
        with torch.device("meta"):
            linear = nn.Linear(matrix_OI.shape[1], matrix_OI.shape[0], bias=layer.bias is not None)
        linear.weight = nn.Parameter(matrix_OI.to(dtype))
        if layer.bias is not None:
            linear.bias = nn.Parameter(layer.bias.detach().to(dtype))
        model.set_submodule(name, linear)
    model.requires_grad_(True)
